package ratelimit_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/internal/racetest"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// run is one call of Browse on the server that ends with result.
func run(l *ratelimit.Limiter, p *interceptors.Policies, ctx context.Context, result error) error {
	_, err := l.UnaryServerInterceptor(p)(ctx, nil, &grpc.UnaryServerInfo{FullMethod: browse},
		func(context.Context, any) (any, error) { return nil, result })
	return err
}

func refused(err error) bool { return status.Code(err) == codes.ResourceExhausted }

// Calls that failed, or that succeeded, are given back.
//
// Case L10
func TestRefundGivesFinishedCallsBack(t *testing.T) {
	failure := status.Error(codes.NotFound, "no such sweet")
	notFoundIsFine := ratelimit.WithSuccess("one", func(err error) bool { return err == nil || status.Code(err) == codes.NotFound })
	for _, test := range []struct {
		name          string
		refund        policyv1.Refund
		opts          []ratelimit.Option
		failed, alike int // admitted of 10 calls each
	}{
		{"none", policyv1.Refund_REFUND_NONE, nil, 3, 0},
		{"failed", policyv1.Refund_REFUND_FAILED, nil, 10, 3},
		{"succeeded", policyv1.Refund_REFUND_SUCCEEDED, nil, 3, 0},
		{"failed, but not found is none", policyv1.Refund_REFUND_FAILED, []ratelimit.Option{notFoundIsFine}, 3, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			rule := limit("one", 3, nil)
			rule.Refund = test.refund
			l, p := newLimiter(t, test.opts...), policies(t, rule)
			count := func(result error) (n int) {
				for range 10 {
					if !refused(run(l, p, context.Background(), result)) {
						n++
					}
				}
				return n
			}
			want(t, "failing calls", count(failure), test.failed)
			want(t, "succeeding calls", count(nil), test.alike)
		})
	}
	rule := limit("one", 3, nil)
	rule.Refund = policyv1.Refund_REFUND_SUCCEEDED
	l, p := newLimiter(t), policies(t, rule)
	want(t, "succeeding calls, given back", admitted(t, l, p, context.Background(), nil, 10), 10)
	want(t, "refunds", l.Stats().Refunded, 10)
}

// A handler that panics has failed.
func TestRefundOfACallThatPanics(t *testing.T) {
	rule := limit("one", 1, nil)
	rule.Refund = policyv1.Refund_REFUND_FAILED
	l, p := newLimiter(t), policies(t, rule)
	for range 5 {
		func() {
			defer func() { want(t, "panic", recover(), any("toffee")) }()
			_, err := l.UnaryServerInterceptor(p)(context.Background(), nil, &grpc.UnaryServerInfo{FullMethod: browse},
				func(context.Context, any) (any, error) { panic("toffee") })
			t.Errorf("refused: %v", err)
		}()
	}
}

// A client gives back the calls that failed, streams included.
func TestRefundOnTheClient(t *testing.T) {
	rule := limit("one", 1, nil)
	rule.Side = policyv1.Side_SIDE_CLIENT
	rule.Refund = policyv1.Refund_REFUND_FAILED
	l, p := newLimiter(t), policies(t, rule)
	result := errors.New("no")
	call := func() error {
		return l.UnaryClientInterceptor(p)(context.Background(), browse, nil, nil, nil,
			func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return result })
	}
	for range 5 {
		want(t, "failing call", call(), result)
	}
	result = nil
	want(t, "succeeding call", call(), nil)
	want(t, "one more is refused", refused(call()), true)
}

// L10: A refund after failure cannot lift the balance above the burst or land in another window.
//
// Case L10: A refund lands in no other window and lifts nobody above the burst.
func TestALateRefundIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rule := limit("one", 10, nil) // one each 6 s
		rule.Refund = policyv1.Refund_REFUND_FAILED
		l, p := newLimiter(t), policies(t, rule)
		slow := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = l.UnaryServerInterceptor(p)(context.Background(), nil, &grpc.UnaryServerInfo{FullMethod: browse},
				func(context.Context, any) (any, error) { <-slow; return nil, errors.New("too late") })
		}()
		synctest.Wait()
		time.Sleep(time.Minute) // what it took has come back by itself
		want(t, "the burst", admitted(t, l, p, context.Background(), nil, 20), 10)
		close(slow)
		<-done
		want(t, "after its failure", admitted(t, l, p, context.Background(), nil, 20), 0)
		want(t, "refunds", l.Stats().Refunded, 0)
	})
}

