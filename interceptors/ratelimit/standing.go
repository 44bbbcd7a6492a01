package ratelimit

import (
	"context"
	"time"
)

// Standing is where a caller stands at one limit.
type Standing struct {
	Name  string // of the limit
	Limit Limit
	// Remaining is what may come at once, in calls of cost 1.
	Remaining uint64
	// Reset is how long it takes until the whole burst may come again.
	Reset time.Duration
}

// standing is that of the key of b, nil for a new one, whose bucket is full at tat.
func standing(name string, terms *terms, now, tat int64, b *bucket) Standing {
	s := Standing{Name: name, Limit: terms.limit.full(), Reset: time.Duration(max(tat-now, 0))}
	one := *terms
	one.cost = terms.every
	burst := terms.burst
	if burst > 0 {
		burst = max(burst, terms.every) // a share of the burst may be less than a call
	}
	if free := burst - max(tat-now, 0); free > 0 {
		s.Remaining = uint64(free / one.costAt(now, b))
	}
	return s
}

// FromContext tells the handler of a call where its caller stood at each limit of
// the method right after the call was admitted, in the order of the policy, and so
// what the RateLimit field tells (see [WithFields]). It reports false where no
// limiter of a server is in the chain, or the method has no limit.
func FromContext(ctx context.Context) ([]Standing, bool) {
	c, ok := ctx.Value(callKey{}).(*call)
	if !ok {
		return nil, false
	}
	return c.entries.standings(c.table, c.now), true
}

type callKey struct{}

// call is the context of an admitted call, in one piece where a method has no more
// than two limits.
type call struct {
	context.Context
	table   *Table
	now     int64
	entries entries
	space   [2]entry
}

func (p *part) newCall(ctx context.Context, v *verdict) *call {
	c := &call{Context: ctx, table: p.table, now: v.now}
	c.entries = append(c.space[:0], v.entries...)
	return c
}

// Value finds the call itself.
func (c *call) Value(name any) any {
	if name == (callKey{}) {
		return c
	}
	return c.Context.Value(name)
}
