package ratelimitmetrics_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit/ratelimitmetrics"
	"github.com/meshlite-go/meshlite/internal/series/seriestest"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func Example() {
	limiter, err := ratelimit.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	registry := prometheus.NewRegistry()
	fmt.Println(registry.Register(ratelimitmetrics.New(func() []*ratelimit.Limiter { return []*ratelimit.Limiter{limiter} })))
	// Output: <nil>
}

// used is a limiter in which a customer has used so much of a limit of 4, and was given it
// back at another.
func used(t *testing.T, charges int) *ratelimit.Limiter {
	t.Helper()
	l, err := ratelimit.New()
	if err != nil {
		t.Fatal(err)
	}
	rule := func(name string, limit uint64) *policyv1.RateLimitRule {
		return &policyv1.RateLimitRule{Name: name, Limit: proto.Uint64(limit), Period: proto.String("1h"),
			Key: &policyv1.RateLimitKey{By: &policyv1.RateLimitKey_Metadata{Metadata: "customer"}}}
	}
	generous := rule("generous", 1000)
	generous.Refund = policyv1.Refund_REFUND_SUCCEEDED
	if n := admitted(l, charges, rule("customer", 4), generous); n != charges {
		t.Fatalf("%d of %d calls are admitted", n, charges)
	}
	return l
}

// admitted has a customer make so many calls at once.
func admitted(l *ratelimit.Limiter, calls int, rules ...*policyv1.RateLimitRule) (n int) {
	part := l.UnaryServer(&interceptors.CallMeta{
		Side: interceptors.Server, FullMethod: "/shop.Catalog/GetSweet", Service: "shop.Catalog", Method: "GetSweet",
		Policy: &policyv1.MethodPolicy{RateLimits: rules},
	})
	ctx := metadata.NewIncomingContext(context.Background(), metadata.Pairs("customer", "ada"))
	for range calls {
		_, _ = part(ctx, nil, &grpc.UnaryServerInfo{}, func(context.Context, any) (any, error) { n++; return nil, nil })
	}
	return n
}

// Case metrics
func TestLimitersAreSummed(t *testing.T) {
	all := []*ratelimit.Limiter{used(t, 4), used(t, 4)}
	all = append(all, all[0]) // which two servers share
	c := ratelimitmetrics.New(func() []*ratelimit.Limiter { return all })
	registry := prometheus.NewRegistry()
	registry.MustRegister(c)
	for name, want := range map[string]float64{
		"meshlite_ratelimit_hot_keys": 2, "meshlite_ratelimit_keys": 4, "meshlite_ratelimit_refunded_total": 8,
		"meshlite_ratelimit_waited_total": 0, "meshlite_ratelimit_held_back_total": 0, "meshlite_ratelimit_forgotten_keys_total": 0,
		"meshlite_ratelimit_remembered_refusals_total": 0, "meshlite_ratelimit_store_errors_total": 0, "meshlite_ratelimit_fallbacks_total": 0,
	} {
		if got := value(t, registry, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	all = []*ratelimit.Limiter{used(t, 2)}
	if got := value(t, registry, "meshlite_ratelimit_refunded_total"); got != 10 {
		t.Errorf("when the others are gone and one has come, it is %v, want 8 and 2", got)
	}
	if problems, err := testutil.CollectAndLint(c); err != nil || len(problems) > 0 {
		t.Errorf("the linter of Prometheus says %v %v", problems, err)
	}
	if n := testutil.CollectAndCount(ratelimitmetrics.New(nil)); n != 10 {
		t.Errorf("%d series of nothing, want the totals and the keys", n)
	}
}

// store refuses all calls, or is away.
type store struct {
	ratelimit.Store
	away bool
}

func (s *store) Take(_ context.Context, charges []ratelimit.Charge) (all []ratelimit.Taken, err error) {
	if s.away {
		return nil, errors.New("the store is away")
	}
	for _, c := range charges {
		all = append(all, ratelimit.Taken{Charge: c, Used: c.Burst, Decision: ratelimit.Decision{RetryAfter: c.Cost}})
	}
	return all, nil
}

// Case metrics
func TestFallbacksOfExternalLimitsAreCounted(t *testing.T) {
	s := &store{}
	l, err := ratelimit.New(ratelimit.WithStore(s), ratelimit.WithShare(func() float64 { return 0.5 }))
	if err != nil {
		t.Fatal(err)
	}
	call := func(calls int, name string, failure policyv1.StoreFailure) int {
		return admitted(l, calls, &policyv1.RateLimitRule{Name: name, Limit: proto.Uint64(4), Period: proto.String("1h"),
			Store: policyv1.RateLimitStore_RATE_LIMIT_STORE_EXTERNAL, OnStoreFailure: failure})
	}
	refused := call(6, "full", policyv1.StoreFailure_STORE_FAILURE_UNSPECIFIED) // the store is asked once
	s.away = true
	open := call(7, "open", policyv1.StoreFailure_STORE_FAILURE_OPEN)
	closed := call(8, "closed", policyv1.StoreFailure_STORE_FAILURE_CLOSED)
	share := call(9, "share", policyv1.StoreFailure_STORE_FAILURE_PER_REPLICA)
	if got, want := [...]int{refused, open, closed, share}, [...]int{0, 7, 0, 2}; got != want {
		t.Errorf("of the calls are admitted %v, want %v", got, want)
	}
	want := `
# HELP meshlite_ratelimit_fallbacks_total Calls at limits whose external store was unavailable, by what on_store_failure did instead.
# TYPE meshlite_ratelimit_fallbacks_total counter
meshlite_ratelimit_fallbacks_total{to="closed"} 8
meshlite_ratelimit_fallbacks_total{to="open"} 7
meshlite_ratelimit_fallbacks_total{to="per_replica"} 9
# HELP meshlite_ratelimit_remembered_refusals_total Refusals without asking the external store, as it had refused the key until a later time.
# TYPE meshlite_ratelimit_remembered_refusals_total counter
meshlite_ratelimit_remembered_refusals_total 5
# HELP meshlite_ratelimit_store_errors_total Operations of the external store that failed.
# TYPE meshlite_ratelimit_store_errors_total counter
meshlite_ratelimit_store_errors_total 24
`
	c := ratelimitmetrics.New(func() []*ratelimit.Limiter { return []*ratelimit.Limiter{l} })
	if err := testutil.CollectAndCompare(c, strings.NewReader(want), "meshlite_ratelimit_fallbacks_total",
		"meshlite_ratelimit_remembered_refusals_total", "meshlite_ratelimit_store_errors_total"); err != nil {
		t.Error(err)
	}
}

func value(t *testing.T, registry *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func TestASecondCollectorIsRefused(t *testing.T) {
	limiter := used(t, 3)
	limiters := func() []*ratelimit.Limiter { return []*ratelimit.Limiter{limiter} }
	seriestest.RefusesASecond(t, func() prometheus.Collector { return ratelimitmetrics.New(limiters) })
}
