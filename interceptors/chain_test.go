package interceptors_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// concern writes its place into a trace around each call of the methods that
// have a timeout, and counts how often it is asked.
type concern struct {
	place interceptors.Stage
	trace *[]string
	asked atomic.Int32
}

func (c *concern) Stage() interceptors.Stage { return c.place }

func (c *concern) active(meta *interceptors.CallMeta) bool {
	c.asked.Add(1)
	return meta.Policy.Timeout != nil
}

func (c *concern) note(text string) { *c.trace = append(*c.trace, c.place.String()+" "+text) }

func (c *concern) UnaryClient(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	if !c.active(meta) {
		return nil
	}
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		c.note("in")
		defer c.note("out")
		return invoker(ctx, method, req, reply, cc, opts...)
	}
}

func (c *concern) StreamClient(meta *interceptors.CallMeta) grpc.StreamClientInterceptor {
	if !c.active(meta) {
		return nil
	}
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		c.note("in")
		defer c.note("out")
		return streamer(ctx, desc, cc, method, opts...)
	}
}

func (c *concern) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	if !c.active(meta) {
		return nil
	}
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		c.note("in")
		defer c.note("out")
		return handler(ctx, req)
	}
}

func (c *concern) StreamServer(meta *interceptors.CallMeta) grpc.StreamServerInterceptor {
	if !c.active(meta) {
		return nil
	}
	return func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		c.note("in")
		defer c.note("out")
		return handler(srv, stream)
	}
}

// idle is a concern that no method needs.
type idle interceptors.Stage

func (i idle) Stage() interceptors.Stage { return interceptors.Stage(i) }

func (i idle) UnaryClient(*interceptors.CallMeta) grpc.UnaryClientInterceptor { return nil }

func chainOf(t testing.TB, side interceptors.Side, policies *interceptors.Policies, concerns ...interceptors.Concern) *interceptors.Chained {
	t.Helper()
	chain, err := interceptors.Chain(side, policies, concerns...)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

var errAnswer = errors.New("answer")

// each makes a call of method through each kind of interceptor of side.
func each(t *testing.T, side interceptors.Side, chain *interceptors.Chained, method string, check func(kind string, err error)) {
	t.Helper()
	if side == interceptors.Client {
		check("unary", chain.UnaryClient()(t.Context(), method, nil, nil, nil,
			func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return errAnswer }))
		_, err := chain.StreamClient()(t.Context(), &grpc.StreamDesc{}, nil, method,
			func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
				return nil, errAnswer
			})
		check("stream", err)
		return
	}
	_, err := chain.UnaryServer()(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: method},
		func(context.Context, any) (any, error) { return nil, errAnswer })
	check("unary", err)
	check("stream", chain.StreamServer()(chain, nil, &grpc.StreamServerInfo{FullMethod: method},
		func(any, grpc.ServerStream) error { return errAnswer }))
}

// Each concern runs at its place, whatever the order in which the chain got them.
//
// Case C3
func TestConcernsRunInOrderAroundTheCall(t *testing.T) {
	places := map[interceptors.Side][]interceptors.Stage{
		interceptors.Client: {interceptors.Explained, interceptors.Tracing, interceptors.Metrics, interceptors.Logging, interceptors.Recovery, interceptors.User, interceptors.User,
			interceptors.Deadline, interceptors.Cache, interceptors.Mirror, interceptors.Retry, interceptors.RateLimit},
		interceptors.Server: {interceptors.Explained, interceptors.Tracing, interceptors.Metrics, interceptors.Logging, interceptors.Recovery, interceptors.Authorization,
			interceptors.RateLimit, interceptors.Deadline, interceptors.User, interceptors.Cache, interceptors.Concurrency, interceptors.Handler},
	}
	for side, inwards := range places {
		for range 20 {
			var trace, want []string
			var concerns []interceptors.Concern
			for _, place := range inwards {
				concerns = append(concerns, &concern{place: place, trace: &trace})
				want = append(want, place.String()+" in")
			}
			for _, place := range slices.Backward(inwards) {
				want = append(want, place.String()+" out")
			}
			rand.Shuffle(len(concerns), func(i, j int) { concerns[i], concerns[j] = concerns[j], concerns[i] })
			each(t, side, chainOf(t, side, newPolicies(t, nil), concerns...), getSweet, func(kind string, err error) {
				if err != errAnswer {
					t.Errorf("%v %s: %v", side, kind, err)
				}
				if !slices.Equal(trace, want) {
					t.Errorf("%v %s: %v, want %v", side, kind, trace, want)
				}
				trace = nil
			})
		}
	}
}

