package ratelimit_test

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/internal/guard"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// faulty is a store whose methods do what their faults say first.
type faulty struct {
	*memory
	take, other func()
}

func (f *faulty) Take(ctx context.Context, charges []ratelimit.Charge) ([]ratelimit.Taken, error) {
	f.take()
	return f.memory.Take(ctx, charges)
}

func (f *faulty) Give(ctx context.Context, taken []ratelimit.Taken) (int, error) {
	f.other()
	return f.memory.Give(ctx, taken)
}

func (f *faulty) Standing(ctx context.Context, c ratelimit.Charge) (ratelimit.Taken, error) {
	f.other()
	return f.memory.Standing(ctx, c)
}

func (f *faulty) Reset(ctx context.Context, c ratelimit.Charge) error {
	f.other()
	return f.memory.Reset(ctx, c)
}

var discard = ratelimit.WithLogger(slog.New(slog.DiscardHandler))

// X15: a store that hangs or panics is one that answers an error, at its time: the verdict
// is that of on_store_failure.
func TestAStoreThatHangsOrPanicsIsAway(t *testing.T) {
	for name, panics := range map[string]bool{"hangs": false, "panics": true} {
		for failure, code := range map[policyv1.StoreFailure]codes.Code{
			policyv1.StoreFailure_STORE_FAILURE_OPEN: codes.OK, policyv1.StoreFailure_STORE_FAILURE_CLOSED: codes.ResourceExhausted,
		} {
			t.Run(name+" "+failure.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					release := make(chan struct{})
					fault := func() {
						if panics {
							panic("out of paper")
						}
						<-release
					}
					l := newLimiter(t, ratelimit.WithStore(&faulty{newMemory(), fault, fault}), discard)
					rule := shared("one", 60, nil)
					rule.OnStoreFailure = failure
					p := policies(t, rule)
					timed := func(ctx context.Context, wait time.Duration) {
						t.Helper()
						begun := time.Now()
						if err := handle(l, p, ctx, nil); status.Code(err) != code {
							t.Errorf("%v, want %v", err, code)
						}
						if panics {
							wait = 0
						}
						if waited := time.Since(begun); waited != wait {
							t.Errorf("a call waits for %v, want %v", waited, wait)
						}
					}
					ctx, cancel := context.WithTimeout(from(), time.Second)
					defer cancel()
					timed(ctx, time.Second/2)
					begun := time.Now()
					if _, err := l.Standing(browse, "one", ""); err == nil {
						t.Error("the standing is known")
					}
					if err := l.Reset(browse, "one", ""); err == nil {
						t.Error("the key is reset")
					}
					if waited := time.Since(begun); waited > 2*time.Second {
						t.Errorf("Standing and Reset wait for %v", waited)
					}
					for range guard.MaxAbandoned - 3 {
						timed(from(), time.Second)
					}
					timed(from(), 0)
					want(t, "errors", l.Stats().StoreErrors, guard.MaxAbandoned-1)
					close(release)
				})
			})
		}
	}
}

// What is given back to a store that hangs or panics is lost, and the call ends in time.
func TestAStoreThatDoesNotTakeBackHoldsNoCall(t *testing.T) {
	for name, panics := range map[string]bool{"hangs": false, "panics": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				fault := func() {
					if panics {
						panic("out of paper")
					}
					<-release
				}
				l := newLimiter(t, ratelimit.WithStore(&faulty{newMemory(), func() {}, fault}), discard)
				rule := shared("one", 60, nil)
				rule.Refund = policyv1.Refund_REFUND_SUCCEEDED
				begun := time.Now()
				want(t, "the call", handle(l, policies(t, rule), from(), nil), nil)
				if waited := time.Since(begun); waited != time.Second && !(panics && waited == 0) {
					t.Errorf("the call ends after %v", waited)
				}
				want(t, "errors", l.Stats().StoreErrors, 1)
				close(release)
			})
		})
	}
}

// An observer that panics changes no verdict; one that hangs holds its own call only.
func TestAnObserverThatPanicsOrHangsHoldsNobodyElse(t *testing.T) {
	l := newLimiter(t, ratelimit.WithObserver(interceptors.ObserverFunc(func(context.Context, *interceptors.CallMeta, interceptors.Event) { panic("no pencil") })))
	want(t, "admitted", admitted(t, l, policies(t, limit("one", 3, nil)), from(), nil, 10), 3)

	synctest.Test(t, func(t *testing.T) {
		release, ended := make(chan struct{}), make(chan error, 1)
		first := true
		l := newLimiter(t, ratelimit.WithObserver(interceptors.ObserverFunc(func(context.Context, *interceptors.CallMeta, interceptors.Event) {
			if first {
				first = false
				<-release
			}
		})))
		p := policies(t, limit("one", 3, nil))
		go func() { ended <- handle(l, p, from(), nil) }()
		synctest.Wait()
		want(t, "admitted meanwhile", admitted(t, l, p, from(), nil, 10), 2)
		close(release)
		want(t, "the call of the observer", <-ended, nil)
	})
}
