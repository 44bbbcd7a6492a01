package interceptors

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/internal/rpc"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

func checkServicePolicy(policy *policyv1.ServicePolicy) error {
	errs := []error{checkMethodPolicy("default", policy.GetDefault())}
	for _, name := range slices.Sorted(maps.Keys(policy.GetMethods())) {
		errs = append(errs, checkMethodPolicy(fmt.Sprintf("methods[%q]", name), policy.GetMethods()[name]))
	}
	c := &checker{}
	c.intentions("intentions", policy.GetIntentions())
	return join(append(errs, c.errs...))
}

// checkMethodPolicy refuses invalid values. Each error begins with the path of the field
// below where.
func checkMethodPolicy(where string, policy *policyv1.MethodPolicy) error {
	if policy == nil {
		return nil
	}
	c := &checker{}
	c.duration(where, "timeout", policy.Timeout)
	c.cache(path(where, "cache"), policy.GetCache())
	c.retry(path(where, "retry"), policy.GetRetry())
	c.rateLimits(where, policy.GetRateLimits())
	c.concurrency(path(where, "concurrency"), policy.GetConcurrency())
	c.mirror(path(where, "mirror"), policy.GetMirror())
	return join(c.errs)
}

// join is errors.Join on one line.
func join(errs []error) error {
	var texts []string
	for _, err := range errs {
		if err != nil {
			texts = append(texts, err.Error())
		}
	}
	if len(texts) == 0 {
		return nil
	}
	return errors.New(strings.Join(texts, "; "))
}

// checker collects what is wrong.
type checker struct{ errs []error }

func (c *checker) wrong(where, field, format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf("%s: %s", path(where, field), fmt.Sprintf(format, args...)))
}

func (c *checker) duration(where, field string, text *string) {
	if text == nil {
		return
	}
	if _, err := ParseDuration(*text); err != nil {
		c.wrong(where, field, "%v", err)
	}
}

// rateLimits wants a name of its own for each: limits are merged by name, and two
// of one name would become one.
func (c *checker) rateLimits(where string, rules []*policyv1.RateLimitRule) {
	seen := map[string]bool{}
	for i, rule := range rules {
		at := fmt.Sprintf("rate_limits[%d]", i)
		if seen[rule.GetName()] {
			c.wrong(where, at+".name", "%q is given twice: limits of one method need different names", rule.GetName())
		}
		seen[rule.GetName()] = true
		c.rateLimit(path(where, at), rule)
	}
}

func (c *checker) rateLimit(where string, rule *policyv1.RateLimitRule) {
	if rule.Limit != nil && rule.GetLimit() == 0 {
		c.wrong(where, "limit", "0 admits nothing: write at least 1, or disabled: true for no limit")
	}
	if rule.Burst != nil && rule.GetBurst() == 0 {
		c.wrong(where, "burst", "0 admits nothing: write at least 1")
	}
	if rule.Cost != nil && rule.GetCost() == 0 {
		c.wrong(where, "cost", "0 limits nothing: write at least 1")
	}
	c.duration(where, "period", rule.Period)
	if period, err := ParseDuration(rule.GetPeriod()); rule.Period != nil && err == nil && period == 0 {
		c.wrong(where, "period", "0 is no period: write \"1s\" or \"15 minutes\"")
	}
	c.duration(where, "warm_up", rule.WarmUp)
	if rule.CostMetadata != nil {
		c.metadataKey(where, "cost_metadata", rule.GetCostMetadata())
	}
	if _, known := policyv1.Refund_name[int32(rule.GetRefund())]; !known {
		c.wrong(where, "refund", "%d is no refund: write REFUND_NONE, REFUND_FAILED or REFUND_SUCCEEDED", rule.GetRefund())
	}
	if _, known := policyv1.RateLimitStore_name[int32(rule.GetStore())]; !known {
		c.wrong(where, "store", "%d is no store: write RATE_LIMIT_STORE_LOCAL, RATE_LIMIT_STORE_EXTERNAL or RATE_LIMIT_STORE_PER_REPLICA", rule.GetStore())
	}
	if _, known := policyv1.StoreFailure_name[int32(rule.GetOnStoreFailure())]; !known {
		c.wrong(where, "on_store_failure", "%d is nothing to do: write STORE_FAILURE_OPEN, STORE_FAILURE_CLOSED or STORE_FAILURE_PER_REPLICA", rule.GetOnStoreFailure())
	}
	if _, known := policyv1.MissingKey_name[int32(rule.GetMissingKey())]; !known {
		c.wrong(where, "missing_key", "%d is nothing to do: write MISSING_KEY_SHARED, MISSING_KEY_PEER or MISSING_KEY_REFUSE", rule.GetMissingKey())
	}
	if s := rule.GetStore(); rule.GetOnStoreFailure() > 0 && s > 0 && s != policyv1.RateLimitStore_RATE_LIMIT_STORE_EXTERNAL {
		c.wrong(where, "on_store_failure", "%v asks no store that could fail: leave it out, or write store: RATE_LIMIT_STORE_EXTERNAL", s)
	}
	switch key := rule.GetKey().GetBy().(type) {
	case *policyv1.RateLimitKey_Metadata:
		c.metadataKey(where, "key.metadata", key.Metadata)
	case *policyv1.RateLimitKey_Peer:
		if n := key.Peer.GetIpv6Prefix(); n > 128 {
			c.wrong(where, "key.peer.ipv6_prefix", "%d is longer than an address: write 1 to 128", n)
		}
	}
}

