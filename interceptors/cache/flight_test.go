package cache_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// asker makes a call for fudge under rule, on either side, of a backend that does what
// answer says. It runs in virtual time.
type asker func(ctx context.Context) (string, error)

// onEachSide runs test with a cache on the client and with one on the server.
func onEachSide(t *testing.T, rule func() *policyv1.CacheRule, answer func(ctx context.Context, call int64) error, test func(t *testing.T, ask asker, calls *atomic.Int64, c *cache.Cache)) {
	for _, side := range []string{"client", "server"} {
		t.Run(side, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, err := cache.New(callersOf(caller.WithIdentity(func(context.Context) (string, bool) { return "ada", true })))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				var calls atomic.Int64
				ask := overClient(t, c, rule(), answer, &calls)
				if side == "server" {
					ask = overServer(t, c, rule(), answer, &calls)
				}
				test(t, ask, &calls, c)
			})
		})
	}
}

func named(n int64) *catalogv1.GetSweetResponse {
	return &catalogv1.GetSweetResponse{Sweet: &catalogv1.Sweet{Name: fmt.Sprint("answer ", n)}}
}

func overClient(t *testing.T, c *cache.Cache, rule *policyv1.CacheRule, answer func(context.Context, int64) error, calls *atomic.Int64) asker {
	interceptor := c.UnaryClientInterceptor(policies(t, rule))
	invoker := func(ctx context.Context, _ string, _, reply any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
		n := calls.Add(1)
		if err := answer(ctx, n); err != nil {
			return err
		}
		proto.Merge(reply.(proto.Message), named(n))
		for _, opt := range opts {
			if header, ok := opt.(grpc.HeaderCallOption); ok {
				*header.HeaderAddr = metadata.Pairs("made-by", fmt.Sprint(n))
			}
		}
		return nil
	}
	return func(ctx context.Context) (string, error) {
		reply, header := &catalogv1.GetSweetResponse{}, metadata.MD{}
		err := interceptor(ctx, getSweet, &catalogv1.GetSweetRequest{Id: "fudge"}, reply, nil, invoker, grpc.Header(&header))
		if made := header.Get("made-by"); err == nil && (len(made) != 1 || "answer "+made[0] != reply.GetSweet().GetName()) {
			t.Errorf("the header of %q is %v", reply.GetSweet().GetName(), header)
		}
		return reply.GetSweet().GetName(), err
	}
}

func overServer(t *testing.T, c *cache.Cache, rule *policyv1.CacheRule, answer func(context.Context, int64) error, calls *atomic.Int64) asker {
	interceptor := c.UnaryServerInterceptor(policies(t, onServer(rule)))
	handler := func(ctx context.Context, _ any) (any, error) {
		n := calls.Add(1)
		if err := answer(ctx, n); err != nil {
			return nil, err
		}
		return named(n), nil
	}
	return func(ctx context.Context) (string, error) {
		reply, err := interceptor(ctx, &catalogv1.GetSweetRequest{Id: "fudge"}, &grpc.UnaryServerInfo{FullMethod: getSweet}, handler)
		if err != nil {
			return "", err
		}
		return reply.(*catalogv1.GetSweetResponse).GetSweet().GetName(), nil
	}
}

// anybody is the rule of answers for everybody.
func anybody() *policyv1.CacheRule {
	return &policyv1.CacheRule{Ttl: proto.String("1m"), Scope: policyv1.CacheScope_CACHE_SCOPE_PUBLIC}
}

