package concurrency_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/interceptors/concurrency"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

const watch = "/grpc.health.v1.Health/Watch"

// holding are calls that run until they are let go.
type holding struct {
	call    call
	release chan struct{}
	running sync.WaitGroup
}

func hold(t *testing.T, call call, n int) *holding {
	t.Helper()
	h := &holding{call: call, release: make(chan struct{})}
	h.more(t, context.Background(), n)
	return h
}

// more begins n calls, which must be admitted.
func (h *holding) more(t *testing.T, ctx context.Context, n int) {
	t.Helper()
	for range n {
		started, ended := make(chan struct{}), make(chan error, 1)
		h.running.Go(func() {
			ended <- h.call(ctx, func(context.Context) error { close(started); <-h.release; return ctx.Err() })
		})
		select {
		case <-started:
		case err := <-ended:
			t.Fatal(err)
		}
	}
}

func (h *holding) letGo() {
	close(h.release)
	h.running.Wait()
}

func succeed(context.Context) error { return nil }

func TestAStaticLimitIsExact(t *testing.T) {
	l := newLimiter(t)
	call := callOf(l, policies(t, static(3)), getSweet)
	calls := hold(t, call, 3)
	want(t, "code of the fourth", status.Code(call(t.Context(), succeed)), codes.Unavailable)
	calls.letGo()
	want(t, "code when they are over", status.Code(call(t.Context(), succeed)), codes.OK)
	want(t, "figures", statsOf(t, l, getSweet), concurrency.Stats{Method: getSweet, Limit: 3, Admitted: 4, Refused: 1})
}

// Methods are bounded apart, so that a slow one leaves the others their room.
func TestMethodsHaveLimitsOfTheirOwn(t *testing.T) {
	l, p := newLimiter(t), policies(t, static(1))
	calls := hold(t, callOf(l, p, getSweet), 1)
	defer calls.letGo()
	want(t, "another method", status.Code(callOf(l, p, "/sweetshop.catalog.v1.CatalogService/ListSweets")(t.Context(), succeed)), codes.OK)
}

func TestARefusalSaysThatTheInstanceIsFull(t *testing.T) {
	call := callOf(newLimiter(t), policies(t, static(1)), getSweet)
	calls := hold(t, call, 1)
	defer calls.letGo()
	s := status.Convert(call(t.Context(), succeed))
	if s.Code() != codes.Unavailable || !strings.Contains(s.Message(), getSweet) || len(s.Details()) != 1 {
		t.Fatal(s, s.Details())
	}
	info, ok := s.Details()[0].(*errdetails.ErrorInfo)
	if !ok || info.GetDomain() != "meshlite" || info.GetReason() != "OVERLOADED" {
		t.Errorf("details %v", s.Details())
	}
}

// X4, M2: however a handler ends, its permit comes back.
func TestPermitsComeBack(t *testing.T) {
	ends := map[string]func(context.Context) error{
		"answer":  succeed,
		"failure": func(context.Context) error { return errors.New("no sweets left") },
		"panic":   func(context.Context) error { panic("no sweets left") },
		"goexit":  func(context.Context) error { runtime.Goexit(); return nil },
	}
	for name, rule := range map[string]*policyv1.ConcurrencyRule{"static": static(2), "adaptive": adaptive(1, 2)} {
		for how, end := range ends {
			l := newLimiter(t)
			call := callOf(l, policies(t, rule), getSweet)
			for range 10 {
				var running sync.WaitGroup
				running.Go(func() {
					defer func() { _ = recover() }()
					_ = call(t.Context(), end)
				})
				running.Wait()
			}
			if s := statsOf(t, l, getSweet); s.InFlight != 0 || s.Admitted != 10 {
				t.Errorf("%s, %s: %+v", name, how, s)
			}
		}
	}
}

// A panic of who decides whom to trust comes before there is a permit.
func TestAPanicInTrustedTakesNoPermit(t *testing.T) {
	l := newLimiter(t, trusting(func(context.Context) bool { panic("who?") }))
	call := callOf(l, policies(t, prioritized(1)), getSweet)
	for range 3 {
		func() {
			defer func() { _ = recover() }()
			_ = call(of("critical"), succeed)
		}()
	}
	want(t, "in flight", statsOf(t, l, getSweet).InFlight, 0)
}