// Calls wait their turn, in the order in which they came and no longer than needed;
// one whose deadline comes first is refused at once and takes no turn.
//
// Case waiting: Calls wait in order, within their deadline, and who gives up gives nobody two
// places.
func TestWaitInsteadOfRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rule := limit("queue", 60, nil) // one a second
		rule.Burst, rule.Wait = proto.Uint64(1), proto.Bool(true)
		l, p := newLimiter(t), policies(t, rule)
		start := time.Now()
		type done struct {
			call int
			at   time.Duration
		}
		served := make(chan done, 10)
		for i := range 5 {
			go func() {
				if err := run(l, p, context.Background(), nil); err != nil {
					t.Error(err)
				}
				served <- done{i, time.Since(start)}
			}()
			synctest.Wait()
		}
		soon, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		err := run(l, p, soon, nil)
		want(t, "refused whose deadline is too soon", refused(err), true)
		retry, _ := details(t, status.Convert(err))
		want(t, "reported: the wait", retry.GetRetryDelay().AsDuration() >= 5*time.Second, true)
		want(t, "at once", time.Since(start), 0)
		for i := range 5 {
			want(t, "served", <-served, done{i, time.Duration(i) * time.Second})
		}
		want(t, "waited", l.Stats().Waited, 4)
	})
}

// Calls that come together each get a time of their own, and no time is left out.
//
// Case L8
func TestConcurrentWaitsShareNoTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rule := limit("queue", 60, nil)
		rule.Burst, rule.Wait = proto.Uint64(1), proto.Bool(true)
		l, p := newLimiter(t), policies(t, rule)
		part := l.UnaryServer(p.Call(interceptors.Server, browse))
		start := time.Now()
		served := make(chan time.Duration, 50)
		for range 50 {
			go func() {
				_, err := part(context.Background(), nil, nil, func(context.Context, any) (any, error) { return nil, nil })
				want(t, "error", err, nil)
				served <- time.Since(start)
			}()
		}
		for i := range 50 {
			want(t, "served", <-served, time.Duration(i)*time.Second)
		}
	})
}

// Who gives up leaves the place to the next, unless somebody counts on it already:
// however many give up, no two calls are served at once.
//
// Case waiting
func TestAWaitThatIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rule := limit("queue", 60, nil)
		rule.Burst, rule.Wait = proto.Uint64(1), proto.Bool(true)
		l, p := newLimiter(t), policies(t, rule)
		call := func(ctx context.Context) chan error {
			done := make(chan error, 1)
			go func() { done <- run(l, p, ctx, nil) }()
			synctest.Wait()
			return done
		}
		<-call(context.Background())
		start := time.Now()
		canceled, cancel := context.WithCancel(context.Background())
		first, second := call(canceled), call(context.Background())
		cancel()
		want(t, "given up", status.Code(<-first), codes.Canceled)
		third := call(context.Background())
		want(t, "second", <-second, nil)
		want(t, "second served", time.Since(start), 2*time.Second)
		want(t, "third", <-third, nil)
		want(t, "third served", time.Since(start), 3*time.Second)

		canceled, cancel = context.WithCancel(context.Background())
		last := call(canceled)
		cancel()
		want(t, "last given up", status.Code(<-last), codes.Canceled)
		want(t, "next", <-call(context.Background()), nil)
		want(t, "next served in its place", time.Since(start), 4*time.Second)
	})
}

// A limit in shadow reports what it would do and does nothing, to other limits either.
func TestShadowRefusesNothing(t *testing.T) {
	var results []string
	l := newLimiter(t, ratelimit.WithObserver(interceptors.ObserverFunc(func(_ context.Context, _ *interceptors.CallMeta, e interceptors.Event) {
		event := e.(*ratelimit.Event)
		results = append(results, event.Limit()+" "+event.Verdict().String())
	})))
	shadow := limit("shadow", 1, nil)
	shadow.Shadow, shadow.Wait = proto.Bool(true), proto.Bool(true)
	p := policies(t, shadow, limit("real", 2, nil))
	want(t, "admitted", admitted(t, l, p, context.Background(), nil, 3), 2)
	stats := l.Stats()
	want(t, "would refuse", stats.Shadowed, 1)
	want(t, "of which limit", stats.Limits[0].Shadowed == 1 && stats.Limits[0].Refused == 0, true)
	want(t, "refused by the other", stats.Limits[1].Refused == 1 && stats.Limits[1].Shadowed == 0, true)
	want(t, "reported", len(results), 5)
	want(t, "second call", results[2]+", "+results[3], "shadow shadowed, real admitted")
	want(t, "third call", results[4], "real refused")
}

