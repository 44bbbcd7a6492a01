package proxies

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
)

// asker makes one request, in a time of its own, and returns which backend answered.
type asker func(ctx context.Context) (name string, err error)

// tally counts answers by backend, and what failed.
type tally struct {
	mu       sync.Mutex
	answers  map[string]int
	failures int
	first    error
}

func newTally() *tally { return &tally{answers: map[string]int{}} }

func (c *tally) add(name string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.answers[name]++
		return
	}
	if c.failures++; c.first == nil {
		c.first = err
	}
}

func (c *tally) answeredBy(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answers[name]
}

func (c *tally) all() (answers, failures int, first error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.answers {
		answers += n
	}
	return answers, c.failures, c.first
}

const callers = 8

// load asks until stop is called, which returns what came of it.
func load(t testing.TB, ask asker) (_ *tally, stop func()) {
	t.Helper()
	done := make(chan struct{})
	c := newTally()
	var work sync.WaitGroup
	for range callers {
		work.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(2 * time.Millisecond):
				}
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				c.add(ask(ctx))
				cancel()
			}
		})
	}
	stop = sync.OnceFunc(func() { close(done); work.Wait() })
	t.Cleanup(stop)
	return c, stop
}

// within waits until ready.
func within(t testing.TB, what string, ready func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !ready(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// allAnswer waits until each backend has answered.
func allAnswer(t testing.TB, ask asker, backends []*backend) {
	t.Helper()
	seen := map[string]bool{}
	within(t, fmt.Sprintf("an answer of each of %d backends", len(backends)), func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if name, err := ask(ctx); err == nil {
			seen[name] = true
		}
		return len(seen) == len(backends)
	})
}

// sharesAreEven makes 100 requests for each backend, one after another. Round robin and
// least connections both go around then. Two workers or threads may each begin anew.
func sharesAreEven(t testing.TB, ask asker, backends []*backend) {
	t.Helper()
	c := newTally()
	for range 100 * len(backends) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		c.add(ask(ctx))
		cancel()
	}
	if _, failures, err := c.all(); failures > 0 {
		t.Errorf("%d requests failed, the first with: %v", failures, err)
	}
	for _, b := range backends {
		if n := c.answeredBy(b.name); n < 80 || n > 120 {
			t.Errorf("%s answered %d of %d, want about 100: %v", b.name, n, 100*len(backends), c.answers)
		}
	}
	t.Logf("shares: %v", c.answers)
}

// killAndRestart kills a backend under load until the proxy has gone on without it for some
// hundred answers, and starts it again until it answers. It returns the tally.
func killAndRestart(t testing.TB, ask asker, b *backend) *tally {
	t.Helper()
	c, stop := load(t, ask)
	within(t, "an answer before the kill", func() bool { return c.answeredBy(b.name) > 50 })
	b.kill()
	answered, _, _ := c.all()
	within(t, "answers without the killed backend", func() bool { n, _, _ := c.all(); return n > answered+2000 })
	before := c.answeredBy(b.name)
	b.start(t)
	within(t, "answers of the backend after its start", func() bool { return c.answeredBy(b.name) > before+200 })
	stop()
	answers, failures, err := c.all()
	t.Logf("%d answers, %d failures, first %v: %v", answers, failures, err, c.answers)
	return c
}