// after answers after a time, unless the caller gives up.
func after(d time.Duration, err error) func(context.Context, int64) error {
	return func(ctx context.Context, _ int64) error {
		select {
		case <-time.After(d):
			return err
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// C9: 1,000 concurrent misses make one call.
//
// Case C9: Concurrent misses make one call; nobody is hurt by another's cancel or deadline.
func TestConcurrentMissesMakeOneCall(t *testing.T) {
	onEachSide(t, anybody, after(time.Second, nil), func(t *testing.T, ask asker, calls *atomic.Int64, c *cache.Cache) {
		var work sync.WaitGroup
		for range 1000 {
			work.Go(func() {
				if name, err := ask(t.Context()); err != nil || name != "answer 1" {
					t.Errorf("got %q, %v", name, err)
				}
			})
		}
		work.Wait()
		want(t, "calls", calls.Load(), 1)
		s := c.Stats()
		want(t, "misses", s.Misses, 1)
		want(t, "coalesced", s.Coalesced, 999)
	})
}

// C9: cancelling the first caller fails nobody else; each waiter keeps its own deadline.
//
// Case C9
func TestWaitersKeepTheirOwnDeadlines(t *testing.T) {
	onEachSide(t, anybody, after(time.Second, nil), func(t *testing.T, ask asker, calls *atomic.Int64, _ *cache.Cache) {
		type result struct {
			took time.Duration
			code codes.Code
		}
		start := time.Now()
		call := func(patience time.Duration) <-chan result {
			got := make(chan result, 1)
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				_, err := ask(ctx)
				got <- result{time.Since(start), status.Code(err)}
			}()
			synctest.Wait() // in this order
			return got
		}
		first := call(300 * time.Millisecond)
		short, long := call(100*time.Millisecond), call(time.Minute)
		want(t, "the first caller", <-first, result{300 * time.Millisecond, codes.DeadlineExceeded})
		want(t, "an impatient one", <-short, result{100 * time.Millisecond, codes.DeadlineExceeded})
		want(t, "a patient one", <-long, result{1300 * time.Millisecond, codes.OK})
		want(t, "calls", calls.Load(), 2)
	})
}

// A failure is shared if it is everybody's. Nobody is refused for what another may not.
//
// Case C9
func TestFailuresThatAreEverybodysAreShared(t *testing.T) {
	for _, test := range []struct {
		code  codes.Code
		rule  func() *policyv1.CacheRule
		calls int64
	}{
		{codes.Unavailable, anybody, 1}, {codes.NotFound, anybody, 1}, {codes.Unavailable, private, 1},
		{codes.PermissionDenied, anybody, 10}, {codes.ResourceExhausted, anybody, 10}, {codes.PermissionDenied, private, 1},
		{codes.DeadlineExceeded, anybody, 10}, {codes.Canceled, anybody, 10}, // of an attempt, or of a call behind it
	} {
		t.Run(fmt.Sprint(test.code, test.rule().GetScope()), func(t *testing.T) {
			onEachSide(t, test.rule, after(time.Second, status.Error(test.code, "no")), func(t *testing.T, ask asker, calls *atomic.Int64, c *cache.Cache) {
				start := time.Now()
				var work sync.WaitGroup
				for range 10 {
					work.Go(func() {
						if _, err := ask(t.Context()); status.Code(err) != test.code {
							t.Errorf("got %v, want %v", err, test.code)
						}
					})
				}
				work.Wait()
				want(t, "calls", calls.Load(), test.calls)
				if took := time.Since(start); took > 2*time.Second {
					t.Errorf("it took %v: the calls were made one after the other", took)
				}
				want(t, "kept", c.Stats().Entries, 0)
			})
		})
	}
}

// C10: A panic in the shared flight frees all waiters with INTERNAL and leaves no stuck key.
//
// Case C10: A panic in a shared call frees all that wait.
func TestAPanicFreesWhoWaits(t *testing.T) {
	answer := func(_ context.Context, call int64) error {
		time.Sleep(time.Second)
		if call == 1 {
			panic("out of sugar")
		}
		return nil
	}
	onEachSide(t, anybody, answer, func(t *testing.T, ask asker, calls *atomic.Int64, c *cache.Cache) {
		var work sync.WaitGroup
		var panics, internal atomic.Int64
		start := time.Now()
		for range 10 {
			work.Go(func() {
				defer func() {
					if recover() != nil {
						panics.Add(1)
					}
				}()
				if _, err := ask(t.Context()); status.Code(err) == codes.Internal {
					internal.Add(1)
				}
			})
		}
		work.Wait()
		want(t, "panics", panics.Load(), 1)
		want(t, "waiters with INTERNAL", internal.Load(), 9)
		want(t, "time", time.Since(start), time.Second)
		if name, err := ask(t.Context()); err != nil || name != "answer 2" {
			t.Errorf("afterwards got %q, %v", name, err)
		}
		want(t, "stats", c.Stats().Counts, cache.Counts{Misses: 2, Coalesced: 9, Stored: 1})
	})
}

// A handler that gives up with its caller often says so in an error of its own. It is
// neither published to who waits, nor stored.
//
// Case C9
func TestAnErrorOfWhoHasGivenUpIsItsOwn(t *testing.T) {
	rule := func() *policyv1.CacheRule {
		r := anybody()
		r.Negative = []*policyv1.NegativeRule{{Code: "UNKNOWN", Ttl: "1m"}}
		return r
	}
	answer := func(ctx context.Context, call int64) error {
		select {
		case <-time.After(time.Second):
			return nil
		case <-ctx.Done():
			return fmt.Errorf("query %d: interrupted", call)
		}
	}
	onEachSide(t, rule, answer, func(t *testing.T, ask asker, calls *atomic.Int64, c *cache.Cache) {
		var work sync.WaitGroup
		work.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if _, err := ask(ctx); err == nil {
				t.Error("who has given up has an answer")
			}
		})
		synctest.Wait()
		for range 10 {
			work.Go(func() {
				if name, err := ask(t.Context()); err != nil || name != "answer 2" {
					t.Errorf("got %q, %v", name, err)
				}
			})
		}
		work.Wait()
		want(t, "calls", calls.Load(), 2)
	})
}

