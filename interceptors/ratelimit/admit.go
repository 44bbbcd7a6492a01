package ratelimit

import (
	"context"
	"time"

	"github.com/meshlite-go/meshlite/interceptors"
)

// few is for how many limits a decision allocates nothing.
const few = 4

// longestWait is how long a call without a deadline waits.
const longestWait = time.Minute

// entry is one call at one limit.
type entry struct {
	rule   *rule
	terms  *terms // of the rule, unless they are this call's own
	key    key
	absent bool // the call has no value for the key
	charge charge
	taken  *Taken // by the store; nil: it has taken nothing
}

type entries []entry

// verdict is the answer of all limits to a call.
type verdict struct {
	now      int64
	entries  entries
	refusing int // which entry refuses the call, or nobody
	wait     time.Duration
}

const nobody = -1

// admit charges a call on all limits, or on none: then it says which one refuses
// it, and for how long. The error is that of a call that ends while it waits. It
// uses space while that suffices.
func (p *part) admit(ctx context.Context, req any, space []entry) (verdict, error) {
	v := verdict{entries: space[:0], refusing: nobody}
	for i := range p.rules {
		r := &p.rules[i]
		if r.skip != nil && r.skip(ctx, req) {
			continue
		}
		e, err := r.meet(ctx, req) // may run the user's code
		if err != nil {
			p.reject(ctx, r)
			return v, err
		}
		v.entries = append(v.entries, e)
	}
	if len(v.entries) == 0 {
		return v, nil
	}
	patience := int64(0)
	if p.waits {
		patience = patienceOf(ctx)
	}
	v.now = p.table.now()
	if len(v.entries) > 1 {
		v.look(p.table, patience)
	}
	if p.shared && v.refusing == nobody {
		if err := p.takeShared(ctx, &v, patience); err != nil {
			return v, err
		}
	}
	if v.refusing == nobody {
		if v.charge(p.table, patience); v.refusing != nobody {
			p.giveAll(ctx, v.entries)
		}
	}
	p.finish(ctx, &v)
	if v.refusing == nobody && v.wait > 0 {
		return v, p.await(ctx, &v)
	}
	return v, nil
}

// patienceOf is how long a call can wait.
func patienceOf(ctx context.Context) int64 {
	deadline, ok := ctx.Deadline()
	if !ok {
		return int64(longestWait)
	}
	return max(int64(time.Until(deadline))-1, 0)
}

// patience is that of the call, at a limit that waits.
func (e *entry) patience(call int64) int64 {
	if e.rule.wait {
		return call
	}
	return 0
}

// look finds the limit that refuses the call for longest.
func (v *verdict) look(table *Table, patience int64) {
	for i := range v.entries {
		e := &v.entries[i]
		if e.rule.shadow || e.charge.at != here {
			continue
		}
		d := table.look(v.now, e.key, e.terms, e.patience(patience))
		if !d.Admitted && d.RetryAfter > v.wait {
			v.refusing, v.wait = i, d.RetryAfter
		}
	}
}

// charge gives back what it charged before a limit that refuses after all. What
// remains to wait is for the limit that takes longest.
func (v *verdict) charge(table *Table, patience int64) {
	for i := range v.entries {
		e := &v.entries[i]
		if e.charge.at != here {
			continue
		}
		d, taken := table.take(v.now, e.key, e.terms, e.patience(patience))
		e.charge = taken
		switch {
		case d.Admitted:
			v.wait = max(v.wait, d.RetryAfter)
		case e.rule.shadow:
			e.charge.shadowed = true
		default:
			v.entries[:i].cancel(v.now)
			v.refusing, v.wait = i, d.RetryAfter
			return
		}
	}
}

func (es entries) cancel(now int64) {
	for i := range es {
		if es[i].charge.at == here {
			es[i].charge.cancel(now)
			es[i].charge = charge{}
		}
	}
}

// settle gives back what the rules say of a call that ended with err.
func (p *part) settle(ctx context.Context, es entries, err error) {
	if p.shared {
		p.refunded.Add(uint64(p.giveBack(ctx, es, err)))
	}
	now := p.table.now()
	for i := range es {
		if es[i].rule.refunds(err) && es[i].charge.refund(now) {
			p.refunded.Add(1)
		}
	}
}

// await holds an admitted call until its time.
func (p *part) await(ctx context.Context, v *verdict) error {
	p.waited.Add(1)
	err := interceptors.Sleep(ctx, v.wait, nil)
	if err != nil {
		p.takeBack(ctx, v.entries)
	}
	v.now = p.table.now() // for what the handler reads
	return err
}

// takeBack takes back what a call was charged that is not made after all.
func (p *part) takeBack(ctx context.Context, es entries) {
	es.cancel(p.table.now())
	p.giveAll(ctx, es)
}

// finish counts and publishes the verdict on a call.
func (p *part) finish(ctx context.Context, v *verdict) {
	if v.refusing != nobody {
		e := &v.entries[v.refusing]
		p.note(ctx, e)
		p.reject(ctx, e.rule)
		return
	}
	p.admitted.Add(1)
	deciding := v.entries.deciding()
	for i := range v.entries {
		e := &v.entries[i]
		result := Admitted
		if e.charge.shadowed {
			p.shadowed.Add(1)
			e.rule.counts.shadowed.Add(1)
			result = Shadowed
		}
		if e.charge.shadowed || e.nearly(v.now) {
			p.note(ctx, e)
		}
		p.publish(ctx, e.rule, result, i == deciding)
	}
}

// deciding is the entry that an admitted call reports: the last in shadow mode that would
// have refused it, else the first.
func (es entries) deciding() (at int) {
	for i := range es {
		if es[i].charge.shadowed {
			at = i
		}
	}
	return at
}

// reject counts a call that r refuses.
func (p *part) reject(ctx context.Context, r *rule) {
	p.refused.Add(1)
	r.counts.refused.Add(1)
	p.publish(ctx, r, Refused, true)
}

func (p *part) publish(ctx context.Context, r *rule, verdict Result, decides bool) {
	interceptors.Publish(ctx, p.meta, p.options.observer, r.events.of(verdict, decides))
}

// standings are those at the limits in force.
func (es entries) standings(table *Table, now int64) []Standing {
	all := make([]Standing, 0, len(es))
	for i := range es {
		e := &es[i]
		if e.rule.shadow {
			continue
		}
		tat, b := e.charge.tat, e.charge.bucket
		switch {
		case e.charge.at != here && tat == 0: // nobody knows
			continue
		case e.charge.at == here && b == nil: // the call cost nothing, or was refused
			tat, b = table.level(now, e.key, e.terms)
		}
		all = append(all, standing(e.rule.name, e.terms, now, tat, b))
	}
	return all
}