// X14: an observer that panics keeps no permit.
func TestAnObserverThatPanicsKeepsNoPermit(t *testing.T) {
	for name, rule := range map[string]*policyv1.ConcurrencyRule{"static": static(2), "adaptive": adaptive(1, 2)} {
		l := newLimiter(t, concurrency.WithObserver(interceptors.ObserverFunc(func(context.Context, *interceptors.CallMeta, interceptors.Event) { panic("observer") })))
		serve := l.StreamServerInterceptor(policies(t, rule))
		calls := map[string]func(){
			"unary": func() { _ = callOf(l, policies(t, rule), getSweet)(t.Context(), succeed) },
			"stream": func() {
				_ = serve(nil, stream{ctx: t.Context()}, &grpc.StreamServerInfo{FullMethod: getSweet},
					func(any, grpc.ServerStream) error { return nil })
			},
		}
		for kind, call := range calls {
			for range 3 {
				func() {
					defer func() { _ = recover() }()
					call()
				}()
			}
			if n := statsOf(t, l, getSweet).InFlight; n != 0 {
				t.Errorf("%s, %s: %d permits are kept", name, kind, n)
			}
		}
	}
}

// X9: a caller that resets its calls as fast as it makes them has no more handlers
// running than others: the permit is the handler's and not the caller's.
func TestWhoCancelsRunsNoMoreHandlers(t *testing.T) {
	l := newLimiter(t)
	call := callOf(l, policies(t, static(10)), getSweet)
	ctx, cancel := context.WithCancel(t.Context())
	calls := hold(t, call, 0)
	calls.more(t, ctx, 10)
	cancel()
	for range 1000 {
		want(t, "code", status.Code(call(ctx, succeed)), codes.Unavailable)
	}
	want(t, "in flight", statsOf(t, l, getSweet).InFlight, 10)
	calls.letGo()
	want(t, "in flight", statsOf(t, l, getSweet).InFlight, 0)
}

// X11: nothing, then a burst, callers that leave at once: the count of what runs comes
// back to 0 and is never negative or above the limit.
func TestTheCountOfWhatRunsIsExact(t *testing.T) {
	for name, rule := range map[string]*policyv1.ConcurrencyRule{"static": static(16), "adaptive": adaptive(1, 16)} {
		t.Run(name, func(t *testing.T) {
			l := newLimiter(t)
			call := callOf(l, policies(t, rule), getSweet)
			var handlers, refused atomic.Int64
			var running sync.WaitGroup
			for range 64 {
				running.Go(func() {
					for i := range 200 {
						ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
						switch err := call(ctx, func(ctx context.Context) error {
							if n := handlers.Add(1); n > 16 {
								t.Errorf("%d handlers run", n)
							}
							defer handlers.Add(-1)
							for i == 0 && refused.Load() == 0 { // until the limit is full
								runtime.Gosched()
							}
							if i%20 == 10 {
								<-ctx.Done()
							}
							runtime.Gosched()
							return ctx.Err()
						}); status.Code(err) {
						case codes.Unavailable:
							refused.Add(1)
						case codes.OK, codes.Unknown: // Unknown is the error of a context
						default:
							t.Errorf("a call ends with %v", err)
						}
						if n := l.Stats()[0].InFlight; n < 0 || n > 16 {
							t.Errorf("%d in flight", n)
						}
						cancel()
					}
				})
			}
			running.Wait()
			s := statsOf(t, l, getSweet)
			want(t, "in flight", s.InFlight, 0)
			want(t, "refused", s.Refused, uint64(refused.Load()))
			want(t, "all", s.Admitted+s.Refused, 64*200)
			if s.Refused == 0 || s.Admitted == 0 {
				t.Errorf("%d calls were admitted and %d refused, want some of both", s.Admitted, s.Refused)
			}
		})
	}
}

// stream is a stream of which only the context is asked.
type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s stream) Context() context.Context { return s.ctx }

// A stream holds its permit while it is open, and its limit is the max: how long it
// stays says nothing of the load.
func TestAStreamHoldsAPermitWhileItIsOpen(t *testing.T) {
	for name, rule := range map[string]*policyv1.ConcurrencyRule{"static": static(30), "adaptive": adaptive(1, 30)} {
		l := newLimiter(t)
		p, err := interceptors.NewPolicies(&policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{
			"grpc.health.v1.Health/Watch": {Concurrency: rule}}})
		if err != nil {
			t.Fatal(err)
		}
		interceptor := l.StreamServerInterceptor(p)
		calls := hold(t, func(ctx context.Context, handler func(context.Context) error) error {
			return interceptor(nil, stream{ctx: ctx}, &grpc.StreamServerInfo{FullMethod: watch}, func(any, grpc.ServerStream) error { return handler(ctx) })
		}, 30)
		want(t, name, status.Code(calls.call(t.Context(), succeed)), codes.Unavailable)
		calls.letGo()
		want(t, name, statsOf(t, l, watch), concurrency.Stats{Method: watch, Limit: 30, Admitted: 30, Refused: 1})
	}
}

