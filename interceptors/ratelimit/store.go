package ratelimit

import (
	"context"
	"errors"
	"time"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/guard"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// Store counts for all replicas together, by its own clock, by the generic cell rate
// algorithm: of each key it keeps the time at which its bucket will be full. It
// must be safe for concurrent use, and return when its context ends. See package
// interceptors/ratelimit/redis.
//
// A call waits for a store that does not return for 1 s, or half of the time that it has
// left; then it is as if the store had answered an error. Methods run 256 times at once at
// most, and when 16 of them have not returned in time, the store counts as down until they
// do. A panic is an error, too. All are counted, and logged once a minute. A store with a
// method Bounded() bounds itself by what it says: it is called in the goroutine of the
// call, and only panics are caught.
type Store interface {
	// Take decides on charges, each of another key, and answers them in their order.
	// It takes all, or none if one is refused that is not in shadow. Those in shadow
	// are taken if they are admitted. After an error nothing is known, and
	// on_store_failure of the rules applies.
	Take(ctx context.Context, charges []Charge) ([]Taken, error)
	// Give refunds what was taken, and admitted, as far as time has not given it back:
	// the cost, or less if the bucket is full earlier after that charge. A waiting call is
	// refunded in full only if no later call was scheduled behind it, and else not at all.
	// given counts the charges of which something was given back.
	Give(ctx context.Context, taken []Taken) (given int, err error)
	// Standing reports the bucket of the key of c. It takes nothing, and is not admitted.
	Standing(ctx context.Context, c Charge) (Taken, error)
	// Reset makes the bucket of the key of c full.
	Reset(ctx context.Context, c Charge) error
}

// Charge is what one call costs at one limit, as time.
type Charge struct {
	// Key identifies the limit and the caller: a digest that shows neither.
	Key [16]byte
	// Cost is how long the limit takes to give the call back: above 0, at most Burst.
	Cost time.Duration
	// Burst is how long it takes to fill an empty bucket. A key whose Burst has
	// changed keeps the used fraction of it.
	Burst time.Duration
	// Patience is for how long the call would wait.
	Patience time.Duration
	// Shadow is a limit that refuses nothing.
	Shadow bool
}

// Taken is the answer to a charge.
type Taken struct {
	Decision
	Charge Charge
	// Used is how long the bucket now takes to be full.
	Used time.Duration
	// FullAt is when that is by the clock of the store, in nanoseconds since 1970.
	FullAt int64
}

const (
	// closedWait is the RetryAfter of a closed limit whose store is unavailable, for an
	// unknown time.
	closedWait = time.Second
	// maxStoreRefusals bounds the keys whose refusal by the store is remembered, about.
	maxStoreRefusals = 1 << 14
)

var errAnswers = errors.New("ratelimit: the store has not answered each charge")

// takeFromStore charges a call at the limits that the store counts, on all or on none.
// The error is that of a call that ends meanwhile.
func (m *methodLimits) takeFromStore(ctx context.Context, v *verdict) error {
	var charges []Charge
	var pending []int // the checks that the store decides
	for i := range v.checks {
		c := &v.checks[i]
		if c.charge.in != inStore {
			continue
		}
		d, known := c.withoutStore(m.limiter, v.now, v.patienceAt(c))
		switch {
		case !known:
			charges, pending = append(charges, c.storeCharge(v.patienceAt(c))), append(pending, i)
		case d.Admitted:
		case c.rule.shadow:
			c.charge.shadowed = true
		case d.RetryAfter > v.wait:
			v.refuse(i, d.RetryAfter)
		}
	}
	if !v.admitted() || len(charges) == 0 {
		return nil
	}
	all, err := guard.Call(ctx, m.limiter.store, m.meta.FullMethod, func(ctx context.Context) ([]Taken, error) {
		return m.limiter.options.store.Take(ctx, charges)
	})
	v.now = m.limiter.table.now() // a wait that is reported later must not be shorter
	if err == nil && len(all) != len(charges) {
		err = errAnswers
	}
	switch {
	case err == nil:
		v.takeOver(m.limiter.storeRefusals, pending, all)
	case ctx.Err() != nil:
		return interceptors.Ended(ctx, nil)
	default:
		m.limiter.storeErrors.Add(1)
		m.fallBack(v, pending)
		if v.admitted() {
			v.look(m.limiter.table)
		}
	}
	return nil
}

func (c *check) storeCharge(patience int64) Charge {
	return Charge{
		Key: c.key.bytes(), Cost: time.Duration(c.gcra.cost), Burst: time.Duration(c.gcra.burst),
		Patience: time.Duration(patience), Shadow: c.rule.shadow,
	}
}

// withoutStore decides what needs no store: calls that cost nothing or more than a burst,
// and keys that the store has refused until a time to come.
func (c *check) withoutStore(l *Limiter, now, patience int64) (Decision, bool) {
	if c.gcra.cost == 0 || c.gcra.cost > c.gcra.burst {
		return decide(now, now, c.gcra.burst, c.gcra.cost, 0), true
	}
	refusal := l.storeRefusals.find(c.refusalKey())
	if refusal == nil {
		return Decision{}, false
	}
	c.charge.tat = refusal.until + c.gcra.burst
	wait := refusal.until + c.gcra.cost - now
	if wait <= patience || wait <= 0 {
		return Decision{}, false
	}
	l.remembered.Add(1)
	return Decision{RetryAfter: time.Duration(wait)}, true
}

// refusalKey changes with the limit of the key.
func (c *check) refusalKey() key {
	return c.key.combine(key{uint64(c.gcra.interval), uint64(c.gcra.burst)})
}

// takeOver records what the store has answered to the pending checks.
func (v *verdict) takeOver(refusals cooldowns, pending []int, all []Taken) {
	wait := time.Duration(0)
	for n, i := range pending {
		c, t := &v.checks[i], &all[n]
		c.charge.tat = v.now + int64(t.Used)
		if t.Admitted {
			c.taken, wait = t, max(wait, t.RetryAfter)
			continue
		}
		// Calls that cost less may be admitted before, so not the wait is kept.
		refusals.put(&cooldown{key: c.refusalKey(), until: c.charge.tat - c.gcra.burst})
		if c.rule.shadow {
			c.charge.shadowed = true
		} else if v.admitted() || t.RetryAfter > v.wait {
			v.refuse(i, t.RetryAfter)
		}
	}
	if v.admitted() {
		v.wait = wait
		return
	}
	for _, i := range pending { // it has taken none
		if c := &v.checks[i]; c.taken != nil {
			c.taken, c.charge.tat = nil, c.charge.tat-c.gcra.cost
		}
	}
}

// fallBack applies on_store_failure of the rules to the pending checks.
func (m *methodLimits) fallBack(v *verdict, pending []int) {
	for _, i := range pending {
		c := &v.checks[i]
		c.charge.in, c.charge.tat = uncounted, 0
		switch c.rule.onFailure {
		case policyv1.StoreFailure_STORE_FAILURE_OPEN:
			m.limiter.fallbackOpen.Add(1)
		case policyv1.StoreFailure_STORE_FAILURE_CLOSED:
			m.limiter.fallbackClosed.Add(1)
			if c.rule.shadow {
				c.charge.shadowed = true
			} else {
				v.refuse(i, closedWait)
			}
		default:
			m.limiter.fallbackPerReplica.Add(1)
			m.limiter.warnWithoutShare(c.rule)
			c.charge.in = inProcess
			c.gcra = c.rule.scaled(c.gcra)
		}
	}
}

// giveAllBack refunds what the store has taken for a call that is not made.
func (m *methodLimits) giveAllBack(ctx context.Context, cs checks) {
	if !m.usesStore {
		return
	}
	var taken []Taken
	for i := range cs {
		if c := &cs[i]; c.taken != nil {
			taken = append(taken, *c.taken)
			c.charge.tat -= c.gcra.cost
			m.limiter.storeRefusals.drop(c.refusalKey())
		}
	}
	m.give(ctx, taken)
}

// giveBack refunds what the store has taken, where the rules refund a call that ended with
// err. It counts the charges of which something was given back.
func (m *methodLimits) giveBack(ctx context.Context, cs checks, err error) int {
	var taken []Taken
	for i := range cs {
		if c := &cs[i]; c.taken != nil && c.rule.refunds(err) {
			taken = append(taken, *c.taken)
			m.limiter.storeRefusals.drop(c.refusalKey())
		}
	}
	return m.give(ctx, taken)
}

// give outlives the caller, whose context may have ended.
func (m *methodLimits) give(ctx context.Context, taken []Taken) int {
	if len(taken) == 0 {
		return 0
	}
	given, err := guard.Call(context.WithoutCancel(ctx), m.limiter.store, m.meta.FullMethod, func(ctx context.Context) (int, error) {
		return m.limiter.options.store.Give(ctx, taken)
	})
	if err != nil {
		m.limiter.storeErrors.Add(1)
	}
	return given
}
