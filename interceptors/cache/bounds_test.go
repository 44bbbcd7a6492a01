package cache_test

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache"
)

// X14: Every documented bound holds against user code that hangs: whoever waits for the
// answer of a call waits no longer than that call's own time, though its handler ignores
// the context and goes on.
//
// Case X14 (cache): Nobody waits for a call past its own time, a refresh has 10 s, Close 5 s,
// though handlers and stores hang or panic.
func TestNobodyWaitsForACallThatHeedsNoContext(t *testing.T) {
	var release chan struct{} // of each test
	deaf := func(_ context.Context, n int64) error {
		if n == 1 {
			<-release
		}
		return nil
	}
	made := func(t *testing.T, ask asker, calls *atomic.Int64, _ *cache.Cache) {
		release = make(chan struct{})
		leading, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go func() { _, _ = ask(leading) }()
		synctest.Wait()
		begun := time.Now()
		name, err := ask(t.Context())
		if err != nil || name != "answer 2" {
			t.Errorf("who waits gets %q, %v", name, err)
		}
		want(t, "waited", time.Since(begun), time.Second)
		close(release)
		synctest.Wait()
		name, err = ask(t.Context())
		if err != nil || name == "" {
			t.Errorf("afterwards: %q, %v", name, err)
		}
		want(t, "calls", calls.Load(), 2)
	}
	onEachSide(t, anybody, deaf, made)
}

// X14: A refresh that hangs has 10 s; then whoever asks is answered again. Close leaves it
// running after 5 s and names it in the log.
//
// Case X14 (cache)
func TestARefreshThatHangsIsLeftBehind(t *testing.T) {
	var release chan struct{}
	var log syncBuffer
	deaf := func(_ context.Context, e *exchange) error {
		if e.number == 2 {
			<-release
		}
		return nil
	}
	both(t, refreshed, deaf, func(t *testing.T, call callFunc, _ *backend, c *cache.Cache) {
		release = make(chan struct{})
		defer synctest.Wait()
		defer close(release)
		call(t.Context(), "fudge")
		time.Sleep(time.Minute)
		call(t.Context(), "fudge").is(t, "past its ttl", "answer 1")
		time.Sleep(5*time.Minute - 5*time.Second)
		call(t.Context(), "fudge").is(t, "still", "answer 1")
		time.Sleep(10 * time.Second)
		call(t.Context(), "fudge").is(t, "past the window, and past the refresh", "answer 3")
		begun := time.Now()
		c.Close()
		want(t, "Close", time.Since(begun), 5*time.Second)
		if text := log.take(); !strings.Contains(text, "a refresh does not end: it is left running") || !strings.Contains(text, "GetSweet") || !strings.Contains(text, "since=") {
			t.Errorf("logged %q", text)
		}
	}, cache.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
}

// hanging is a store that hangs or panics where it is said to.
type hanging struct {
	*shelf
	unsubscribe func()
}

func (h hanging) Subscribe(func([]string)) func() { return h.unsubscribe }

// X14: Close ends in time though the store hangs or panics.
//
// Case X14 (cache)
func TestCloseDoesNotWaitForAStoreThatHangs(t *testing.T) {
	for name, test := range map[string]struct {
		build  func(hang func()) hanging
		lasts  time.Duration
		logged string
	}{
		"saving hangs": {func(hang func()) hanging {
			s := newShelf()
			s.saving = func(context.Context) error { hang(); return nil }
			return hanging{s, func() {}}
		}, 5 * time.Second, "the store does not end: it is left running"},
		"the subscription hangs": {func(hang func()) hanging { return hanging{newShelf(), hang} }, 5 * time.Second,
			"the store does not end its subscription: it is left running"},
		"the subscription panics": {func(func()) hanging { return hanging{newShelf(), func() { panic("no paper") }} }, 0,
			"the store has panicked"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				defer synctest.Wait()
				defer close(release)
				var log syncBuffer
				c, err := cache.New(cache.WithStore(test.build(func() { <-release })), cache.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
				if err != nil {
					t.Fatal(err)
				}
				call := clientOf(t, c, forgetful(), &backend{answer: func(context.Context, *exchange) error { return nil }})
				call(t.Context(), "fudge").is(t, "a call", "answer 1")
				begun := time.Now()
				c.Close()
				want(t, "Close", time.Since(begun), test.lasts)
				if text := log.take(); !strings.Contains(text, test.logged) {
					t.Errorf("logged %q, want %q", text, test.logged)
				}
			})
		})
	}
}

// X14: An observer that panics leaves no call waiting for another.
//
// Case X14 (observers)
func TestAnObserverThatPanicsBlocksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		c := newCache(t, cache.WithObserver(interceptors.ObserverFunc(func(context.Context, *interceptors.CallMeta, interceptors.Event) { panic("observer") })))
		ask := overClient(t, c, anybody(), func(context.Context, int64) error { return nil }, &calls)
		tried := func() (err error) {
			defer func() {
				if recover() != nil {
					err = status.Error(codes.Internal, "panicked")
				}
			}()
			_, err = ask(t.Context())
			return err
		}
		for range 3 {
			want(t, "code", status.Code(tried()), codes.OK)
		}
		want(t, "calls", calls.Load(), 1)
	})
}
