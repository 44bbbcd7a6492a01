package interceptors_test

import (
	"context"
	"sync"
	"testing"

	"github.com/meshlite-go/meshlite/interceptors"
)

// cached is the event of a cache.
type cached string

func (cached) Stage() interceptors.Stage { return interceptors.Cache }
func (c cached) Result() string          { return string(c) }
func (c cached) Served() bool            { return c == "hit" }

// verdict is the event of a rate limit.
type verdict struct {
	limit, result string
	decides       bool
}

func (*verdict) Stage() interceptors.Stage { return interceptors.RateLimit }
func (v *verdict) Limit() string           { return v.limit }
func (v *verdict) Result() string          { return v.result }
func (v *verdict) Decides() bool           { return v.decides }

// Case traces
func TestAnOutcomeIsOfOneCall(t *testing.T) {
	meta := &interceptors.CallMeta{Side: interceptors.Client, FullMethod: getSweet}
	if o := interceptors.OutcomeOf(t.Context(), meta); o != nil {
		t.Fatal("there is an outcome that nobody listens to")
	}
	interceptors.Publish(t.Context(), meta, nil, cached("hit")) // and nothing happens
	interceptors.Publish(t.Context(), meta, nil, &verdict{"customer", "refused", true})

	ctx, outcome := interceptors.Listen(t.Context(), interceptors.Client, getSweet)
	if _, again := interceptors.Listen(ctx, interceptors.Client, getSweet); again != outcome {
		t.Error("who listens further in has another outcome")
	}
	for name, other := range map[string]context.Context{
		"server": func() context.Context {
			ctx, _ := interceptors.Listen(ctx, interceptors.Server, getSweet)
			return ctx
		}(),
		"other method": func() context.Context {
			ctx, _ := interceptors.Listen(ctx, interceptors.Client, "/other")
			return ctx
		}(),
		"refresh": interceptors.WithoutOutcome(ctx),
	} {
		if interceptors.OutcomeOf(other, meta) != nil {
			t.Errorf("%s: has the outcome of another call", name)
		}
	}
	if interceptors.WithoutOutcome(t.Context()) != t.Context() {
		t.Error("a context that nobody listens to is wrapped")
	}
	if outcome.Cache() != nil || outcome.Limit() != nil {
		t.Error("something was recorded")
	}
	var publishing sync.WaitGroup
	for range 4 {
		publishing.Go(func() {
			interceptors.Publish(ctx, meta, nil, cached("miss"))
			interceptors.Publish(ctx, meta, nil, &verdict{"customer", "admitted", true})
			interceptors.Publish(ctx, meta, nil, &verdict{"all", "admitted", false})
		})
	}
	publishing.Wait()
	if e := outcome.Cache(); e != cached("miss") || e.Served() {
		t.Errorf("the cache's result is %v", e)
	}
	if e := outcome.Limit(); e == nil || e.Limit() != "customer" || e.Result() != "admitted" {
		t.Errorf("the verdict that decides is %v", e)
	}
}

// An observer receives every event, and finds it in the outcome already.
func TestPublishReachesOutcomeAndObserver(t *testing.T) {
	meta := &interceptors.CallMeta{Side: interceptors.Client, FullMethod: getSweet}
	ctx, outcome := interceptors.Listen(t.Context(), interceptors.Client, getSweet)
	received := 0
	observer := interceptors.ObserverFunc(func(got context.Context, of *interceptors.CallMeta, e interceptors.Event) {
		received++
		if got != ctx || of != meta || e != outcome.Cache() {
			t.Errorf("received %v of %v, the outcome has %v", e, of, outcome.Cache())
		}
	})
	for _, result := range []cached{"miss", "hit"} {
		interceptors.Publish(ctx, meta, observer, result)
	}
	if received != 2 || !outcome.Cache().Served() {
		t.Errorf("%d events, at last %v", received, outcome.Cache())
	}
	interceptors.Publish(ctx, meta, interceptors.ObserverFunc(nil), cached("miss"))
}

func TestOutcomesCostNothingWhenNobodyListens(t *testing.T) {
	meta := &interceptors.CallMeta{Side: interceptors.Client, FullMethod: getSweet}
	ctx, hit := t.Context(), &verdict{"customer", "admitted", true}
	if got := testing.AllocsPerRun(1000, func() { interceptors.Publish(ctx, meta, nil, hit) }); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
	if got := testing.AllocsPerRun(1000, func() {
		ctx, outcome := interceptors.Listen(ctx, interceptors.Client, getSweet)
		interceptors.Publish(ctx, meta, nil, hit)
		_ = outcome.Limit()
	}); got > 1 {
		t.Errorf("%v allocations to listen, want 1", got)
	}
}

func BenchmarkOutcomeThatNobodyListensTo(b *testing.B) {
	meta := &interceptors.CallMeta{Side: interceptors.Client, FullMethod: getSweet}
	hit := &verdict{"customer", "admitted", true}
	for b.Loop() {
		interceptors.Publish(b.Context(), meta, nil, hit)
	}
}
