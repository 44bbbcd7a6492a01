package interceptors

import (
	"context"
	"sync"
)

// Outcome is what concerns further in tell of one call to those further out, beyond
// its error: what the cache had, which limit decided. It is safe for concurrent
// use. A nil Outcome takes what it is told and keeps nothing.
//
// Whoever wants to know listens, and reads at the end of the call:
//
//	ctx, outcome := interceptors.Listen(ctx, meta.Side, meta.FullMethod)
//	err := invoker(ctx, method, req, reply, cc, opts...)
//	log.Print(outcome.Cache())
//
// A call that nobody listens to costs whoever tells one look into its context.
type Outcome struct {
	side   Side
	method string

	mu             sync.Mutex
	cache          string
	limit, verdict string
}

type outcomeKey struct{}

// listening is a context with an outcome, in one piece.
type listening struct {
	context.Context
	outcome Outcome
}

// Value finds the outcome.
func (l *listening) Value(key any) any {
	if key == (outcomeKey{}) {
		return &l.outcome
	}
	return l.Context.Value(key)
}

// Listen is the outcome of the call of fullMethod that is about to be made or
// handled with ctx: the one that a concern further out listens to, or a new one.
func Listen(ctx context.Context, side Side, fullMethod string) (context.Context, *Outcome) {
	if o := outcomeOf(ctx, side, fullMethod); o != nil {
		return ctx, o
	}
	l := &listening{Context: ctx}
	l.outcome.side, l.outcome.method = side, fullMethod
	return l, &l.outcome
}

// OutcomeOf is what to tell of a call of meta's method, or nil if nobody listens.
// The outcome of a call from whose handler this one is made is another's.
func OutcomeOf(ctx context.Context, meta *CallMeta) *Outcome {
	return outcomeOf(ctx, meta.Side, meta.FullMethod)
}

func outcomeOf(ctx context.Context, side Side, method string) *Outcome {
	o, _ := ctx.Value(outcomeKey{}).(*Outcome)
	if o == nil || o.side != side || o.method != method {
		return nil
	}
	return o
}

// Unheard is ctx for what is done on the occasion of a call and not for it, such as
// refreshing what the call was answered with.
func Unheard(ctx context.Context) context.Context {
	if ctx.Value(outcomeKey{}) == nil {
		return ctx
	}
	return context.WithValue(ctx, outcomeKey{}, (*Outcome)(nil))
}

// TellCache tells what the cache had, such as "hit" or "miss".
func (o *Outcome) TellCache(result string) {
	if o != nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.cache = result
	}
}

// TellLimit tells the verdict of a limit: "admitted", "refused", "shadowed" or
// "held_back". The limit is the name of a rate limit, or "concurrency". What was told
// before, by a limit further out or of an earlier attempt, is forgotten.
func (o *Outcome) TellLimit(limit, verdict string) {
	if o != nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.limit, o.verdict = limit, verdict
	}
}

// Cache is what the cache had, "" if it was not asked.
func (o *Outcome) Cache() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.cache
}

// Limit is the limit that decided and its verdict: the one that refused, else one that
// would have refused were it in force, else the first. Both are "" if the call met none.
func (o *Outcome) Limit() (limit, verdict string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.limit, o.verdict
}