// A new key begins with one call and reaches the full limit when it is warm.
func TestWarmUp(t *testing.T) {
	racetest.Skip(t)
	synctest.Test(t, func(t *testing.T) {
		rule := limit("warm", 600, byMetadata("id")) // ten a second
		rule.WarmUp = proto.String("1 minute")
		l, p := newLimiter(t), policies(t, rule)
		calls := func(id string, over time.Duration) (n int) {
			for end := time.Now().Add(over); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
				if handle(l, p, from("id", id), nil) == nil {
					n++
				}
			}
			return n
		}
		want(t, "at first", admitted(t, l, p, from("id", "a"), nil, 600), 1)
		time.Sleep(30 * time.Second)
		// Half of what has come back since then, and 67 ms of age are equal.
		if n := admitted(t, l, p, from("id", "a"), nil, 600); n < 145 || n > 150 {
			t.Errorf("%d calls at half of the time, want 150", n)
		}
		s, err := l.Standing(browse, "warm", "a")
		want(t, "remaining", s.Remaining == 0 && err == nil, true)
		want(t, "reset", l.Reset(browse, "warm", "a"), nil)
		s, _ = l.Standing(browse, "warm", "a")
		want(t, "remaining at half of the time", s.Remaining > 290 && s.Remaining <= 300, true)
		time.Sleep(time.Minute)

		want(t, "another at first", admitted(t, l, p, from("id", "c"), nil, 600), 1)
		tenth, last := calls("c", 6*time.Second), 0
		time.Sleep(48 * time.Second)
		last = calls("c", 6*time.Second)
		if tenth >= 15 || last < 45 {
			t.Errorf("%d calls in the first tenth of the warm-up and %d in the last, want under 15 and most of 60", tenth, last)
		}
		time.Sleep(time.Minute)
		want(t, "warm", admitted(t, l, p, from("id", "a"), nil, 1000), 600)
		want(t, "another key", admitted(t, l, p, from("id", "b"), nil, 600), 1)
	})
}

// L12 (cost): Cost from metadata counts only from trusted peers.
//
// Case L12 (cost): Cost from metadata counts from trusted peers only.
func TestCostFromMetadataCountsFromTrustedPeersOnly(t *testing.T) {
	cost := func(peer string, values ...string) context.Context {
		return metadata.NewIncomingContext(tcp(peer), metadata.MD{"cost": values})
	}
	for _, test := range []struct {
		name string
		ctx  context.Context
		want int // admitted of 20
	}{
		{"trusted", cost("10.1.2.3:9", "5"), 2},
		{"trusted, IPv4 in IPv6", cost("[::ffff:10.1.2.3]:9", "5"), 2},
		{"trusted, more than the burst", cost("10.1.2.3:9", "11"), 0},
		{"trusted, none", cost("10.1.2.3:9"), 5},
		{"trusted, no number", cost("10.1.2.3:9", "-5"), 5},
		{"trusted, nothing", cost("10.1.2.3:9", "0"), 5},
		{"trusted, two", cost("10.1.2.3:9", "5", "6"), 0},
		{"not trusted, two", cost("192.0.2.1:9", "5", "6"), 5},
		{"not trusted", cost("192.0.2.1:9", "1"), 5},
		{"unknown", metadata.NewIncomingContext(context.Background(), metadata.Pairs("cost", "1")), 5},
	} {
		t.Run(test.name, func(t *testing.T) {
			rule := limit("one", 10, nil)
			rule.Cost, rule.CostMetadata = proto.Uint64(2), proto.String("cost")
			l := newLimiter(t, callers(caller.WithTrustedPrefixes(prefix("10.0.0.0/8"))))
			want(t, "admitted", admitted(t, l, policies(t, rule), test.ctx, nil, 20), test.want)
		})
	}
}
