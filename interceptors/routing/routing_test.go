package routing_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/routing"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	"github.com/meshlite-go/meshlite/resolver/route"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const method = "/shop.Catalog/GetSweet"

// fixed is a router that always chooses the same, once it is ready.
type fixed struct {
	choice route.Choice
	way    *attempt.Route
	err    error
	ready  chan struct{} // nil is ready

	counted []string
}

func (f *fixed) Count(at *attempt.Route, err error) {
	f.counted = append(f.counted, at.Arm+" "+status.Code(err).String())
}

func (f *fixed) Wait(ctx context.Context, _ interface{ Connect() }) error {
	if f.ready == nil {
		return nil
	}
	select {
	case <-f.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *fixed) Choose(context.Context, string) (route.Choice, *attempt.Route, error) {
	return f.choice, f.way, f.err
}

// to is a router that sends all calls to one arm.
func to(r route.Route, a route.Arm) *fixed {
	target := &route.Target{ID: "v2.catalog", Service: "catalog", Subset: "v2", Datacenter: "dc1"}
	return &fixed{
		choice: route.Choice{Route: &r, Arm: &a, Target: target},
		way:    &attempt.Route{Name: r.Name, Arm: a.Name, Target: target.ID, Destination: target.Destination()},
	}
}

// part builds both kinds of call for a router. Each returns what the inner part of a call sees.
func part(t *testing.T, router routing.Router) (unary, stream func(context.Context, func(context.Context) (metadata.MD, error)) (metadata.MD, error)) {
	t.Helper()
	r, err := routing.New(router)
	if err != nil {
		t.Fatal(err)
	}
	meta := &interceptors.CallMeta{Side: interceptors.Client, FullMethod: method, Policy: &policyv1.MethodPolicy{}}
	unary = func(ctx context.Context, inner func(context.Context) (metadata.MD, error)) (md metadata.MD, err error) {
		err = r.UnaryClient(meta)(ctx, method, nil, nil, nil,
			func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
				got, err := inner(ctx)
				for _, o := range opts {
					if o, ok := o.(grpc.HeaderCallOption); ok {
						*o.HeaderAddr = got
					}
				}
				return err
			}, grpc.Header(&md))
		return md, err
	}
	stream = func(ctx context.Context, inner func(context.Context) (metadata.MD, error)) (metadata.MD, error) {
		s, err := r.StreamClient(meta)(ctx, &grpc.StreamDesc{ServerStreams: true}, nil, method,
			func(ctx context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
				md, err := inner(ctx)
				return &answered{header: md, ctx: ctx, err: err}, nil
			})
		if err != nil {
			return nil, err
		}
		md, _ := s.Header()
		return md, s.RecvMsg(nil)
	}
	return unary, stream
}

// answered is a stream that has its header and its end.
type answered struct {
	grpc.ClientStream
	header metadata.MD
	ctx    context.Context
	err    error
}

func (a *answered) Header() (metadata.MD, error) { return a.header, nil }
func (a *answered) RecvMsg(any) error            { return a.err }

