package interceptors_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
)

// hedging makes each call twice, returns the first answer, and lets the second attempt begin
// once the call is over.
type hedging struct {
	place interceptors.Stage
	late  *sync.WaitGroup
}

func (h hedging) Stage() interceptors.Stage { return h.place }

func (h hedging) UnaryClient(*interceptors.CallMeta) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		over := make(chan struct{})
		h.late.Go(func() {
			<-over
			_ = invoker(ctx, method, req, reply, cc, opts...)
		})
		defer close(over)
		return invoker(ctx, method, req, reply, cc, opts...)
	}
}

func (h hedging) UnaryServer(*interceptors.CallMeta) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		over := make(chan struct{})
		h.late.Go(func() {
			<-over
			_, _ = handler(ctx, req)
		})
		defer close(over)
		return handler(ctx, req)
	}
}

// What is left of a call after its end belongs to that call, while others run: its rest, its
// record, its context.
func TestWhatIsLateIsOfItsOwnCall(t *testing.T) {
	const calls = 200
	for _, place := range []interceptors.Stage{interceptors.Logging, interceptors.User} {
		t.Run(place.String(), func(t *testing.T) {
			var late, running sync.WaitGroup
			h := hedging{place, &late}
			client := chainOf(t, interceptors.Client, newPolicies(t, nil), h).UnaryClient()
			server := chainOf(t, interceptors.Server, newPolicies(t, nil), h).UnaryServer()
			var mu sync.Mutex
			seen := map[string]int{}
			see := func(end string, call int, req any) {
				mu.Lock()
				defer mu.Unlock()
				seen[end]++
				if req != call {
					t.Errorf("the %s of call %d got the request of call %v", end, call, req)
				}
			}
			for call := range calls {
				running.Go(func() {
					_ = client(t.Context(), getSweet, call, nil, nil, func(ctx context.Context, _ string, req, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
						see("client", call, req)
						if r := attempt.FromContext(ctx); r != nil {
							r.SetPicked(&attempt.Instance{ID: fmt.Sprint(call)})
							if id := r.Latest().Picked().ID; id != fmt.Sprint(call) {
								t.Errorf("the record of call %d has the instance of call %s", call, id)
							}
						}
						return nil
					})
					_, _ = server(t.Context(), call, &grpc.UnaryServerInfo{FullMethod: getSweet}, func(_ context.Context, req any) (any, error) {
						see("server", call, req)
						return nil, nil
					})
				})
			}
			running.Wait()
			late.Wait()
			if seen["client"] != 2*calls || seen["server"] != 2*calls {
				t.Errorf("the ends were reached %v times, want %d each", seen, 2*calls)
			}
		})
	}
}

// A concern that loses the context of a call fails the call, and does not reach another one.
func TestALostContextFailsTheCall(t *testing.T) {
	chain := chainOf(t, interceptors.Client, newPolicies(t, nil), losing(interceptors.Logging)).UnaryClient()
	if err := chain(t.Context(), getSweet, nil, nil, nil, answer); status.Code(err) != codes.Internal {
		t.Errorf("the call ends with %v, want INTERNAL", err)
	}
	chain = chainOf(t, interceptors.Client, newPolicies(t, nil), losing(interceptors.User)).UnaryClient()
	if err := chain(t.Context(), getSweet, nil, nil, nil, answer); err != nil {
		t.Errorf("the call with a user's own context ends with %v", err)
	}
}

type losing interceptors.Stage

func (l losing) Stage() interceptors.Stage { return interceptors.Stage(l) }

func (l losing) UnaryClient(*interceptors.CallMeta) grpc.UnaryClientInterceptor {
	return func(_ context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return invoker(context.Background(), method, req, reply, cc, opts...)
	}
}
