package interceptors_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/interceptors"
)

var unobserved *interceptors.Publisher

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
	unobserved.Publish(t.Context(), meta, cached("hit")) // and nothing happens
	unobserved.Publish(t.Context(), meta, &verdict{"customer", "refused", true})

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
			unobserved.Publish(ctx, meta, cached("miss"))
			unobserved.Publish(ctx, meta, &verdict{"customer", "admitted", true})
			unobserved.Publish(ctx, meta, &verdict{"all", "admitted", false})
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
		interceptors.NewPublisher(observer).Publish(ctx, meta, result)
	}
	if received != 2 || !outcome.Cache().Served() {
		t.Errorf("%d events, at last %v", received, outcome.Cache())
	}
	interceptors.NewPublisher(interceptors.ObserverFunc(nil)).Publish(ctx, meta, cached("miss"))
}

// A panic of an observer is logged once a minute for each concern, and ends nothing.
func TestObserversMayPanic(t *testing.T) {
	log := &bytes.Buffer{}
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(log, nil)))
	defer slog.SetDefault(before)
	synctest.Test(t, func(t *testing.T) {
		meta := &interceptors.CallMeta{Side: interceptors.Client, FullMethod: getSweet}
		received := 0
		observer := interceptors.ObserverFunc(func(context.Context, *interceptors.CallMeta, interceptors.Event) {
			received++
			panic("no pencil")
		})
		one, other := interceptors.NewPublisher(observer), interceptors.NewPublisher(observer)
		for range 3 {
			one.Publish(t.Context(), meta, cached("hit"))
			other.Publish(t.Context(), meta, cached("hit"))
		}
		if text := log.String(); received != 6 || strings.Count(text, "no pencil") != 2 || !strings.Contains(text, getSweet) || !strings.Contains(text, "call_test.go") {
			t.Errorf("%d events, want 6; logged %q, want one line for each publisher, with the method and the stack", received, text)
		}
		time.Sleep(time.Minute)
		if one.Publish(t.Context(), meta, cached("hit")); strings.Count(log.String(), "no pencil") != 3 {
			t.Error("nothing is logged after a minute")
		}
	})
}

func TestOutcomesCostNothingWhenNobodyListens(t *testing.T) {
	meta := &interceptors.CallMeta{Side: interceptors.Client, FullMethod: getSweet}
	ctx, hit := t.Context(), &verdict{"customer", "admitted", true}
	if got := testing.AllocsPerRun(1000, func() { unobserved.Publish(ctx, meta, hit) }); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
	if got := testing.AllocsPerRun(1000, func() {
		ctx, outcome := interceptors.Listen(ctx, interceptors.Client, getSweet)
		unobserved.Publish(ctx, meta, hit)
		_ = outcome.Limit()
	}); got > 1 {
		t.Errorf("%v allocations to listen, want 1", got)
	}
}

func BenchmarkOutcomeThatNobodyListensTo(b *testing.B) {
	meta := &interceptors.CallMeta{Side: interceptors.Client, FullMethod: getSweet}
	hit := &verdict{"customer", "admitted", true}
	for b.Loop() {
		unobserved.Publish(b.Context(), meta, hit)
	}
}
