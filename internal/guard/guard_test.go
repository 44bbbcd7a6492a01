package guard_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/internal/guard"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store is any; what its calls do is up to each test.
type store struct{}

// bounded says that it bounds itself.
type bounded struct{}

func (bounded) Bounded() {}

func newStore(store any) (*guard.Store, *bytes.Buffer) {
	log := &bytes.Buffer{}
	return guard.NewStore(store, slog.New(slog.NewTextHandler(log, nil))), log
}

// call reports how long a call has waited.
func call(ctx context.Context, s *guard.Store, f func(context.Context) (int, error)) (waited time.Duration, err error) {
	begun := time.Now()
	_, err = guard.Call(ctx, s, "/shop.Sweets/Get", f)
	return time.Since(begun), err
}

// X15: a store that hangs costs a caller the timeout, or half of its time. When 16 calls
// hang it is not called any more, until they return.
func TestAStoreThatHangsIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, log := newStore(store{})
		release := make(chan struct{})
		var calls atomic.Int32
		hang := func(context.Context) (int, error) { calls.Add(1); <-release; return 0, nil }
		short, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		if waited, err := call(short, s, hang); waited != time.Second/4 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with half a second: %v after %v", err, waited)
		}
		for range guard.MaxAbandoned - 1 {
			if waited, err := call(t.Context(), s, hang); waited != guard.Timeout || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v after %v, want %v", err, waited, guard.Timeout)
			}
		}
		for range 100 {
			if waited, err := call(t.Context(), s, hang); waited != 0 || !errors.Is(err, guard.ErrDown) {
				t.Fatalf("down: %v after %v", err, waited)
			}
		}
		if n := calls.Load(); n != guard.MaxAbandoned {
			t.Errorf("the store is called %d times, want %d", n, guard.MaxAbandoned)
		}
		if text := log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "/shop.Sweets/Get") {
			t.Errorf("logged %q, want one line with the method", text)
		}
		close(release)
		synctest.Wait()
		if waited, err := call(t.Context(), s, hang); waited != 0 || err != nil {
			t.Errorf("afterwards: %v after %v", err, waited)
		}
	})
}

// However many call at once, no more hang than there are places, and nobody waits longer.
func TestCallsThatHangAtOnceAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newStore(store{})
		release := make(chan struct{})
		var running atomic.Int32
		var callers sync.WaitGroup
		for range 4 * guard.MaxRunning {
			callers.Go(func() {
				waited, err := call(t.Context(), s, func(context.Context) (int, error) { running.Add(1); <-release; return 0, nil })
				if waited > guard.Timeout || err == nil {
					t.Errorf("%v after %v", err, waited)
				}
			})
		}
		callers.Wait()
		if n := running.Load(); n != guard.MaxRunning {
			t.Errorf("%d calls hang, want %d", n, guard.MaxRunning)
		}
		close(release)
	})
}

// Who gives up returns at once and says nothing about the store.
func TestCallersThatGiveUpDoNotTakeAStoreDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newStore(store{})
		for range 2 * guard.MaxAbandoned {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Millisecond, cancel)
			waited, err := call(ctx, s, func(context.Context) (int, error) { time.Sleep(time.Minute); return 0, nil })
			if waited != time.Millisecond || !errors.Is(err, context.Canceled) {
				t.Errorf("%v after %v", err, waited)
			}
			if _, err := call(ctx, s, nil); !errors.Is(err, context.Canceled) {
				t.Errorf("a caller that has given up before: %v", err)
			}
		}
		if _, err := call(t.Context(), s, func(context.Context) (int, error) { return 0, nil }); err != nil {
			t.Errorf("another caller: %v", err)
		}
		time.Sleep(time.Minute) // until all have returned
	})
}

// A panic is an error of its call, whoever bounds the store, and logged once a minute.
func TestAPanicOfAStoreIsAnError(t *testing.T) {
	for name, value := range map[string]any{"guarded": store{}, "bounded": bounded{}} {
		synctest.Test(t, func(t *testing.T) {
			s, log := newStore(value)
			for range 2 * guard.MaxRunning {
				if _, err := call(t.Context(), s, func(context.Context) (int, error) { panic("out of paper") }); err == nil || !strings.Contains(err.Error(), "out of paper") {
					t.Fatalf("%s: %v", name, err)
				}
			}
			if text := log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "guard_test.go") || !strings.Contains(text, "/shop.Sweets/Get") {
				t.Errorf("%s: logged %q, want one line with the method and the stack", name, text)
			}
			time.Sleep(time.Minute)
			_, _ = call(t.Context(), s, func(context.Context) (int, error) { panic("again") })
			if !strings.Contains(log.String(), "again") {
				t.Errorf("%s: nothing is logged after a minute", name)
			}
		})
	}
}

// A store that bounds itself is called as it is: its callers wait for what it says.
func TestAStoreThatBoundsItselfIsCalledDirectly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newStore(bounded{})
		waited, err := call(t.Context(), s, func(ctx context.Context) (int, error) {
			if ctx != t.Context() {
				t.Error("the context is another")
			}
			time.Sleep(2 * guard.Timeout)
			return 0, nil
		})
		if waited != 2*guard.Timeout || err != nil {
			t.Errorf("%v after %v", err, waited)
		}
	})
}

func TestALineIsAllowedOncePerMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var line, other guard.OncePerMinute
		for range 3 {
			if !line.Allow() || line.Allow() {
				t.Error("want one line in a minute")
			}
			time.Sleep(time.Minute - 1)
			if line.Allow() {
				t.Error("a second line in a minute")
			}
			time.Sleep(time.Nanosecond)
		}
		if !other.Allow() {
			t.Error("one limit counts another's lines")
		}
	})
}

// What returns after its caller has left is passed on; a panic is an error on either way.
func TestUntilPassesOnWhatComesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, test := range map[string]struct {
			takes time.Duration
			panic any
			err   string
			late  string
		}{
			"in time":       {takes: time.Second},
			"panic":         {takes: time.Second, panic: "out of paper", err: "has panicked: out of paper"},
			"late":          {takes: time.Hour, err: guard.ErrLeft.Error(), late: "42 <nil>"},
			"panics, later": {takes: time.Hour, panic: "out of paper", err: guard.ErrLeft.Error(), late: "0 has panicked: out of paper"},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			late := ""
			value, err := guard.Until(ctx.Done(), func() (int, error) {
				time.Sleep(test.takes)
				if test.panic != nil {
					panic(test.panic)
				}
				return 42, nil
			}, func(value int, err error) { late = fmt.Sprint(value, err) })
			if err == nil && (test.err != "" || value != 42) || err != nil && err.Error() != test.err {
				t.Errorf("%s: %d, %v; want the error %q", name, value, err, test.err)
			}
			time.Sleep(2 * time.Hour)
			synctest.Wait()
			if late != test.late {
				t.Errorf("%s: %q comes late, want %q", name, late, test.late)
			}
			cancel()
		}
	})
}