// attempting is a concern with a part in attempts, too.
type attempting struct{ concern }

func (a *attempting) UnaryAttempt(*interceptors.CallMeta) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		a.note("attempt")
		return invoker(ctx, method, req, reply, cc, opts...)
	}
}

func (a *attempting) StreamAttempt(*interceptors.CallMeta) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		a.note("attempt")
		return streamer(ctx, desc, cc, method, opts...)
	}
}

// Case traces
func TestAttemptsBeginInsideOfRetryAndOutsideOfLimits(t *testing.T) {
	for _, inner := range []interceptors.Stage{interceptors.RateLimit, 0} {
		var trace []string
		concerns := []interceptors.Concern{
			&attempting{concern{place: interceptors.Tracing, trace: &trace}}, &concern{place: interceptors.Retry, trace: &trace}}
		want := []string{"tracing in", "retry in", "tracing attempt", "retry out", "tracing out"}
		if inner != 0 {
			concerns = append(concerns, &concern{place: inner, trace: &trace})
			want = slices.Insert(want, 3, inner.String()+" in", inner.String()+" out")
		}
		each(t, interceptors.Client, chainOf(t, interceptors.Client, newPolicies(t, nil), concerns...), getSweet, func(kind string, _ error) {
			if !slices.Equal(trace, want) {
				t.Errorf("%s: %v, want %v", kind, trace, want)
			}
			trace = nil
		})
	}
}

func TestWrongChainsAreRefused(t *testing.T) {
	policies := newPolicies(t, nil)
	at := func(places ...interceptors.Stage) []interceptors.Concern {
		var all []interceptors.Concern
		for _, place := range places {
			all = append(all, idle(place))
		}
		return all
	}
	tests := []struct {
		side     interceptors.Side
		policies *interceptors.Policies
		concerns []interceptors.Concern
		want     string // "" is accepted
	}{
		{interceptors.Client, policies, at(interceptors.Tracing, interceptors.Metrics, interceptors.Logging, interceptors.Recovery, interceptors.User,
			interceptors.Deadline, interceptors.Cache, interceptors.Mirror, interceptors.Retry, interceptors.RateLimit), ""},
		{interceptors.Server, policies, at(interceptors.Tracing, interceptors.Metrics, interceptors.Logging, interceptors.Recovery, interceptors.Authorization,
			interceptors.RateLimit, interceptors.Deadline, interceptors.User, interceptors.Cache, interceptors.Concurrency, interceptors.Handler), ""},
		{interceptors.Client, policies, nil, ""},
		{interceptors.Client, nil, nil, "needs policies"},
		{interceptors.Client, policies, at(interceptors.User, interceptors.User), ""},
		{interceptors.Server, policies, at(interceptors.Cache, interceptors.Metrics, interceptors.Cache), "cache is given twice"},
		{interceptors.Server, policies, at(interceptors.Retry), "retry has no part on the server side"},
		{interceptors.Client, policies, at(interceptors.Authorization), "authorization has no part on the client side"},
		{interceptors.Client, policies, at(interceptors.Stage(99)), "stage 99"},
		{interceptors.Client, policies, []interceptors.Concern{nil}, "concern 0 is nil"},
	}
	for _, tt := range tests {
		_, err := interceptors.Chain(tt.side, tt.policies, tt.concerns...)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v %v: %v, want %q", tt.side, tt.concerns, err, tt.want)
		}
	}
}

func TestConcernIsAskedOncePerMethodAndPolicy(t *testing.T) {
	for _, side := range []interceptors.Side{interceptors.Client, interceptors.Server} {
		var trace []string
		c := &concern{place: interceptors.Metrics, trace: &trace}
		policies := newPolicies(t, nil)
		chain := chainOf(t, side, policies, c)
		asks := func(want int32, runs int, method string) {
			t.Helper()
			c.asked.Store(0)
			trace = nil
			each(t, side, chain, method, func(string, error) {})
			if c.asked.Load() != want || len(trace) != runs {
				t.Errorf("%v %s: asked %d times, trace %v: want %d times, %d lines", side, method, c.asked.Load(), trace, want, runs)
			}
		}
		asks(2, 4, getSweet) // once for unary calls, once for streams
		asks(0, 4, getSweet)
		asks(2, 0, "/unknown.Service/Method") // idle there
		asks(0, 0, "/unknown.Service/Method")
		if err := policies.SetOperator(forAll(&policyv1.MethodPolicy{Timeout: ptr("1s")})); err != nil {
			t.Fatal(err)
		}
		asks(2, 4, "/unknown.Service/Method") // no longer
		asks(0, 4, "/unknown.Service/Method")
		if err := policies.SetOperator(forAll(&policyv1.MethodPolicy{Timeout: ptr("x")})); err == nil {
			t.Fatal("accepted")
		}
		asks(0, 4, "/unknown.Service/Method")
	}
}

