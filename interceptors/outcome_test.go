package interceptors_test

import (
	"context"
	"sync"
	"testing"

	"github.com/meshlite-go/meshlite/interceptors"
)

func TestAnOutcomeIsOfOneCall(t *testing.T) {
	meta := &interceptors.CallMeta{Side: interceptors.Client, FullMethod: getSweet}
	if o := interceptors.OutcomeOf(t.Context(), meta); o != nil {
		t.Fatal("there is an outcome that nobody listens to")
	}
	interceptors.OutcomeOf(t.Context(), meta).TellCache("hit") // and nothing happens
	interceptors.OutcomeOf(t.Context(), meta).TellLimit("customer", "refused")

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
		"refresh": interceptors.Unheard(ctx),
	} {
		if interceptors.OutcomeOf(other, meta) != nil {
			t.Errorf("%s: tells of another call", name)
		}
	}
	if interceptors.Unheard(t.Context()) != t.Context() {
		t.Error("a context that nobody listens to is wrapped")
	}
	if limit, verdict := outcome.Limit(); outcome.Cache() != "" || limit != "" || verdict != "" {
		t.Error("it was told something")
	}
	var telling sync.WaitGroup
	for range 4 {
		telling.Go(func() {
			o := interceptors.OutcomeOf(ctx, meta)
			o.TellCache("miss")
			o.TellLimit("customer", "admitted")
		})
	}
	telling.Wait()
	if limit, verdict := outcome.Limit(); outcome.Cache() != "miss" || limit != "customer" || verdict != "admitted" {
		t.Errorf("%q, %q, %q", outcome.Cache(), limit, verdict)
	}
}

func TestOutcomesCostNothingWhenNobodyListens(t *testing.T) {
	meta := &interceptors.CallMeta{Side: interceptors.Client, FullMethod: getSweet}
	ctx := t.Context()
	if got := testing.AllocsPerRun(1000, func() { interceptors.OutcomeOf(ctx, meta).TellCache("hit") }); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
	if got := testing.AllocsPerRun(1000, func() {
		ctx, outcome := interceptors.Listen(ctx, interceptors.Client, getSweet)
		interceptors.OutcomeOf(ctx, meta).TellCache("hit")
		_ = outcome.Cache()
	}); got > 1 {
		t.Errorf("%v allocations to listen, want 1", got)
	}
}

func BenchmarkOutcomeThatNobodyListensTo(b *testing.B) {
	meta := &interceptors.CallMeta{Side: interceptors.Client, FullMethod: getSweet}
	for b.Loop() {
		interceptors.OutcomeOf(b.Context(), meta).TellCache("hit")
	}
}