func (c *checker) retry(where string, rule *policyv1.RetryRule) {
	if rule == nil {
		return
	}
	if n := rule.GetMaxAttempts(); rule.MaxAttempts != nil && (n < 1 || n > 10) {
		c.wrong(where, "max_attempts", "%d is not in 1 to 10 (1 is no retry)", n)
	}
	c.duration(where, "initial_backoff", rule.InitialBackoff)
	c.duration(where, "max_backoff", rule.MaxBackoff)
	c.duration(where, "per_attempt_timeout", rule.PerAttemptTimeout)
	if m := rule.GetBackoffMultiplier(); rule.BackoffMultiplier != nil && !(m >= 1 && m <= 100) {
		c.wrong(where, "backoff_multiplier", "%v is not in 1 to 100", m)
	}
	if b := rule.GetBudget(); rule.Budget != nil && !(b >= 0 && b <= 1) {
		c.wrong(where, "budget", "%v is not in 0 to 1: 0.2 allows one retry for five calls", b)
	}
	for i, name := range rule.GetCodes() {
		if _, err := ParseCode(name); err != nil {
			c.wrong(where, fmt.Sprintf("codes[%d]", i), "%v", err)
		}
	}
}

func (c *checker) concurrency(where string, rule *policyv1.ConcurrencyRule) {
	if rule == nil {
		return
	}
	if rule.Min != nil && rule.GetMin() == 0 {
		c.wrong(where, "min", "0 would admit nothing: write at least 1")
	}
	if rule.PriorityMetadata != nil && rule.GetPriorityMetadata() != "" {
		c.metadataKey(where, "priority_metadata", rule.GetPriorityMetadata())
	}
	if err := checkBounds(rule); rule.Max != nil && err != nil {
		c.wrong(where, "min", "%v", err)
	}
}

// checkBounds is for a rule that has a max. 0 is no limit.
func checkBounds(rule *policyv1.ConcurrencyRule) error {
	if low, high := rule.GetMin(), rule.GetMax(); high != 0 && low > high {
		return fmt.Errorf("%d is more than the max of %d: lower min or raise max", low, high)
	}
	return nil
}

// metadataKey keeps to what gRPC sends: lower case letters, digits, "_-.".
func (c *checker) metadataKey(where, field, key string) {
	if !caller.ValidKey(key) {
		c.wrong(where, field, "%q is not a metadata key: write lower case letters, digits and _-. only", key)
	}
}

// checkSideEffects refuses a rule written for this very method that would give
// an answer again, or ask again, where the contract does not say that it may. A
// default passes such methods over in silence.
func checkSideEffects(method protoreflect.MethodDescriptor, policy *policyv1.MethodPolicy) error {
	meta := &CallMeta{Descriptor: method, Policy: policy}
	if on, _ := ParseDuration(policy.GetCache().GetTtl()); on > 0 && !meta.Cacheable() {
		return fmt.Errorf("cache.ttl: %s may have side effects: mark it idempotency_level = %v in the contract, or set allow_side_effects",
			method.FullName(), descriptorpb.MethodOptions_NO_SIDE_EFFECTS)
	}
	if policy.GetRetry().GetMaxAttempts() > 1 && !meta.Retryable() {
		return fmt.Errorf("retry.max_attempts: %s may not run twice: mark it idempotency_level = %v in the contract, or set allow_side_effects",
			method.FullName(), descriptorpb.MethodOptions_IDEMPOTENT)
	}
	return checkMirrored(meta)
}

// checkFields refuses paths that the request of the method does not have, and
// limits without a number, which only shows when all layers are merged.
func checkFields(meta *CallMeta, read *live) error {
	if err := checkCacheFields(meta, read); err != nil {
		return err
	}
	for i, rule := range meta.Policy.GetRateLimits() {
		if rule.GetDisabled() {
			continue
		}
		if err := checkMergedLimit(meta.Descriptor, rule); err != nil {
			return fmt.Errorf("rate_limits[%d].%w", i, err)
		}
	}
	if err := checkMergedConcurrency(meta.Policy.GetConcurrency()); err != nil {
		return err
	}
	return checkMergedMirror(meta)
}

