package concurrency_test

import (
	"context"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/health/grpc_health_v1" // a contract with a stream

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/concurrency"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const getSweet = "/sweetshop.catalog.v1.CatalogService/GetSweet"

func ptr[T any](v T) *T { return &v }

// static admits most calls at once.
func static(most uint32) *policyv1.ConcurrencyRule { return &policyv1.ConcurrencyRule{Max: &most} }

// adaptive finds its limit between floor and ceiling.
func adaptive(floor, ceiling uint32) *policyv1.ConcurrencyRule {
	return &policyv1.ConcurrencyRule{Min: &floor, Max: &ceiling, Adaptive: ptr(true)}
}

func policy(rule *policyv1.ConcurrencyRule) *policyv1.ServicePolicy {
	return &policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{Concurrency: rule}}
}

func policies(t testing.TB, rule *policyv1.ConcurrencyRule) *interceptors.Policies {
	t.Helper()
	p, err := interceptors.NewPolicies(policy(rule))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// trusting is the option for callers who are trusted where trusted says so.
func trusting(trusted func(context.Context) bool) concurrency.Option {
	callers, err := caller.New(caller.WithTrusted(trusted))
	if err != nil {
		panic(err)
	}
	return concurrency.WithCallers(callers)
}

func newLimiter(t testing.TB, opts ...concurrency.Option) *concurrency.Limiter {
	t.Helper()
	l, err := concurrency.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// call is one call of a method that l limits.
type call func(ctx context.Context, handler func(context.Context) error) error

func callOf(l *concurrency.Limiter, p *interceptors.Policies, method string) call {
	interceptor := l.UnaryServerInterceptor(p)
	info := &grpc.UnaryServerInfo{FullMethod: method}
	return func(ctx context.Context, handler func(context.Context) error) error {
		_, err := interceptor(ctx, nil, info, func(ctx context.Context, _ any) (any, error) { return nil, handler(ctx) })
		return err
	}
}

// statsOf are the figures of one method.
func statsOf(t testing.TB, l *concurrency.Limiter, method string) concurrency.Stats {
	t.Helper()
	for _, s := range l.Stats() {
		if s.Method == method {
			return s
		}
	}
	t.Fatalf("no figures of %s", method)
	return concurrency.Stats{}
}

func want[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
