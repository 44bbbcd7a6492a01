package redis_test

import (
	"context"
	"io"
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit/redis"
	"github.com/meshlite-go/meshlite/internal/redistest"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
)

var _ ratelimit.Store = (*redis.Redis)(nil)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// rueidis looks at the topology up to a second after a lost connection, and does
		// not end that early.
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"))
}

const browse = storefrontv1.StorefrontService_Browse_FullMethodName

var silent = slog.New(slog.NewTextHandler(io.Discard, nil))

// newStore reaches Redis at url, with a timeout that a loaded machine keeps.
func newStore(t testing.TB, url string, opts ...redis.Option) *redis.Redis {
	t.Helper()
	r, err := redis.New(append([]redis.Option{
		redis.WithURL(url), redis.WithTimeout(2 * time.Second), redis.WithLogger(silent),
		redis.WithBackoff(10*time.Millisecond, 40*time.Millisecond),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// connected is newStore, once it has found Redis.
func connected(t testing.TB, url string, opts ...redis.Option) *redis.Redis {
	t.Helper()
	r := newStore(t, url, opts...)
	redistest.Await(t, "connection", func() bool { return r.Stats().Connected })
	return r
}

func want[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// charge is one of a key, at a limit that gives nothing back within a test.
func charge(key byte, cost, burst int) ratelimit.Charge {
	return ratelimit.Charge{Key: [16]byte{key}, Cost: time.Duration(cost) * time.Hour, Burst: time.Duration(burst) * time.Hour}
}

// take is the answer to charges.
func take(t testing.TB, r *redis.Redis, charges ...ratelimit.Charge) []ratelimit.Taken {
	t.Helper()
	all, err := r.Take(t.Context(), charges)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// hours is what is used of the key of a charge, rounded.
func hours(t testing.TB, r *redis.Redis, c ratelimit.Charge) int {
	t.Helper()
	s, err := r.Standing(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "admitted a charge of nothing", s.Admitted, false)
	return int(s.Used.Round(time.Hour) / time.Hour)
}

// replica is a server of several, with a store of its own on the same Redis.
type replica struct {
	*ratelimit.Limiter
	call func(id string) error
}

func newReplica(t testing.TB, r *redis.Redis, rules []*policyv1.RateLimitRule, opts ...ratelimit.Option) replica {
	t.Helper()
	l, err := ratelimit.New(append([]ratelimit.Option{ratelimit.WithStore(r), ratelimit.WithLogger(silent)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	rules = append(rules, &policyv1.RateLimitRule{Name: "customer", Disabled: proto.Bool(true)})
	p, err := interceptors.NewPolicies(&policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{"Browse": {RateLimits: rules}}})
	if err != nil {
		t.Fatal(err)
	}
	part := l.UnaryServerInterceptor(p)
	return replica{l, func(id string) error {
		ctx := metadata.NewIncomingContext(context.Background(), metadata.Pairs("id", id))
		_, err := part(ctx, nil, &grpc.UnaryServerInfo{FullMethod: browse}, func(context.Context, any) (any, error) { return nil, nil })
		return err
	}}
}

// shared admits n calls a period to each id.
func shared(n uint64, period string, failure policyv1.StoreFailure) *policyv1.RateLimitRule {
	return &policyv1.RateLimitRule{
		Name: "shared", Limit: proto.Uint64(n), Period: &period, OnStoreFailure: failure,
		Store: policyv1.RateLimitStore_RATE_LIMIT_STORE_EXTERNAL,
		Key:   &policyv1.RateLimitKey{By: &policyv1.RateLimitKey_Metadata{Metadata: "id"}},
	}
}