func checkMergedConcurrency(rule *policyv1.ConcurrencyRule) error {
	if rule == nil {
		return nil
	}
	if rule.Max == nil {
		return errors.New("concurrency.max: missing: write how many handlers run at once at most, adaptive or not; 0 is no limit")
	}
	if err := checkBounds(rule); err != nil {
		return fmt.Errorf("concurrency.min: %w", err)
	}
	return nil
}

func checkMergedLimit(method protoreflect.MethodDescriptor, rule *policyv1.RateLimitRule) error {
	if rule.Limit == nil {
		return errors.New("limit: missing: write how many calls a period are admitted")
	}
	burst := rule.GetLimit()
	if rule.Burst != nil {
		burst = rule.GetBurst()
	}
	if rule.GetCost() > burst {
		return fmt.Errorf("cost: %d is more than the burst of %d, which refuses every call: raise burst", rule.GetCost(), burst)
	}
	if err := checkMergedStore(rule); err != nil {
		return err
	}
	if err := checkMissingKey(rule); err != nil {
		return fmt.Errorf("missing_key: %w", err)
	}
	key, ok := rule.GetKey().GetBy().(*policyv1.RateLimitKey_Field)
	if !ok {
		return nil
	}
	if method.IsStreamingClient() || method.IsStreamingServer() {
		return fmt.Errorf("key.field: %s is a stream and has no request when it opens: key by metadata or peer", method.FullName())
	}
	if _, err := FieldPath(method.Input(), key.Field); err != nil {
		return fmt.Errorf("key.field: %w", err)
	}
	return nil
}

// checkMergedStore lets an operator take a limit out of a store for which the contract
// says what happens when it fails, since a layer above cannot take that away.
func checkMergedStore(rule *policyv1.RateLimitRule) error {
	store := rule.GetStore()
	if warm, _ := ParseDuration(rule.GetWarmUp()); store == policyv1.RateLimitStore_RATE_LIMIT_STORE_EXTERNAL && warm > 0 {
		return errors.New("warm_up: an external store keeps no unused key, so it cannot recognize a new one: leave it out, or count by RATE_LIMIT_STORE_PER_REPLICA")
	}
	if store == policyv1.RateLimitStore_RATE_LIMIT_STORE_UNSPECIFIED && rule.GetOnStoreFailure() > 0 {
		return errors.New("on_store_failure: the limit is in no store that could fail: leave it out, or write store: RATE_LIMIT_STORE_EXTERNAL")
	}
	return nil
}

// checkMissingKey lets an operator take back what the contract says by writing
// MISSING_KEY_SHARED.
func checkMissingKey(rule *policyv1.RateLimitRule) error {
	missing := rule.GetMissingKey()
	if missing <= policyv1.MissingKey_MISSING_KEY_SHARED {
		return nil
	}
	switch rule.GetKey().GetBy().(type) {
	case *policyv1.RateLimitKey_Metadata, *policyv1.RateLimitKey_Identity:
	default:
		return fmt.Errorf("%v: only a key by metadata or identity can be missing: leave it out, or write MISSING_KEY_SHARED", missing)
	}
	if side := rule.GetSide(); missing == policyv1.MissingKey_MISSING_KEY_PEER && Client.On(side, Server) {
		return fmt.Errorf("%v: a client has no peer before its call, and side is %v: write MISSING_KEY_REFUSE or MISSING_KEY_SHARED", missing, side)
	}
	return nil
}

// FieldPath resolves a dotted path of singular fields in message: "order.id".
func FieldPath(message protoreflect.MessageDescriptor, text string) ([]protoreflect.FieldDescriptor, error) {
	var fields []protoreflect.FieldDescriptor
	for _, name := range strings.Split(text, ".") {
		if message == nil {
			return nil, fmt.Errorf("%q: %s is no message and has no fields", text, fields[len(fields)-1].FullName())
		}
		field := message.Fields().ByName(protoreflect.Name(name))
		if field == nil {
			return nil, fmt.Errorf("%q: %s has no field %q", text, message.FullName(), name)
		}
		fields = append(fields, field)
		message = field.Message()
		if field.IsList() || field.IsMap() {
			message = nil
		}
	}
	return fields, nil
}

// ParseCode reads a gRPC code by its name in the specification: "UNAVAILABLE".
func ParseCode(name string) (codes.Code, error) {
	var code codes.Code
	if err := code.UnmarshalJSON(fmt.Appendf(nil, "%q", name)); err != nil {
		return codes.Unknown, fmt.Errorf("%q is not a gRPC code: write UNAVAILABLE, RESOURCE_EXHAUSTED or the like", name)
	}
	return code, nil
}

