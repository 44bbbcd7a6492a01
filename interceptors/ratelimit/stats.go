package ratelimit

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// Result is the outcome of a call at a limit.
type Result uint8

const (
	// Admitted is a call that the limit admitted and charged.
	Admitted Result = iota + 1
	// Refused is a call that the limit refused.
	Refused
	// Shadowed is a call that a limit in shadow admitted and would have refused.
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

// maxHotKeys bounds the keys in the figures.
const maxHotKeys = 10

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

	// Of limits in an external store: calls refused without asking it, as it had refused the
	// key until a time to come; and operations that failed.
	Remembered  uint64 `json:"remembered"`
	StoreErrors uint64 `json:"store_errors"`
	// Calls at limits whose store was unavailable, by on_store_failure: admitted, refused,
	// counted by the share of this replica.
	FallbackOpen       uint64 `json:"fallback_open"`
	FallbackClosed     uint64 `json:"fallback_closed"`
	FallbackPerReplica uint64 `json:"fallback_per_replica"`

	Keys      int    `json:"keys"`      // whose counts are kept, idle ones included
	Forgotten uint64 `json:"forgotten"` // keys forgotten before their bucket was full again

	Limits  []LimitStats  `json:"limits"`   // of the methods called so far, by method
	HotKeys []HotKeyStats `json:"hot_keys"` // the ten keys that have used most of a limit, from three quarters on
}

// LimitStats is a limit of a method, as of its last call.
type LimitStats struct {
	Method string `json:"method"` // "/package.Service/Method"
	Side   string `json:"side"`   // "client" or "server"
	Name   string `json:"name"`
	Limit  Limit  `json:"rate"`
	By     string `json:"by"`    // "peer", "metadata customer-id"; "" is all callers together
	Rules  string `json:"rules"` // what else the policy says of it: "cost 2, wait, shadow"

	// Refused are the calls that this limit refused, and Shadowed those that it would
	// have refused, while in shadow, since the limiter was made.
	Refused  uint64 `json:"refused"`
	Shadowed uint64 `json:"shadowed"`
}

// HotKeyStats is a key that is near its limit or over it.
type HotKeyStats struct {
	Method string `json:"method"`
	Side   string `json:"side"`
	Name   string `json:"name"`
	// Key is the network address of a limit by peer, "" for all callers together,
	// and otherwise a hash, which is another one in another process.
	Key       string        `json:"key"`
	Used      float64       `json:"used"`      // fraction of the burst; beyond 1 calls wait
	Remaining uint64        `json:"remaining"` // calls of cost 1
	Reset     time.Duration `json:"reset_ns"`
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
		FallbackOpen: l.fallbackOpen.Load(), FallbackClosed: l.fallbackClosed.Load(), FallbackPerReplica: l.fallbackPerReplica.Load(),

		Keys:      int(l.table.used.Load()),
		Forgotten: l.table.forgotten.Load(),
		HotKeys:   l.hottest(),
	}
	for _, m := range l.methods.all() {
		for i := range m.rules {
			s.Limits = append(s.Limits, m.rules[i].stats())
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
	add(r.costMetadata != "", "cost by metadata "+r.costMetadata)
	add(r.costOf != nil, "cost by function")
	add(r.limitOf != nil, "limit by function")
	add(r.skip != nil, "skip by function")
	add(r.refund == policyv1.Refund_REFUND_FAILED, "refund failed")
	add(r.refund == policyv1.Refund_REFUND_SUCCEEDED, "refund succeeded")
	add(r.wait, "wait")
	add(r.shadow, "shadow")
	add(r.perMessage, "per message")
	add(r.countedIn == inStore, "external")
	if r.countedIn == inProcess && r.share != nil {
		add(true, fmt.Sprintf("share %.3g", r.share.value()))
	}
	add(r.gcra.warmUp > 0, fmt.Sprint("warm-up ", time.Duration(r.gcra.warmUp)))
	return LimitStats{
		Method: r.meta.FullMethod, Side: r.meta.Side.String(), Name: r.name,
		Limit: r.limit.withDefaults(), By: r.keyer.name, Rules: strings.Join(rules, ", "),
		Refused: r.counts.refused.Load(), Shadowed: r.counts.shadowed.Load(),
	}
}

// hottest are the keys that have used most.
func (l *Limiter) hottest() []HotKeyStats {
	seen, now := map[key]bool{}, l.table.now()
	var all []HotKeyStats
	for i := range l.hotKeys.places {
		k := l.hotKeys.places[i].Load()
		if k == nil || seen[k.key] {
			continue
		}
		seen[k.key] = true
		used := k.used(l.table)
		if used < hotFraction {
			continue
		}
		tat, b := k.level(now, l.table)
		s := newStanding(k.rule.name, k.gcra, now, tat, b)
		all = append(all, HotKeyStats{
			Method: k.rule.meta.FullMethod, Side: k.rule.meta.Side.String(), Name: s.Name,
			Key: k.value, Used: used, Remaining: s.Remaining, Reset: s.Reset,
		})
	}
	slices.SortFunc(all, func(a, b HotKeyStats) int {
		return cmp.Or(cmp.Compare(b.Used, a.Used), cmp.Compare(a.Method, b.Method), cmp.Compare(a.Key, b.Key))
	})
	return all[:min(len(all), maxHotKeys)]
}

// hotFraction is the used fraction of a limit from which a key is reported.
const hotFraction = 0.75

// hotKeys remembers some of the keys that have lately come near a limit: each in one of
// two places by its hash, until it has used less. For a key that is there already, noteHot
// costs a look.
type hotKeys struct{ places [256]atomic.Pointer[hotKey] }

type hotKey struct {
	key   key
	rule  *rule
	gcra  *gcra
	value string // as it may be shown
	tat   int64  // as the store has answered; 0: it is in the table
}

func (k *hotKey) level(now int64, table *Table) (int64, *bucket) {
	if k.tat != 0 {
		return k.tat, nil
	}
	return table.level(now, k.key, k.gcra)
}

// used is the used fraction of the burst, beyond 1 if calls wait.
func (k *hotKey) used(table *Table) float64 {
	now := table.now()
	tat, _ := k.level(now, table)
	return float64(max(tat-now, 0)) / float64(max(k.gcra.burst, 1))
}

// noteHot keeps nothing of c but copies.
func (l *Limiter) noteHot(ctx context.Context, c *check) {
	places := [...]*atomic.Pointer[hotKey]{&l.hotKeys.places[c.key.hi>>56], &l.hotKeys.places[c.key.lo>>56]}
	tat := int64(0)
	if c.charge.in == inStore {
		tat = c.charge.tat
	}
	for _, place := range places {
		if there := place.Load(); there != nil && there.key == c.key && there.rule == c.rule && there.tat == tat {
			return
		}
	}
	for _, place := range places {
		there := place.Load()
		if there == nil || there.key == c.key || there.used(l.table) < hotFraction {
			fresh := &hotKey{key: c.key, rule: c.rule, gcra: c.gcra, value: c.rule.keyer.show(ctx, c.key, &l.table.seeds), tat: tat}
			place.CompareAndSwap(there, fresh)
			return
		}
	}
}
