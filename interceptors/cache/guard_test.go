package cache_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/internal/guard"
)

// faulty is a store whose every method does what a fault says first.
type faulty struct {
	*shelf
	fault func()
}

func (f *faulty) Load(ctx context.Context, key string, subjects []string) ([]byte, time.Duration, string, error) {
	f.fault()
	return f.shelf.Load(ctx, key, subjects)
}

func (f *faulty) Save(ctx context.Context, ticket string, value []byte, ttl time.Duration) error {
	f.fault()
	return f.shelf.Save(ctx, ticket, value, ttl)
}

func (f *faulty) Invalidate(ctx context.Context, subjects []string) error {
	f.fault()
	return f.shelf.Invalidate(ctx, subjects)
}

// X15: a store that ignores its context costs a call 1 s, or half of its time, and no more
// than 16 calls; then the store is down, and back when they have returned.
func TestAStoreThatHangsIsAMiss(t *testing.T) {
	s := &faulty{newShelf(), func() { time.Sleep(time.Hour) }}
	both(t, anybody, nil, func(t *testing.T, call callFunc, b *backend, c *cache.Cache) {
		timed := func(what string, ctx context.Context, id string, want time.Duration) {
			t.Helper()
			begun := time.Now()
			if got := call(ctx, id); got.err != nil || !strings.HasPrefix(got.name, "answer") {
				t.Errorf("%s: %v", what, got)
			}
			if waited := time.Since(begun); waited != want {
				t.Errorf("%s waits for %v, want %v", what, waited, want)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		timed("with a second left", ctx, "short", time.Second/2)
		cancel()
		for i := range guard.MaxAbandoned - 1 {
			timed("a call", t.Context(), fmt.Sprint(i), time.Second)
		}
		timed("beyond them", t.Context(), "down", 0)
		timed("a hit", t.Context(), "down", 0)
		begun := time.Now()
		if err := c.Invalidate(t.Context(), cache.Tag("sweets")); err == nil || time.Since(begun) != 0 {
			t.Errorf("an invalidation: %v after %v", err, time.Since(begun))
		}
		want(t, "calls", b.count(), guard.MaxAbandoned+1)
		want(t, "errors", c.Stats().StoreErrors, guard.MaxAbandoned+2)
		time.Sleep(time.Hour)
		begun = time.Now()
		if err := c.Invalidate(t.Context(), cache.Tag("sweets")); err == nil || time.Since(begun) != time.Second {
			t.Errorf("an invalidation in a store that is called again: %v after %v", err, time.Since(begun))
		}
		time.Sleep(time.Hour)
	}, cache.WithStore(s), cache.WithLogger(slog.New(slog.DiscardHandler)))
}

// A panic of the store is a miss, and counted: of Load, Save and Invalidate.
func TestAStoreThatPanicsIsAMiss(t *testing.T) {
	s := &faulty{newShelf(), func() { panic("out of paper") }}
	both(t, anybody, nil, func(t *testing.T, call callFunc, _ *backend, c *cache.Cache) {
		for i := range 300 {
			if got := call(t.Context(), fmt.Sprint(i)); got.err != nil {
				t.Fatal(got.err)
			}
		}
		want(t, "errors of Load", c.Stats().StoreErrors, 300)
		if err := c.Invalidate(t.Context(), cache.Tag("sweets")); err == nil || !strings.Contains(err.Error(), "out of paper") {
			t.Errorf("an invalidation: %v", err)
		}
		want(t, "errors with Invalidate", c.Stats().StoreErrors, 301)
	}, cache.WithStore(s), cache.WithLogger(slog.New(slog.DiscardHandler)))

	shelf := newShelf()
	shelf.saving = func(context.Context) error { panic("out of ink") }
	both(t, anybody, nil, func(t *testing.T, call callFunc, _ *backend, c *cache.Cache) {
		call(t.Context(), "fudge").is(t, "answered", "answer 1")
		synctest.Wait()
		want(t, "errors of Save", c.Stats().StoreErrors, 1)
	}, cache.WithStore(shelf), cache.WithLogger(slog.New(slog.DiscardHandler)))
}
