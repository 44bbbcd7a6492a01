package metrics_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit/metrics"
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
	fmt.Println(registry.Register(metrics.New(func() []*ratelimit.Limiter { return []*ratelimit.Limiter{limiter} })))
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
	part := l.UnaryServer(&interceptors.CallMeta{
		Side: interceptors.Server, FullMethod: "/shop.Catalog/GetSweet", Service: "shop.Catalog", Method: "GetSweet",
		Policy: &policyv1.MethodPolicy{RateLimits: []*policyv1.RateLimitRule{rule("customer", 4), generous}},
	})
	ctx := metadata.NewIncomingContext(context.Background(), metadata.Pairs("customer", "ada"))
	for range charges {
		_, err := part(ctx, nil, &grpc.UnaryServerInfo{}, func(context.Context, any) (any, error) { return nil, nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func TestLimitersAreToldTogether(t *testing.T) {
	all := []*ratelimit.Limiter{used(t, 4), used(t, 4)}
	all = append(all, all[0]) // which two servers share
	c := metrics.New(func() []*ratelimit.Limiter { return all })
	registry := prometheus.NewRegistry()
	registry.MustRegister(c)
	for name, want := range map[string]float64{
		"meshlite_ratelimit_near_keys": 2, "meshlite_ratelimit_keys": 4, "meshlite_ratelimit_refunded_total": 8,
		"meshlite_ratelimit_waited_total": 0, "meshlite_ratelimit_held_back_total": 0, "meshlite_ratelimit_forgotten_keys_total": 0,
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
	if n := testutil.CollectAndCount(metrics.New(nil)); n != 5 {
		t.Errorf("%d series of nothing, want the totals and the keys", n)
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