// Whoever makes up method names fills no memory.
func TestMethodsBeyondTheCapAreNotKept(t *testing.T) {
	var trace []string
	c := &concern{place: interceptors.Metrics, trace: &trace}
	chain := chainOf(t, interceptors.Server, newPolicies(t, nil), c)
	call := func(name string) int32 {
		c.asked.Store(0)
		_, _ = chain.UnaryServer()(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: name},
			func(context.Context, any) (any, error) { return nil, nil })
		return c.asked.Load()
	}
	call(getSweet)
	for i := range 4096 {
		call(fmt.Sprintf("/made.Up/Method%d", i))
	}
	for range 2 {
		if call("/made.Up/Beyond") == 0 {
			t.Error("a method beyond the cap is kept")
		}
	}
	if call(getSweet) != 0 {
		t.Error("a method within the cap is not kept")
	}
}

func TestChainIsUsedWhileThePolicyChanges(t *testing.T) {
	policies := newPolicies(t, nil)
	chain := chainOf(t, interceptors.Client, policies, interceptors.Interceptors{UnaryClientInterceptor: pass})
	client := chain.UnaryClient()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 200 {
				if i == 0 && n%10 == 0 {
					_ = policies.SetOperator(forAll(&policyv1.MethodPolicy{Timeout: ptr("1s")}))
				}
				_ = client(t.Context(), fmt.Sprintf("/made.Up/Method%d", n%20), nil, nil, nil, answer)
			}
		})
	}
	wg.Wait()
}

func TestUsersOwnInterceptorsHaveTheirPlace(t *testing.T) {
	ran := 0
	own := interceptors.Interceptors{
		UnaryServerInterceptor: func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			ran++
			return handler(ctx, req)
		},
		StreamClientInterceptor: func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			ran++
			return streamer(ctx, desc, cc, method, opts...)
		},
	}
	for _, side := range []interceptors.Side{interceptors.Client, interceptors.Server} {
		ran = 0
		each(t, side, chainOf(t, side, newPolicies(t, nil), own), getSweet, func(kind string, err error) {
			if err != errAnswer {
				t.Errorf("%v %s: %v", side, kind, err)
			}
		})
		if ran != 1 {
			t.Errorf("%v: ran %d times, want 1", side, ran)
		}
	}
}

func pass(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoker(ctx, method, req, reply, cc, opts...)
}

func answer(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
	return nil
}

// What a peer makes up is one method for a handler of unknown services, unless somebody
// knows it.
//
// Case L11
// Case M1
func TestUnknownMethodsAreOne(t *testing.T) {
	policies := newPolicies(t, forAll(&policyv1.MethodPolicy{Timeout: ptr("1s")}))
	proxied := &policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{"foreign.Service/Method": {Timeout: ptr("2s")}}}
	if err := policies.SetOperator(proxied); err != nil {
		t.Fatal(err)
	}
	asked := &names{}
	chain := chainOf(t, interceptors.Server, policies, asked)
	serve := func(srv any, name string) {
		_ = chain.StreamServer()(srv, nil, &grpc.StreamServerInfo{FullMethod: name}, func(any, grpc.ServerStream) error { return nil })
	}
	for i := range 5000 {
		serve(nil, fmt.Sprintf("/made.Up/Method%d", i))
	}
	// gRPC's own services are exempt only where they are registered.
	const check = "/grpc.health.v1.Health/Check"
	serve(nil, check)
	serve(nil, getSweet)
	serve(nil, "/foreign.Service/Method")
	serve(asked, "/served.Service/Method")
	serve(asked, check)
	want := names{"other", getSweet, "/foreign.Service/Method", "/served.Service/Method", check}
	if !slices.Equal(*asked, want) {
		t.Errorf("asked about %v, want %v", *asked, want)
	}
}

// names are what a concern is asked about.
type names []string

func (*names) Stage() interceptors.Stage { return interceptors.Metrics }

func (n *names) StreamServer(meta *interceptors.CallMeta) grpc.StreamServerInterceptor {
	*n = append(*n, meta.FullMethod)
	return nil
}
