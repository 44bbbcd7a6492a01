package ratelimit

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// Result is what became of a call at a limit.
type Result uint8

const (
	// Admitted is a call that the limit let pass and was charged for.
	Admitted Result = iota + 1
	// Refused is a call that the limit refused.
	Refused
	// Shadowed is a call that a limit in shadow let pass and would have refused.
	Shadowed
	// HeldBack is a call that the client does not make because servers have refused the like
	// by their limit. The log and traces have it; observers, which count calls that a limit
	// judged, do not.
	HeldBack
)

// String is "admitted", "refused", "shadowed" or "held_back".
func (r Result) String() string {
	switch r {
	case Admitted:
		return "admitted"
	case Refused:
		return "refused"
	case Shadowed:
		return "shadowed"
	case HeldBack:
		return "held_back"
	default:
		return fmt.Sprintf("result %d", uint8(r))
	}
}

// Event is the verdict of one limit on one call.
type Event struct {
	limit   string
	verdict Result
	decides bool
}

// Stage is [interceptors.RateLimit].
func (*Event) Stage() interceptors.Stage { return interceptors.RateLimit }

// Limit is the name of the limit.
func (e *Event) Limit() string { return e.limit }

// Verdict is what became of the call at the limit.
func (e *Event) Verdict() Result { return e.verdict }

// Result is the name of the verdict.
func (e *Event) Result() string { return e.verdict.String() }

// Decides reports whether the log and traces of the call have this verdict: of several
// limits one decides.
func (e *Event) Decides() bool { return e.decides }

// events are those of one limit, made once: publishing one allocates nothing.
type events [Shadowed + 1][2]Event

func newEvents(limit string) *events {
	all := &events{}
	for verdict := Admitted; verdict <= Shadowed; verdict++ {
		all[verdict] = [2]Event{{limit, verdict, false}, {limit, verdict, true}}
	}
	return all
}

func (es *events) of(verdict Result, decides bool) *Event {
	if decides {
		return &es[verdict][1]
	}
	return &es[verdict][0]
}

// mostNear is how many keys the figures name.
const mostNear = 10

// Counts are of calls of methods that have a limit, and of messages where each is charged.
type Counts struct {
	Admitted uint64 `json:"admitted"`
	Refused  uint64 `json:"refused"`
	Shadowed uint64 `json:"shadowed"`  // would have been refused by a limit in shadow mode
	Waited   uint64 `json:"waited"`    // admitted after a wait
	Refunded uint64 `json:"refunded"`  // charges given back after the call
	HeldBack uint64 `json:"held_back"` // not made yet because a server has refused such calls
}

// Stats are the figures of a limiter since it was made. None of them shows a key
// that may be a secret.
type Stats struct {
	Counts

	// Of limits in a shared store, calls that a limit has refused without asking it,
	// since it had told until when; and what did not succeed there.
	Remembered, StoreErrors uint64
	// Calls at limits whose store was away: admitted, refused, counted by share.
	FellOpen, FellClosed, FellToShare uint64

	Keys      int    // whose counts are kept, idle ones included
	Forgotten uint64 // keys forgotten before their bucket was full again

	Limits []LimitStats // of the methods called so far, by method
	Near   []NearStats  // the ten keys that have used most of a limit, from three quarters on
}

// LimitStats is a limit of a method, as of its last call.
type LimitStats struct {
	Method string // "/package.Service/Method"
	Side   string // "client" or "server"
	Name   string
	Limit  Limit
	By     string // "peer", "metadata customer-id"; "" is all callers together
	Rules  string // what else the policy says of it: "cost 2, wait, shadow"

	// Refused are the calls that this limit refused, and Shadowed those that it would
	// have refused, while in shadow, since the limiter was made.
	Refused, Shadowed uint64
}

// NearStats is a key that is near a limit or over it.
type NearStats struct {
	Method, Side, Name string
	// Key is the network address of a limit by peer, "" for all callers together,
	// and otherwise a hash, which is another one in another process.
	Key       string
	Used      float64 // the share of the burst; beyond 1 calls wait
	Remaining uint64  // calls of cost 1
	Reset     time.Duration
}

// Stats reads the figures. They are taken one after the other, not at one moment.
func (l *Limiter) Stats() Stats {
	s := Stats{
		Counts: Counts{
			Admitted: l.admitted.Load(),
			Refused:  l.refused.Load(),
			Shadowed: l.shadowed.Load(),
			Waited:   l.waited.Load(),
			Refunded: l.refunded.Load(),
			HeldBack: l.heldBack.Load(),
		},

		Remembered: l.remembered.Load(), StoreErrors: l.storeErrors.Load(),
		FellOpen: l.fellOpen.Load(), FellClosed: l.fellClosed.Load(), FellToShare: l.fellToShare.Load(),

		Keys:      int(l.table.used.Load()),
		Forgotten: l.table.lost.Load(),
		Near:      l.nearest(),
	}
	for _, p := range l.limits.all() {
		for i := range p.rules {
			s.Limits = append(s.Limits, p.rules[i].stats())
		}
	}
	return s
}

func (r *rule) stats() LimitStats {
	var rules []string
	add := func(is bool, text string) {
		if is {
			rules = append(rules, text)
		}
	}
	add(r.cost != 1, fmt.Sprint("cost ", r.cost))
	add(r.costKey != "", "cost by metadata "+r.costKey)
	add(r.costOf != nil, "cost by function")
	add(r.limitOf != nil, "limit by function")
	add(r.skip != nil, "skip by function")
	add(r.refund == policyv1.Refund_REFUND_FAILED, "refund failed")
	add(r.refund == policyv1.Refund_REFUND_SUCCEEDED, "refund succeeded")
	add(r.wait, "wait")
	add(r.shadow, "shadow")
	add(r.perMessage, "per message")
	add(r.at == atStore, "shared")
	if r.at == here && r.sharing != nil {
		add(true, fmt.Sprintf("share %.3g", r.sharing.share()))
	}
	add(r.terms.warm > 0, fmt.Sprint("warm-up ", time.Duration(r.terms.warm)))
	return LimitStats{
		Method: r.meta.FullMethod, Side: r.meta.Side.String(), Name: r.name,
		Limit: r.limit.full(), By: r.by.by, Rules: strings.Join(rules, ", "),
		Refused: r.counts.refused.Load(), Shadowed: r.counts.shadowed.Load(),
	}
}

// nearest are those that have used most.
func (l *Limiter) nearest() []NearStats {
	seen, now := map[key]bool{}, l.table.now()
	var all []NearStats
	for i := range l.near.places {
		n := l.near.places[i].Load()
		if n == nil || seen[n.key] {
			continue
		}
		seen[n.key] = true
		used := n.used(l.table)
		if used < nearShare {
			continue
		}
		tat, b := n.level(now, l.table)
		s := standing(n.rule.name, n.terms, now, tat, b)
		all = append(all, NearStats{
			Method: n.rule.meta.FullMethod, Side: n.rule.meta.Side.String(), Name: s.Name,
			Key: n.value, Used: used, Remaining: s.Remaining, Reset: s.Reset,
		})
	}
	slices.SortFunc(all, func(a, b NearStats) int {
		return cmp.Or(cmp.Compare(b.Used, a.Used), cmp.Compare(a.Method, b.Method), cmp.Compare(a.Key, b.Key))
	})
	return all[:min(len(all), mostNear)]
}
