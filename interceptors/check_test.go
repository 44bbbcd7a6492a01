package interceptors_test

import (
	"math"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// limits is a policy with one rate limit.
func limits(rule *policyv1.RateLimitRule) *policyv1.MethodPolicy {
	return &policyv1.MethodPolicy{RateLimits: []*policyv1.RateLimitRule{rule}}
}

func retries(rule *policyv1.RetryRule) *policyv1.MethodPolicy {
	return &policyv1.MethodPolicy{Retry: rule}
}

func concurrent(rule *policyv1.ConcurrencyRule) *policyv1.MethodPolicy {
	return &policyv1.MethodPolicy{Concurrency: rule}
}

func caches(rule *policyv1.CacheRule) *policyv1.MethodPolicy {
	return &policyv1.MethodPolicy{Cache: rule}
}

func metadataKey(key string) *policyv1.RateLimitKey {
	return &policyv1.RateLimitKey{By: &policyv1.RateLimitKey_Metadata{Metadata: key}}
}

func fieldKey(path string) *policyv1.RateLimitKey {
	return &policyv1.RateLimitKey{By: &policyv1.RateLimitKey_Field{Field: path}}
}

// Every wrong value is an error that names the field and the value, for the
// builder and for the operator alike.
//
// Case X10 (chain, balancer)
func TestWrongValuesAreRefused(t *testing.T) {
	tests := []struct {
		policy *policyv1.MethodPolicy
		want   []string // parts of the error
	}{
		{&policyv1.MethodPolicy{Timeout: ptr("5")}, []string{"default.timeout", `"5"`}},
		{&policyv1.MethodPolicy{Timeout: ptr("")}, []string{"default.timeout", `""`}},
		{caches(&policyv1.CacheRule{Ttl: ptr("soon")}), []string{"default.cache.ttl", `"soon"`}},
		{caches(&policyv1.CacheRule{Vary: []string{"ok", "Accept Language"}}), []string{"default.cache.vary[1]", `"Accept Language"`}},
		{caches(&policyv1.CacheRule{Vary: []string{""}}), []string{"default.cache.vary[0]", `""`}},
		{caches(&policyv1.CacheRule{StaleIfError: ptr("long")}), []string{"default.cache.stale_if_error", `"long"`}},
		{caches(&policyv1.CacheRule{Negative: []*policyv1.NegativeRule{{Code: "NOT_FOUND"}}}), []string{"default.cache.negative[0].ttl", `""`}},
		{caches(&policyv1.CacheRule{Negative: []*policyv1.NegativeRule{{Code: "NOT_FOUND", Ttl: "0s"}}}), []string{"default.cache.negative[0].ttl", "0"}},
		{caches(&policyv1.CacheRule{Negative: []*policyv1.NegativeRule{{Code: "404", Ttl: "1s"}}}), []string{"default.cache.negative[0].code", `"404"`}},
		{caches(&policyv1.CacheRule{Negative: []*policyv1.NegativeRule{{Code: "PERMISSION_DENIED", Ttl: "1s"}}}), []string{"default.cache.negative[0].code", "NOT_FOUND"}},
		{caches(&policyv1.CacheRule{Negative: []*policyv1.NegativeRule{{Code: "NOT_FOUND", Ttl: "1s"}, {Code: "NOT_FOUND", Ttl: "2s"}}}), []string{"default.cache.negative[1].code", `"NOT_FOUND" is given twice`}},
		{limits(&policyv1.RateLimitRule{Limit: ptr(uint64(0))}), []string{"default.rate_limits[0].limit", "0"}},
		{limits(&policyv1.RateLimitRule{Limit: ptr(uint64(1)), Burst: ptr(uint64(0))}), []string{"default.rate_limits[0].burst"}},
		{limits(&policyv1.RateLimitRule{Limit: ptr(uint64(1)), Cost: ptr(uint64(0))}), []string{"default.rate_limits[0].cost"}},
		{limits(&policyv1.RateLimitRule{Limit: ptr(uint64(1)), Period: ptr("1 fortnight")}), []string{"default.rate_limits[0].period", "fortnight"}},
		{limits(&policyv1.RateLimitRule{Limit: ptr(uint64(1)), Period: ptr("0s")}), []string{"default.rate_limits[0].period", "0"}},
		{limits(&policyv1.RateLimitRule{Limit: ptr(uint64(1)), Key: metadataKey("Customer")}), []string{"default.rate_limits[0].key.metadata", `"Customer"`}},
		{limits(&policyv1.RateLimitRule{Limit: ptr(uint64(1)), MissingKey: 9}), []string{"default.rate_limits[0].missing_key", "9", "MISSING_KEY_REFUSE"}},
		{limits(&policyv1.RateLimitRule{Limit: ptr(uint64(1)), MissingKey: policyv1.MissingKey_MISSING_KEY_REFUSE}), []string{"rate_limits[0].missing_key", "MISSING_KEY_REFUSE", "MISSING_KEY_SHARED"}},
		{limits(&policyv1.RateLimitRule{Limit: ptr(uint64(1)), Key: metadataKey("customer"), Side: policyv1.Side_SIDE_BOTH, MissingKey: policyv1.MissingKey_MISSING_KEY_PEER}), []string{"rate_limits[0].missing_key", "SIDE_BOTH"}},
		{limits(&policyv1.RateLimitRule{Limit: ptr(uint64(1)), Key: &policyv1.RateLimitKey{By: &policyv1.RateLimitKey_Peer{
			Peer: &policyv1.PeerKey{Ipv6Prefix: ptr(uint32(129))}}}}), []string{"default.rate_limits[0].key.peer.ipv6_prefix", "129"}},
		{caches(&policyv1.CacheRule{StaleWhileRevalidate: ptr("5 min of stale")}), []string{"default.cache.stale_while_revalidate", "5 min of stale"}},
		{caches(&policyv1.CacheRule{EarlyRefresh: ptr(math.NaN())}), []string{"default.cache.early_refresh", "NaN"}},
		{caches(&policyv1.CacheRule{EarlyRefresh: ptr(-1.0)}), []string{"default.cache.early_refresh", "-1"}},
		{caches(&policyv1.CacheRule{MaxShare: ptr(0.0)}), []string{"default.cache.max_share", "0 is not above 0"}},
		{caches(&policyv1.CacheRule{MaxShare: ptr(1.5)}), []string{"default.cache.max_share", "1.5"}},
		{concurrent(&policyv1.ConcurrencyRule{Min: ptr(uint32(0)), Max: ptr(uint32(5))}), []string{"default.concurrency.min", "0"}},
		{concurrent(&policyv1.ConcurrencyRule{Min: ptr(uint32(6)), Max: ptr(uint32(5))}), []string{"default.concurrency.min", "6", "max of 5"}},
		{concurrent(&policyv1.ConcurrencyRule{Max: ptr(uint32(5)), PriorityMetadata: ptr("Priority")}), []string{"default.concurrency.priority_metadata", `"Priority"`}},
		{concurrent(&policyv1.ConcurrencyRule{Adaptive: ptr(true)}), []string{"GetSweet", "concurrency.max", "missing"}},
		{limits(&policyv1.RateLimitRule{Limit: ptr(uint64(1)), WarmUp: ptr("slowly")}), []string{"default.rate_limits[0].warm_up", `"slowly"`}},
		{limits(&policyv1.RateLimitRule{Limit: ptr(uint64(1)), CostMetadata: ptr("Cost")}), []string{"default.rate_limits[0].cost_metadata", `"Cost"`}},
		{limits(&policyv1.RateLimitRule{Limit: ptr(uint64(1)), Refund: 9}), []string{"default.rate_limits[0].refund", "REFUND_FAILED"}},
		{limits(&policyv1.RateLimitRule{Limit: ptr(uint64(1)), Store: 9}), []string{"default.rate_limits[0].store", "RATE_LIMIT_STORE_EXTERNAL"}},
		{limits(&policyv1.RateLimitRule{Limit: ptr(uint64(1)), Store: policyv1.RateLimitStore_RATE_LIMIT_STORE_PER_REPLICA, OnStoreFailure: policyv1.StoreFailure_STORE_FAILURE_OPEN}), []string{"default.rate_limits[0].on_store_failure", "RATE_LIMIT_STORE_PER_REPLICA asks no store"}},
		{limits(&policyv1.RateLimitRule{Limit: ptr(uint64(1)), OnStoreFailure: 9}), []string{"default.rate_limits[0].on_store_failure", "STORE_FAILURE_CLOSED"}},
		{retries(&policyv1.RetryRule{MaxAttempts: ptr(uint32(0))}), []string{"default.retry.max_attempts", "0"}},
		{retries(&policyv1.RetryRule{MaxAttempts: ptr(uint32(11))}), []string{"default.retry.max_attempts", "11"}},
		{retries(&policyv1.RetryRule{InitialBackoff: ptr("x")}), []string{"default.retry.initial_backoff", `"x"`}},
		{retries(&policyv1.RetryRule{MaxBackoff: ptr("x")}), []string{"default.retry.max_backoff", `"x"`}},
		{retries(&policyv1.RetryRule{PerAttemptTimeout: ptr("x")}), []string{"default.retry.per_attempt_timeout", `"x"`}},
		{retries(&policyv1.RetryRule{BackoffMultiplier: ptr(0.5)}), []string{"default.retry.backoff_multiplier", "0.5"}},
		{retries(&policyv1.RetryRule{BackoffMultiplier: ptr(math.NaN())}), []string{"default.retry.backoff_multiplier", "NaN"}},
		{retries(&policyv1.RetryRule{Budget: ptr(1.5)}), []string{"default.retry.budget", "1.5"}},
		{retries(&policyv1.RetryRule{Budget: ptr(math.NaN())}), []string{"default.retry.budget", "NaN"}},
		{retries(&policyv1.RetryRule{Codes: []string{"UNAVAILABLE", "Unavailable"}}), []string{"default.retry.codes[1]", `"Unavailable"`}},
	}
	for _, tt := range tests {
		refused(t, forAll(tt.policy), tt.want...)
	}
}

// What only shows with the contract: names, request fields, side effects, and
// limits that no layer gives a number.
func TestRulesThatTheContractContradictsAreRefused(t *testing.T) {
	tests := []struct {
		method string
		policy *policyv1.MethodPolicy
		want   []string
	}{
		{"NoSuch", &policyv1.MethodPolicy{}, []string{`methods["NoSuch"]`}},
		{"sweetshop.catalog.v1.CatalogService/NoSuch", &policyv1.MethodPolicy{}, []string{"CatalogService/NoSuch"}},
		{"GetSweet", &policyv1.MethodPolicy{RateLimits: []*policyv1.RateLimitRule{{Limit: ptr(uint64(5))}, {Limit: ptr(uint64(1000))}}}, []string{"rate_limits[1].name", "twice"}},
		{"/GetSweet", &policyv1.MethodPolicy{}, []string{`methods["/GetSweet"]`}},
		{"GetSweet/", &policyv1.MethodPolicy{}, []string{`methods["GetSweet/"]`}},
		{"/sweetshop.catalog.v1.CatalogService/GetSweet", &policyv1.MethodPolicy{}, []string{"package.Service/Method"}},
		{"GetSweet", limits(&policyv1.RateLimitRule{Limit: ptr(uint64(5)), Cost: ptr(uint64(6))}), []string{"rate_limits[0].cost", "burst of 5"}},
		{"GetSweet", &policyv1.MethodPolicy{Timeout: ptr("x")}, []string{`methods["GetSweet"].timeout`, `"x"`}},
		{"GetSweet", caches(&policyv1.CacheRule{KeyFields: []string{"id", "sweet"}}), []string{"GetSweet", "cache.key_fields[1]", `"sweet"`}},
		{"GetSweet", caches(&policyv1.CacheRule{KeyFields: []string{"id.name"}}), []string{"cache.key_fields[0]", "id.name"}},
		{"GetStock", caches(&policyv1.CacheRule{KeyFields: []string{""}}), []string{"cache.key_fields[0]"}},
		{"GetSweet", limits(&policyv1.RateLimitRule{Limit: ptr(uint64(1)), Key: fieldKey("customer")}), []string{"rate_limits[0].key.field", `"customer"`}},
		{"GetSweet", limits(&policyv1.RateLimitRule{Name: "new"}), []string{"GetSweet", "rate_limits[0].limit"}},
		{"GetSweet", limits(&policyv1.RateLimitRule{Limit: ptr(uint64(1)), WarmUp: ptr("1s"), Store: policyv1.RateLimitStore_RATE_LIMIT_STORE_EXTERNAL}), []string{"rate_limits[0].warm_up", "keeps no unused key"}},
		{"GetSweet", limits(&policyv1.RateLimitRule{Limit: ptr(uint64(1)), OnStoreFailure: policyv1.StoreFailure_STORE_FAILURE_OPEN}), []string{"rate_limits[0].on_store_failure", "store: RATE_LIMIT_STORE_EXTERNAL"}},
		{"Reserve", caches(&policyv1.CacheRule{Ttl: ptr("1s")}), []string{`methods["Reserve"]`, "cache.ttl", "side effects"}},
		{"Reserve", retries(&policyv1.RetryRule{MaxAttempts: ptr(uint32(2))}), []string{`methods["Reserve"]`, "retry.max_attempts"}},
		{"Reserve", &policyv1.MethodPolicy{Cache: &policyv1.CacheRule{Ttl: ptr("1s"), AllowSideEffects: ptr(true)}, Invalidates: &policyv1.Invalidation{Tags: []string{"stock"}}}, []string{"invalidates: sweetshop.inventory.v1.InventoryService.Reserve is cached, too", "without a change"}},
	}
	for _, tt := range tests {
		refused(t, forMethod(tt.method, tt.policy), tt.want...)
	}
}

func TestRulesThatAreRightAreTaken(t *testing.T) {
	for name, policy := range map[string]*policyv1.ServicePolicy{
		"method of a service that is not linked":  forMethod("other.v1.OtherService/Do", &policyv1.MethodPolicy{Timeout: ptr("1s")}),
		"default that some methods cannot have":   forAll(&policyv1.MethodPolicy{Cache: &policyv1.CacheRule{Ttl: ptr("1s")}, Retry: &policyv1.RetryRule{MaxAttempts: ptr(uint32(2))}}),
		"limit that is dropped":                   forMethod("Browse", limits(&policyv1.RateLimitRule{Name: "customer", Disabled: ptr(true)})),
		"ttl of 0 for a method with side effects": forMethod("Reserve", caches(&policyv1.CacheRule{Ttl: ptr("0s")})),
		"side effects that are allowed":           forMethod("Reserve", retries(&policyv1.RetryRule{MaxAttempts: ptr(uint32(2)), AllowSideEffects: ptr(true)})),
		"concurrency without a limit":             forMethod("GetSweet", concurrent(&policyv1.ConcurrencyRule{Min: ptr(uint32(5)), Max: ptr(uint32(0))})),
		"request field":                           forMethod("Browse", limits(&policyv1.RateLimitRule{Name: "section", Limit: ptr(uint64(1)), Key: fieldKey("section")})),
	} {
		if _, err := interceptors.NewPolicies(policy); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDefaultsMakeNothingPublicThatIsPrivate(t *testing.T) {
	policies := newPolicies(t, forMethod("GetSweet", caches(&policyv1.CacheRule{Scope: policyv1.CacheScope_CACHE_SCOPE_PRIVATE})))
	if err := policies.SetOperator(forAll(caches(&policyv1.CacheRule{Scope: policyv1.CacheScope_CACHE_SCOPE_PUBLIC}))); err != nil {
		t.Fatal(err)
	}
	if got := policies.Call(interceptors.Client, "/sweetshop.catalog.v1.CatalogService/GetSweet").Policy.GetCache().GetScope(); got != policyv1.CacheScope_CACHE_SCOPE_PRIVATE {
		t.Errorf("a default makes private answers %v", got)
	}
}

// X10, as far as the chain goes: the old policy stays.
//
// Case X10 (chain, balancer): A bad policy or config leaves the old one.
func TestRefusedOperatorLeavesTheOldPolicy(t *testing.T) {
	policies := newPolicies(t, nil)
	if err := policies.SetOperator(forAll(&policyv1.MethodPolicy{Timeout: ptr("700ms")})); err != nil {
		t.Fatal(err)
	}
	bad := forAll(&policyv1.MethodPolicy{Timeout: ptr("1s"), Retry: &policyv1.RetryRule{MaxAttempts: ptr(uint32(99))}})
	if err := policies.SetOperator(bad); err == nil {
		t.Fatal("accepted")
	}
	if got := policies.Call(interceptors.Client, getSweet).Policy; got.GetTimeout() != "700ms" || got.GetRetry().GetMaxAttempts() != 3 {
		t.Errorf("policy %v", got)
	}
}

// refused wants an error with all parts, in a line per fault.
func refused(t *testing.T, policy *policyv1.ServicePolicy, want ...string) {
	t.Helper()
	_, asBuilder := interceptors.NewPolicies(policy)
	asOperator := newPolicies(t, nil).SetOperator(policy)
	for _, err := range []error{asBuilder, asOperator} {
		if err == nil {
			t.Errorf("%v was accepted, want an error with %q", policy, want)
			continue
		}
		for _, part := range want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%v: error %q does not say %q", policy, err, part)
			}
		}
	}
}

// The bounds of an adaptive limit may come from different layers, and are checked as
// they come together.
func TestBoundsOfConcurrencyAreCheckedAsTheyComeTogether(t *testing.T) {
	policies := newPolicies(t, forMethod("GetSweet", concurrent(&policyv1.ConcurrencyRule{Min: ptr(uint32(5)), Max: ptr(uint32(50)), Adaptive: ptr(true)})))
	err := policies.SetOperator(forMethod("GetSweet", concurrent(&policyv1.ConcurrencyRule{Max: ptr(uint32(4))})))
	if err == nil || !strings.Contains(err.Error(), "concurrency.min: 5 is more than the max of 4") {
		t.Errorf("error %v", err)
	}
	if err := policies.SetOperator(forMethod("GetSweet", concurrent(&policyv1.ConcurrencyRule{Max: ptr(uint32(0))}))); err != nil {
		t.Errorf("the limit cannot be turned off: %v", err)
	}
}

// An operator takes a limit out of its store, whatever the layers below say of failures.
func TestAnOperatorTakesALimitOutOfItsStore(t *testing.T) {
	rule := func(change func(*policyv1.RateLimitRule)) *policyv1.ServicePolicy {
		r := &policyv1.RateLimitRule{Name: "one", Limit: ptr(uint64(1))}
		change(r)
		return forAll(limits(r))
	}
	policies, err := interceptors.NewPolicies(rule(func(r *policyv1.RateLimitRule) {
		r.Store, r.OnStoreFailure = policyv1.RateLimitStore_RATE_LIMIT_STORE_EXTERNAL, policyv1.StoreFailure_STORE_FAILURE_OPEN
	}))
	if err != nil {
		t.Fatal(err)
	}
	for _, store := range []policyv1.RateLimitStore{policyv1.RateLimitStore_RATE_LIMIT_STORE_LOCAL, policyv1.RateLimitStore_RATE_LIMIT_STORE_PER_REPLICA} {
		if err := policies.SetOperator(rule(func(r *policyv1.RateLimitRule) { r.Store = store })); err != nil {
			t.Error(err)
		}
	}
}