func path(where, field string) string {
	if where == "" {
		return field
	}
	return where + "." + field
}

func (c *checker) cache(where string, rule *policyv1.CacheRule) {
	if rule == nil {
		return
	}
	c.duration(where, "ttl", rule.Ttl)
	c.duration(where, "stale_while_revalidate", rule.StaleWhileRevalidate)
	c.duration(where, "stale_if_error", rule.StaleIfError)
	if b := rule.GetEarlyRefresh(); rule.EarlyRefresh != nil && !(b >= 0 && b <= 100) {
		c.wrong(where, "early_refresh", "%v is not in 0 to 100: 1 is XFetch's own, 0 is none", b)
	}
	if s := rule.GetMaxShare(); rule.MaxShare != nil && !(s > 0 && s <= 1) {
		c.wrong(where, "max_share", "%v is not above 0 and up to 1: 0.25 is a quarter of the memory", s)
	}
	for i, key := range rule.GetVary() {
		c.metadataKey(where, fmt.Sprintf("vary[%d]", i), key)
	}
	seen := map[string]bool{}
	for i, negative := range rule.GetNegative() {
		if seen[negative.GetCode()] {
			c.wrong(where, fmt.Sprintf("negative[%d].code", i), "%q is given twice: leave one out", negative.GetCode())
		}
		seen[negative.GetCode()] = true
		c.negative(path(where, fmt.Sprintf("negative[%d]", i)), negative)
	}
}

// negative keeps failures that say something of what was asked for, and not of who
// asks, or how long for.
func (c *checker) negative(where string, rule *policyv1.NegativeRule) {
	switch code, err := ParseCode(rule.GetCode()); {
	case err != nil:
		c.wrong(where, "code", "%v", err)
	case slices.Contains(unkept, code):
		c.wrong(where, "code", "%q cannot be cached: write NOT_FOUND, FAILED_PRECONDITION or another code that every caller of the same request gets", rule.GetCode())
	}
	if ttl, err := ParseDuration(rule.GetTtl()); err != nil {
		c.wrong(where, "ttl", "%v", err)
	} else if ttl == 0 {
		c.wrong(where, "ttl", "0 keeps nothing: write \"10s\", or leave the rule out")
	}
}

var unkept = []codes.Code{codes.OK, codes.Canceled, codes.DeadlineExceeded, codes.Unauthenticated, codes.PermissionDenied, codes.ResourceExhausted}

// checkCacheFields refuses what the cache cannot make of the requests of this method, and
// invalidations of what there is not.
func checkCacheFields(meta *CallMeta, read *live) error {
	for i, field := range meta.Policy.GetCache().GetKeyFields() {
		if _, err := FieldPath(meta.Descriptor.Input(), field); err != nil {
			return fmt.Errorf("cache.key_fields[%d]: %w", i, err)
		}
	}
	if err := checkTags(meta, meta.Policy.GetCache().GetTags()); err != nil && meta.Cacheable() {
		return fmt.Errorf("cache.%w", err)
	}
	changes := meta.Policy.GetInvalidates()
	if changes == nil || meta.Safe() {
		return nil
	}
	if len(changes.GetMethods())+len(changes.GetTags()) > 0 && meta.cached() {
		return fmt.Errorf("invalidates: %s is cached, too, and its answers would be given without a change: leave one of both out", meta.Descriptor.FullName())
	}
	if meta.Streams() {
		return fmt.Errorf("invalidates: %s is a stream, which says nothing of when something has changed: call Invalidate of the cache", meta.Descriptor.FullName())
	}
	for i, name := range changes.GetMethods() {
		if err := checkMethodName(read, QualifiedMethod(meta.Service, name)); err != nil {
			return fmt.Errorf("invalidates.methods[%d]: %w", i, err)
		}
	}
	if err := checkTags(meta, changes.GetTags()); err != nil {
		return fmt.Errorf("invalidates.%w", err)
	}
	return nil
}

func checkTags(meta *CallMeta, tags []string) error {
	for i, tag := range tags {
		if _, err := ParseTag(meta.Descriptor, tag); err != nil {
			return fmt.Errorf("tags[%d]: %w", i, err)
		}
	}
	return nil
}

// checkMethodName refuses a method that the contract of its service does not have.
func checkMethodName(read *live, name string) error {
	service, method := rpc.SplitMethod(name)
	if !wellFormed(name) {
		return fmt.Errorf("%q: write \"Method\" or \"package.Service/Method\"", name)
	}
	methods, found := read.service(service)
	if found && (methods == nil || methods.ByName(protoreflect.Name(method)) == nil) {
		return fmt.Errorf("%q: %s has no method %q", name, service, method)
	}
	return nil // a service without a contract cannot be checked
}