// A call that took longer than a later one for the same does not take its place.
//
// Case C12
func TestAnOlderLoadTakesNoNewerOnesPlace(t *testing.T) {
	answer := func(ctx context.Context, e *exchange) error {
		return after(5*time.Second/time.Duration(e.number), nil)(ctx, e.number)
	}
	both(t, anybody, answer, func(t *testing.T, call callFunc, _ *backend, c *cache.Cache) {
		older := make(chan said)
		go func() { older <- call(t.Context(), "fudge") }()
		synctest.Wait()
		call(t.Context(), "fudge", "who", "ops", "cache-control", "no-cache").is(t, "the newer", "answer 2")
		(<-older).is(t, "the older", "answer 1")
		call(t.Context(), "fudge").is(t, "what is kept", "answer 2")
		want(t, "entries of the method", c.Methods()[0].Entries, 1)
	}, ops)
}

// Calls that may fail where others do not share no flight with them: who waits for a
// connection does not get the error that there is none.
func TestCallsInAnotherMannerShareNoFlight(t *testing.T) {
	for name, own := range map[string]grpc.CallOption{
		"waits": grpc.WaitForReady(true), "receives more": grpc.MaxCallRecvMsgSize(64 << 20), "sends more": grpc.MaxCallSendMsgSize(64 << 20),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near := newCache(t).UnaryClientInterceptor(policies(t, anybody()))
				var calls atomic.Int64
				invoke := func(_ context.Context, _ string, _, _ any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
					calls.Add(1)
					time.Sleep(time.Second)
					if slices.Contains(opts, own) {
						return nil
					}
					return status.Error(codes.Unavailable, "not like this")
				}
				var work sync.WaitGroup
				call := func(want codes.Code, opts ...grpc.CallOption) {
					work.Go(func() {
						err := near(t.Context(), getSweet, getSweetOf("fudge"), &catalogv1.GetSweetResponse{}, nil, invoke, opts...)
						if status.Code(err) != want {
							t.Errorf("%v, want %v", err, want)
						}
					})
					synctest.Wait() // in this order
				}
				call(codes.Unavailable)
				call(codes.OK, own)
				call(codes.OK, own)
				work.Wait()
				want(t, "calls", calls.Load(), 2)
			})
		})
	}
}