func TestThePickerFindsWhereACallGoes(t *testing.T) {
	router := to(route.Route{Name: "route 1"}, route.Arm{Name: "v2"})
	unary, stream := part(t, router)
	for name, call := range map[string]func(context.Context, func(context.Context) (metadata.MD, error)) (metadata.MD, error){"unary": unary, "stream": stream} {
		_, err := call(t.Context(), func(ctx context.Context) (metadata.MD, error) {
			record := attempt.FromContext(ctx)
			if record == nil || record.Route() != router.way || record.Next().Route() != router.way {
				t.Errorf("%s: the record of the call and that of its retry do not have the route", name)
			}
			return nil, nil
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWithoutAChainACallIsAsItWas(t *testing.T) {
	unary, stream := part(t, &fixed{})
	want := metadata.NewOutgoingContext(t.Context(), metadata.Pairs("a", "b"))
	inner := func(ctx context.Context) (metadata.MD, error) {
		if ctx != want {
			t.Error("the context is another one")
		}
		return metadata.Pairs("c", "d"), nil
	}
	for _, call := range []func(context.Context, func(context.Context) (metadata.MD, error)) (metadata.MD, error){unary, stream} {
		if md, err := call(want, inner); err != nil || md.Get("c")[0] != "d" {
			t.Errorf("got %v, %v", md, err)
		}
	}
}

// Case T10: Request and response header modifiers act once, in the chain's order, and cannot set
// `grpc-*` or pseudo headers.
func TestHeadersAreChangedInTheOrderOfTheChain(t *testing.T) {
	unary, stream := part(t, to(route.Route{Name: "route 1"}, route.Arm{
		Name: "v2",
		Request: []route.Headers{
			{Set: map[string]string{"x-arm": "of the route"}, Add: map[string]string{"x-more": "1"}},
			{Set: map[string]string{"x-arm": "of the split"}, Add: map[string]string{"x-more": "2"}, Remove: []string{"x-secret"}},
		},
		Response: []route.Headers{{Set: map[string]string{"x-by": "mesh"}, Remove: []string{"server"}}},
	}))
	for name, call := range map[string]func(context.Context, func(context.Context) (metadata.MD, error)) (metadata.MD, error){"unary": unary, "stream": stream} {
		sent := metadata.Pairs("x-more", "0", "x-secret", "s")
		kept := metadata.Pairs("server", "nginx", "x-by", "handler")
		got, err := call(metadata.NewOutgoingContext(t.Context(), sent), func(ctx context.Context) (metadata.MD, error) {
			md, _ := metadata.FromOutgoingContext(ctx)
			if !slices.Equal(md["x-arm"], []string{"of the split"}) || !slices.Equal(md["x-more"], []string{"0", "1", "2"}) || md["x-secret"] != nil {
				t.Errorf("%s: the server receives %v", name, md)
			}
			return kept, nil
		})
		if err != nil || !slices.Equal(got["x-by"], []string{"mesh"}) || got["server"] != nil {
			t.Errorf("%s: the caller receives %v, %v", name, got, err)
		}
		if kept["server"] == nil || sent["x-arm"] != nil || sent["x-secret"] == nil {
			t.Errorf("%s: what server and caller had was changed: %v, %v", name, kept, sent)
		}
	}
}

func TestACallWaitsForTheFirstChain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		router := to(route.Route{Name: "route 1"}, route.Arm{Name: "v2"})
		router.ready = make(chan struct{})
		unary, stream := part(t, router)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		never := func(context.Context) (metadata.MD, error) { t.Error("the call went on"); return nil, nil }
		if _, err := unary(short, never); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("unary: %v, want DEADLINE_EXCEEDED", err)
		}
		if _, err := stream(short, never); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("stream: %v, want DEADLINE_EXCEEDED", err)
		}
		done := make(chan error)
		go func() {
			_, err := unary(t.Context(), func(context.Context) (metadata.MD, error) { return nil, nil })
			done <- err
		}()
		synctest.Wait()
		close(router.ready)
		if err := <-done; err != nil {
			t.Errorf("after the chain is there: %v", err)
		}
	})
}

func TestARefusedChainFailsCallsWithItsReason(t *testing.T) {
	unary, stream := part(t, &fixed{err: &route.RefusedError{Service: "catalog", Parts: []string{"service-router: QueryParam"}}})
	never := func(context.Context) (metadata.MD, error) { t.Error("the call went on"); return nil, nil }
	for _, call := range []func(context.Context, func(context.Context) (metadata.MD, error)) (metadata.MD, error){unary, stream} {
		if _, err := call(t.Context(), never); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "QueryParam") {
			t.Errorf("got %v, want UNAVAILABLE with what is refused", err)
		}
	}
}

func TestTheRouterCountsWhereCallsEnd(t *testing.T) {
	router := to(route.Route{Name: "route 1"}, route.Arm{Name: "v2"})
	unary, stream := part(t, router)
	elsewhere := &attempt.Route{Name: "route 1", Arm: "v1"}
	for _, call := range []func(context.Context, func(context.Context) (metadata.MD, error)) (metadata.MD, error){unary, stream} {
		_, _ = call(t.Context(), func(ctx context.Context) (metadata.MD, error) {
			attempt.FromContext(ctx).Next().SetRoute(elsewhere) // a retry in another arm
			return nil, status.Error(codes.NotFound, "no sweet")
		})
	}
	if want := []string{"v1 NotFound", "v1 NotFound"}; !slices.Equal(router.counted, want) {
		t.Errorf("counted %q, want %q", router.counted, want)
	}
}

func TestNewChecksWhatItIsGiven(t *testing.T) {
	if _, err := routing.New(nil); err == nil {
		t.Error("no router is taken")
	}
}
