package ratelimit

import (
	"context"
	"errors"
	"time"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/guard"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

const (
	// closedWait is when to come again to a limit that refuses all calls because its
	// store is away: nobody knows when it is back.
	closedWait = time.Second
	// mostRefusals is of how many keys the store need not be asked, about.
	mostRefusals = 1 << 14
)

// place is where a call is counted at a limit.
type place uint8

const (
	here place = iota
	atStore
	nowhere // the store is away, and the limit then open or closed
)

var errAnswers = errors.New("ratelimit: the store has not answered each charge")

// takeShared charges a call at the limits that the store counts, on all or on none.
// The error is that of a call that ends meanwhile.
func (p *part) takeShared(ctx context.Context, v *verdict, patience int64) error {
	var charges []Charge
	var asked []int // which entries
	for i := range v.entries {
		e := &v.entries[i]
		if e.charge.at != atStore {
			continue
		}
		d, known := p.known(v.now, e, e.patience(patience))
		switch {
		case !known:
			charges, asked = append(charges, e.storeCharge(patience)), append(asked, i)
		case d.Admitted:
		case e.rule.shadow:
			e.charge.shadowed = true
		case d.RetryAfter > v.wait:
			v.refusing, v.wait = i, d.RetryAfter
		}
	}
	if v.refusing != nobody || len(charges) == 0 {
		return nil
	}
	all, err := guard.Call(ctx, p.store, p.meta.FullMethod, func(ctx context.Context) ([]Taken, error) {
		return p.options.store.Take(ctx, charges)
	})
	v.now = p.table.now() // a wait that is told later must not be shorter
	if err == nil && len(all) != len(charges) {
		err = errAnswers
	}
	switch {
	case err == nil:
		v.counted(p.Limiter, asked, all)
	case ctx.Err() != nil:
		return interceptors.Ended(ctx, nil)
	default:
		p.storeErrors.Add(1)
		p.fallBack(v, asked)
		if v.refusing == nobody {
			v.look(p.table, patience)
		}
	}
	return nil
}

func (e *entry) storeCharge(patience int64) Charge {
	return Charge{
		Key: e.key.bytes(), Cost: time.Duration(e.terms.cost), Burst: time.Duration(e.terms.burst),
		Patience: time.Duration(e.patience(patience)), Shadow: e.rule.shadow,
	}
}

// known decides without the store what it would refuse, by what it has told of the
// key before, and what costs nothing or more than a burst.
func (p *part) known(now int64, e *entry, patience int64) (Decision, bool) {
	if e.terms.cost == 0 || e.terms.cost > e.terms.burst {
		return decide(now, now, e.terms.burst, e.terms.cost, 0), true
	}
	hold := p.refusals.find(e.refusalKey())
	if hold == nil {
		return Decision{}, false
	}
	e.charge.tat = hold.until + e.terms.burst
	wait := hold.until + e.terms.cost - now
	if wait <= patience || wait <= 0 {
		return Decision{}, false
	}
	p.remembered.Add(1)
	return Decision{RetryAfter: time.Duration(wait)}, true
}

// refusalKey changes with the limit of the key.
func (e *entry) refusalKey() key { return e.key.of(key{uint64(e.terms.every), uint64(e.terms.burst)}) }

// counted takes over what the store has answered.
func (v *verdict) counted(l *Limiter, asked []int, all []Taken) {
	wait := time.Duration(0)
	for n, i := range asked {
		e, t := &v.entries[i], &all[n]
		e.charge.tat = v.now + int64(t.Used)
		if t.Admitted {
			e.taken, wait = t, max(wait, t.RetryAfter)
			continue
		}
		// Calls that cost less may be admitted before, so not the wait is kept.
		l.refusals.put(&hold{key: e.refusalKey(), until: e.charge.tat - e.terms.burst})
		if e.rule.shadow {
			e.charge.shadowed = true
		} else if v.refusing == nobody || t.RetryAfter > v.wait {
			v.refusing, v.wait = i, t.RetryAfter
		}
	}
	if v.refusing == nobody {
		v.wait = wait
		return
	}
	for _, i := range asked { // it has taken none
		if e := &v.entries[i]; e.taken != nil {
			e.taken, e.charge.tat = nil, e.charge.tat-e.terms.cost
		}
	}
}

// fallBack does without the store what the rules say.
func (p *part) fallBack(v *verdict, asked []int) {
	for _, i := range asked {
		e := &v.entries[i]
		e.charge.at, e.charge.tat = nowhere, 0
		switch e.rule.onFailure {
		case policyv1.StoreFailure_STORE_FAILURE_OPEN:
			p.fellOpen.Add(1)
		case policyv1.StoreFailure_STORE_FAILURE_CLOSED:
			p.fellClosed.Add(1)
			if e.rule.shadow {
				e.charge.shadowed = true
			} else {
				v.refusing, v.wait = i, closedWait
			}
		default:
			p.fellToShare.Add(1)
			p.warnOfWhole(e.rule)
			e.charge.at = here
			e.terms = e.rule.scaled(e.terms)
		}
	}
}

// giveAll gives back what the store has taken for a call that is not made.
func (p *part) giveAll(ctx context.Context, es entries) {
	if !p.shared {
		return
	}
	var taken []Taken
	for i := range es {
		if e := &es[i]; e.taken != nil {
			taken = append(taken, *e.taken)
			e.charge.tat -= e.terms.cost
			p.refusals.drop(e.refusalKey())
		}
	}
	p.give(ctx, taken)
}

// giveBack gives back what the store has taken, if the rules say so of a call that
// ended with err. It tells for how many that was anything.
func (p *part) giveBack(ctx context.Context, es entries, err error) int {
	var taken []Taken
	for i := range es {
		if e := &es[i]; e.taken != nil && e.rule.refunds(err) {
			taken = append(taken, *e.taken)
			p.refusals.drop(e.refusalKey())
		}
	}
	return p.give(ctx, taken)
}

// give outlives the caller, who may have given up.
func (p *part) give(ctx context.Context, taken []Taken) int {
	if len(taken) == 0 {
		return 0
	}
	given, err := guard.Call(context.WithoutCancel(ctx), p.store, p.meta.FullMethod, func(ctx context.Context) (int, error) {
		return p.options.store.Give(ctx, taken)
	})
	if err != nil {
		p.storeErrors.Add(1)
	}
	return given
}

// sharedStanding is that of a key which the store counts.
func (l *Limiter) sharedStanding(r *rule, k key) (Standing, error) {
	e := entry{rule: r, terms: &r.terms, key: k}
	taken, err := guard.Call(context.Background(), l.store, r.meta.FullMethod, func(ctx context.Context) (Taken, error) {
		return l.options.store.Standing(ctx, e.storeCharge(0))
	})
	if err != nil {
		return Standing{}, err
	}
	return standing(r.name, &r.terms, 0, int64(taken.Used), nil), nil
}

// resetShared fills the bucket of a key which the store counts.
func (l *Limiter) resetShared(r *rule, k key) error {
	e := entry{rule: r, terms: &r.terms, key: k}
	_, err := guard.Call(context.Background(), l.store, r.meta.FullMethod, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, l.options.store.Reset(ctx, e.storeCharge(0))
	})
	l.refusals.drop(e.refusalKey())
	return err
}
