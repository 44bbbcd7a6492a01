package interceptors_test

import (
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// Contract, then builder, then operator, field by field.
func TestLaterLayersWinFieldByField(t *testing.T) {
	policies := newPolicies(t, &policyv1.ServicePolicy{
		Default: &policyv1.MethodPolicy{Timeout: ptr("1s"), Retry: &policyv1.RetryRule{MaxBackoff: ptr("2s")}},
		Methods: map[string]*policyv1.MethodPolicy{
			"GetSweet": {Cache: &policyv1.CacheRule{Ttl: ptr("1 minute")}},
			"sweetshop.catalog.v1.CatalogService/GetSweet": {Cache: &policyv1.CacheRule{Ttl: ptr("2 minutes"), Vary: []string{"accept-language"}}},
		},
	})
	err := policies.SetOperator(&policyv1.ServicePolicy{
		Default: &policyv1.MethodPolicy{Timeout: ptr("500ms")},
		Methods: map[string]*policyv1.MethodPolicy{"GetSweet": {Cache: &policyv1.CacheRule{Ttl: ptr("0s")}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &policyv1.MethodPolicy{
		Timeout: ptr("500ms"), // operator's default
		Cache: &policyv1.CacheRule{
			Ttl:   ptr("0s"),                              // operator's method
			Scope: policyv1.CacheScope_CACHE_SCOPE_PUBLIC, // contract
			Vary:  []string{"accept-language"},            // builder's full name
		},
		Retry: &policyv1.RetryRule{
			MaxAttempts: ptr(uint32(3)), InitialBackoff: ptr("10ms"), // contract
			MaxBackoff: ptr("2s"), // builder's default
		},
	}
	meta := policies.Call(interceptors.Client, getSweet)
	if !proto.Equal(meta.Policy, want) {
		t.Errorf("policy %v\nwant   %v", meta.Policy, want)
	}
	if err := policies.SetOperator(nil); err != nil {
		t.Fatal(err)
	}
	if got := policies.Call(interceptors.Client, getSweet).Policy; got.GetTimeout() != "1s" || got.GetCache().GetTtl() != "2 minutes" {
		t.Errorf("without an operator: %v", got)
	}
}

func TestLimitsAreMergedByName(t *testing.T) {
	policies := newPolicies(t, forMethod("Browse", &policyv1.MethodPolicy{RateLimits: []*policyv1.RateLimitRule{
		{Name: "customer", Limit: ptr(uint64(10))},
		{Name: "all", Limit: ptr(uint64(1000))},
	}}))
	err := policies.SetOperator(forMethod("Browse", &policyv1.MethodPolicy{RateLimits: []*policyv1.RateLimitRule{
		{Name: "customer", Key: &policyv1.RateLimitKey{By: &policyv1.RateLimitKey_Peer{Peer: &policyv1.PeerKey{}}}},
	}}))
	if err != nil {
		t.Fatal(err)
	}
	want := []*policyv1.RateLimitRule{
		{Name: "customer", Limit: ptr(uint64(10)), Period: ptr("1s"), Burst: ptr(uint64(50)),
			Key: &policyv1.RateLimitKey{By: &policyv1.RateLimitKey_Peer{Peer: &policyv1.PeerKey{}}}},
		{Name: "all", Limit: ptr(uint64(1000))},
	}
	got := policies.Call(interceptors.Server, browse).Policy.GetRateLimits()
	if len(got) != 2 || !proto.Equal(got[0], want[0]) || !proto.Equal(got[1], want[1]) {
		t.Errorf("limits %v\nwant   %v", got, want)
	}
}

func TestPoliciesAreCopies(t *testing.T) {
	builder := forAll(&policyv1.MethodPolicy{Timeout: ptr("1s")})
	policies := newPolicies(t, builder)
	builder.Default.Timeout = ptr("2s")
	policies.Call(interceptors.Client, getSweet).Policy.Cache.Ttl = ptr("9s")
	again := policies.Call(interceptors.Client, getSweet).Policy
	if again.GetTimeout() != "1s" || again.GetCache().GetTtl() != "2s" {
		t.Errorf("changed from outside: %v", again)
	}
}

func TestDefaultsDoNotReachServicesOfGRPC(t *testing.T) {
	policies := newPolicies(t, forAll(&policyv1.MethodPolicy{Timeout: ptr("1s")}))
	const watch = "/grpc.health.v1.Health/Watch"
	if got := policies.Call(interceptors.Client, watch).Policy; got.Timeout != nil {
		t.Errorf("health checks have %v", got)
	}
	if err := policies.SetOperator(forMethod(strings.TrimPrefix(watch, "/"), &policyv1.MethodPolicy{Timeout: ptr("3s")})); err != nil {
		t.Fatal(err)
	}
	if got := policies.Call(interceptors.Client, watch).Policy; got.GetTimeout() != "3s" {
		t.Errorf("named in full, health checks have %v", got)
	}
}

// L11: Health and reflection are exempt by default; a user's service in a package named
// grpc, or grpc.team, gets the default of its builder and of its operator.
//
// Case L11: Health and reflection are exempt; streams are charged at open, or per message.
func TestAPackageNamedGRPCKeepsItsPolicy(t *testing.T) {
	written := forAll(&policyv1.MethodPolicy{Timeout: ptr("1s"), RateLimits: []*policyv1.RateLimitRule{{Name: "all", Limit: ptr(uint64(5))}}})
	operator := newPolicies(t, nil)
	if err := operator.SetOperator(written); err != nil {
		t.Fatal(err)
	}
	for name, policies := range map[string]*interceptors.Policies{"builder": newPolicies(t, written), "operator": operator} {
		for service, exempt := range map[string]bool{
			"shop.v1.OrderService": false, "grpcshop.v1.OrderService": false, "grpc.OrderService": false, "grpc.shop.v1.OrderService": false,
			"grpc.health.v1.Health2": false, "grpc.health.v1.Health.More": false, "grpc.health.v2.Health": false,
			"grpc.reflection.v1.Mine": false, "grpc.channelz.v2.Channelz": false, "grpc": false, "": false, "GRPC.health.v1.Health": false,
			"grpc.health.v1.Health": true, "grpc.channelz.v1.Channelz": true, "xds.service.orca.v3.OpenRcaService": true,
			"grpc.reflection.v1.ServerReflection": true, "grpc.reflection.v1alpha.ServerReflection": true,
		} {
			for _, side := range []interceptors.Side{interceptors.Client, interceptors.Server} {
				policy := policies.Call(side, "/"+service+"/Method").Policy
				if got := len(policy.GetRateLimits()) == 0 && policy.GetTimeout() == ""; got != exempt {
					t.Errorf("%s, %v: %q is exempt: %v, want %v", name, side, service, got, exempt)
				}
			}
		}
	}
}

func TestCallMetaHasWhatTheContractSays(t *testing.T) {
	policies := newPolicies(t, nil)
	tests := []struct {
		method               string
		cacheable, retryable bool
		linked               bool
	}{
		{getSweet, true, true, true},
		{reserve, false, false, true},
		{"/unknown.Service/Method", false, false, false},
		{"no slash", false, false, false},
	}
	for _, tt := range tests {
		meta := policies.Call(interceptors.Server, tt.method)
		if meta.Cacheable() != tt.cacheable || meta.Retryable() != tt.retryable || (meta.Descriptor != nil) != tt.linked || meta.Policy == nil {
			t.Errorf("%s: %+v", tt.method, meta)
		}
	}
	allowed := newPolicies(t, forMethod("Reserve", &policyv1.MethodPolicy{
		Cache: &policyv1.CacheRule{AllowSideEffects: ptr(true)}, Retry: &policyv1.RetryRule{AllowSideEffects: ptr(true)},
	})).Call(interceptors.Client, reserve)
	if !allowed.Cacheable() || !allowed.Retryable() || allowed.Service != "sweetshop.inventory.v1.InventoryService" || allowed.Method != "Reserve" {
		t.Errorf("with allow_side_effects: %+v", allowed)
	}
}

func TestSideOfARule(t *testing.T) {
	tests := []struct {
		rule           policyv1.Side
		preset         interceptors.Side
		client, server bool
	}{
		{policyv1.Side_SIDE_UNSPECIFIED, interceptors.Client, true, false},
		{policyv1.Side_SIDE_UNSPECIFIED, interceptors.Server, false, true},
		{policyv1.Side_SIDE_CLIENT, interceptors.Server, true, false},
		{policyv1.Side_SIDE_SERVER, interceptors.Client, false, true},
		{policyv1.Side_SIDE_BOTH, interceptors.Client, true, true},
	}
	for _, tt := range tests {
		if interceptors.Client.On(tt.rule, tt.preset) != tt.client || interceptors.Server.On(tt.rule, tt.preset) != tt.server {
			t.Errorf("%v, by default on the %v", tt.rule, tt.preset)
		}
	}
}

func TestParseCode(t *testing.T) {
	for name, want := range map[string]codes.Code{"OK": codes.OK, "UNAVAILABLE": codes.Unavailable, "CANCELLED": codes.Canceled} {
		if got, err := interceptors.ParseCode(name); err != nil || got != want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for _, name := range []string{"", "Unavailable", "14", "NO_SUCH", "\"OK\""} {
		if got, err := interceptors.ParseCode(name); err == nil {
			t.Errorf("%q is %v", name, got)
		}
	}
}

func TestPolicyChangesWhileItIsRead(t *testing.T) {
	policies := newPolicies(t, nil)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				if err := policies.SetOperator(forAll(&policyv1.MethodPolicy{Timeout: ptr("1s")})); err != nil {
					t.Error(err)
				}
				policies.Call(interceptors.Client, getSweet)
			}
		})
	}
	wg.Wait()
}