// A hit costs no permit: an instance that is full still answers what it knows.
func TestAHitCostsNoPermit(t *testing.T) {
	p, err := interceptors.NewPolicies(forGetSweet(&policyv1.MethodPolicy{
		Concurrency: static(1),
		Cache:       &policyv1.CacheRule{Ttl: ptr("1 minute"), Side: policyv1.Side_SIDE_SERVER, Scope: policyv1.CacheScope_CACHE_SCOPE_PUBLIC},
	}))
	if err != nil {
		t.Fatal(err)
	}
	kept, err := cache.New()
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	l := newLimiter(t)
	chain, err := interceptors.Chain(interceptors.Server, p, kept, l)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(id string) error {
		_, err := chain.UnaryServer()(t.Context(), &catalogv1.GetSweetRequest{Id: id}, &grpc.UnaryServerInfo{FullMethod: getSweet},
			func(context.Context, any) (any, error) { return &catalogv1.GetSweetResponse{}, nil })
		return err
	}
	want(t, "first", status.Code(ask("fudge")), codes.OK)
	calls := hold(t, callOf(l, p, getSweet), 1)
	defer calls.letGo()
	want(t, "hit while full", status.Code(ask("fudge")), codes.OK)
	want(t, "miss while full", status.Code(ask("toffee")), codes.Unavailable)
}

// What runs under the old policy counts under the new one.
func TestCallsOutliveAChangeOfThePolicy(t *testing.T) {
	l, p := newLimiter(t), policies(t, static(5))
	call := callOf(l, p, getSweet)
	calls := hold(t, call, 4)
	set := func(rule *policyv1.ConcurrencyRule) {
		t.Helper()
		if err := p.SetOperator(policy(rule)); err != nil {
			t.Fatal(err)
		}
	}
	set(static(2))
	want(t, "with a lower limit", status.Code(call(t.Context(), succeed)), codes.Unavailable)
	set(static(0))
	want(t, "without a limit", status.Code(call(t.Context(), succeed)), codes.OK)
	set(static(5))
	want(t, "with the old limit", status.Code(call(t.Context(), succeed)), codes.OK)
	calls.letGo()
	want(t, "in flight", statsOf(t, l, getSweet).InFlight, 0)
}

// Where there is no rule there is no part.
func TestWithoutARuleThereIsNothingToDo(t *testing.T) {
	l := newLimiter(t)
	for _, meta := range []*interceptors.CallMeta{
		{Side: interceptors.Server, Policy: &policyv1.MethodPolicy{}},
		{Side: interceptors.Server, Policy: &policyv1.MethodPolicy{Concurrency: static(0)}},
		{Side: interceptors.Client, Policy: &policyv1.MethodPolicy{Concurrency: static(1)}},
	} {
		if l.UnaryServer(meta) != nil || l.StreamServer(meta) != nil {
			t.Errorf("%v has a part", meta)
		}
	}
	want(t, "methods", len(l.Stats()), 0)
}

// A peer that makes names up takes no memory with them.
func TestMadeUpMethodsShareOneLimit(t *testing.T) {
	l, p := newLimiter(t), policies(t, static(1))
	for i := range 3000 {
		_ = callOf(l, p, fmt.Sprint("/made.up.Service/Method", i))(t.Context(), succeed)
	}
	_ = callOf(l, p, "/"+strings.Repeat("x", 5000)+"/y")(t.Context(), succeed)
	stats := l.Stats()
	want(t, "methods", len(stats), 1025)
	want(t, "calls of the others", statsOf(t, l, "other").Admitted, 3001-1024)
}

func TestObserverReceivesEachCall(t *testing.T) {
	var published []string
	l := newLimiter(t, concurrency.WithObserver(interceptors.ObserverFunc(func(_ context.Context, meta *interceptors.CallMeta, e interceptors.Event) {
		published = append(published, meta.Method+" "+e.(concurrency.Result).String())
	})))
	call := callOf(l, policies(t, static(1)), getSweet)
	_ = call(t.Context(), func(ctx context.Context) error { return call(ctx, succeed) })
	want(t, "results", strings.Join(published, ", "), "GetSweet admitted, GetSweet refused")
	want(t, "a result of no name", concurrency.Result(7).String(), "result 7")
}

func TestOptionsAreChecked(t *testing.T) {
	_, err := concurrency.New(concurrency.WithObserver(nil))
	if err == nil || !strings.Contains(err.Error(), "WithObserver(nil)") {
		t.Errorf("error %v", err)
	}
}

// The figures show what an adaptive limit goes by.
func TestStatsHaveTheLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, adaptive(1, 100), newBackend(1, 50, 10*ms))
		s.load(1000, 5*time.Second)
		s.running.Wait()
		if got := s.stats(); !got.Adaptive || got.BaseLatency < 5*ms || got.BaseLatency > 20*ms || got.SampleLatency < 5*ms || got.SampleLatency > 20*ms {
			t.Errorf("%+v", got)
		}
	})
}

func forGetSweet(method *policyv1.MethodPolicy) *policyv1.ServicePolicy {
	return &policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{"GetSweet": proto.CloneOf(method)}}
}
