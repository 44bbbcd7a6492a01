package ratelimit

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/hop"
	"github.com/meshlite-go/meshlite/internal/wire"
)

const (
	// defaultHoldBack bounds what a server can ask for: after it one call probes.
	defaultHoldBack = 30 * time.Second
	// probeTime is how long others wait for that call, in which its answer is expected.
	probeTime = time.Second
	// maxCooldowns bounds the keys whose refusals are obeyed, about.
	maxCooldowns = 1 << 10
	// maxRefusedLimits bounds the limits of one method whose refusals are obeyed.
	maxRefusedLimits = 8
	// maxNameBytes bounds the name of a limit that a server has sent.
	maxNameBytes = 128
	// warnInterval is how often a warning says that calls are held back.
	warnInterval = time.Minute
)

// refusedLimit is a limit of a server that has refused a call of the method. Calls count
// together here that the server counts together, as far as a client can see.
type refusedLimit struct {
	name, dimension string // as the server has sent them
	keyer           keyer
	until           *atomic.Int64 // when the last cooldown and its probe are over
}

// refusedLimits are those of one method: mostly none.
type refusedLimits = atomic.Pointer[[]refusedLimit]

// left is for how long calls like this one are held back from an instance, or from the
// service where it is nil.
func (a *avoidance) left(i *attempt.Instance) (longest time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	instance := a.method.limiter.table.seeds.hashInstance(i)
	for n := range a.limits {
		if a.broken[n] {
			continue
		}
		if left := a.leftOf(a.method.limiter.cooldowns.find(a.keys[n].combine(instance))); left > longest {
			longest, a.by = left, &a.limits[n]
		}
	}
	return longest
}

// leftOf is how long a cooldown still lasts for this call. When its time is over, one call
// probes whether the limit still refuses, while others are held back a little longer.
func (a *avoidance) leftOf(c *cooldown) time.Duration {
	now := a.method.limiter.table.now()
	switch {
	case c == nil || c == a.probing:
		return 0
	case now < c.until:
		return time.Duration(c.until - now)
	case now >= c.until+int64(probeTime): // no call has come to probe
		return 0
	}
	probed := c.probedUntil.Load()
	if a.probing == nil && now >= probed && c.probedUntil.CompareAndSwap(probed, now+int64(probeTime)) {
		a.probing = c
		return 0
	}
	return max(time.Duration(probed-now), probeTime/10)
}

// allRefuse is the error of a call that no instance may get.
func (a *avoidance) allRefuse(shortest time.Duration) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.retryAfter = max(shortest, 1)
	r := refusal{after: jittered(a.retryAfter), quota: newQuotaFailure(&errdetails.QuotaFailure_Violation{
		Subject:         "limit:" + a.by.name,
		Description:     "held back by the client",
		ApiService:      a.method.meta.Service,
		QuotaId:         a.by.name,
		QuotaDimensions: map[string]string{wire.QuotaKey: a.by.dimension, wire.QuotaScope: wire.ScopeService},
	})}
	r.message = fmt.Sprintf("%s has refused such a call by its rate limit %q: held back here, try again in %v", a.target, a.by.name, r.after)
	return r.err()
}

// wait is for a call that no instance may get and that fails with err. Where the policy
// lets calls wait, and there is time, it waits and returns nil.
func (a *avoidance) wait(ctx context.Context, err error) error {
	a.method.limiter.heldBack.Add(1)
	if a.method.waitsFor(a.by.name) && int64(a.retryAfter) <= patienceOf(ctx) {
		return interceptors.Sleep(ctx, a.retryAfter, err)
	}
	interceptors.Note(ctx, a.method.meta, func(h *hop.Hop) {
		h.AddLimit(hop.Limit{Name: a.by.name, Result: HeldBack.String(), RetryAfter: hop.Milliseconds(a.retryAfter)})
	})
	(*interceptors.Publisher)(nil).Publish(ctx, a.method.meta, &Event{a.by.name, HeldBack, true})
	return err
}

// waitsFor reports whether the policy lets calls wait for a limit.
func (m *methodLimits) waitsFor(limit string) bool {
	for _, rule := range m.meta.Policy.GetRateLimits() {
		if rule.GetName() == limit {
			return rule.GetWait() && !rule.GetDisabled() && !rule.GetShadow()
		}
	}
	return false
}

// probed ends the probe of an attempt, if it has made one, and with it the cooldown if the
// call was answered by the instance that is held back.
func (a *avoidance) probed(picked *attempt.Instance, code codes.Code) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.probing
	if c == nil {
		return
	}
	a.probing = nil
	instance := a.method.limiter.table.seeds.hashInstance(picked)
	reached := picked != nil && slices.ContainsFunc(a.keys[:len(a.limits)], func(k key) bool { return c.key == k || c.key == k.combine(instance) })
	switch {
	case reached && code == codes.ResourceExhausted: // a new cooldown, or none that says until when
	case !reached, code == codes.Canceled, code == codes.DeadlineExceeded, code == codes.Unavailable:
		c.probedUntil.Store(0) // inconclusive
	default:
		a.method.limiter.cooldowns.drop(c.key)
	}
}

// extend never shortens the time for which calls are compared with the limit.
func (r *refusedLimit) extend(until int64) {
	for last := r.until.Load(); last < until && !r.until.CompareAndSwap(last, until); {
		last = r.until.Load()
	}
}

// hashInstance distinguishes instances, and each from what it was before its last restart.
// That of all together is zero.
func (s *seeds) hashInstance(i *attempt.Instance) key {
	if i == nil {
		return key{}
	}
	names := [...]string{i.ID, i.Address}
	term := i.Generation()
	return s.hashAll(names[:]).combine(key{term, term})
}

// pushback is what a refusal asks of its caller.
type pushback struct {
	after     time.Duration // when to come again; 0 is not said
	limit     string
	dimension string // by what it counts
	service   bool   // all instances refuse
}

// parsePushback reads RetryInfo and, where the picker has recorded the trailer or the caller
// has asked for it, the pushback. The longer counts. A limit is that of its instance, unless it
// says that it is the service's.
func parsePushback(service string, s *status.Status, record *attempt.Record, opts []grpc.CallOption) (p pushback) {
	for _, detail := range s.Details() {
		switch d := detail.(type) {
		case *errdetails.RetryInfo:
			p.after = max(p.after, d.GetRetryDelay().AsDuration())
		case *errdetails.QuotaFailure:
			if all := d.GetViolations(); len(all) > 0 {
				p.limit, p.dimension = all[0].GetQuotaId(), dimensionOf(service, all[0])
				p.limit = strings.ToValidUTF8(p.limit[:min(len(p.limit), maxNameBytes)], "?")
				p.service = all[0].GetQuotaDimensions()[wire.QuotaScope] == wire.ScopeService
			}
		}
	}
	if record != nil {
		wait, _ := wire.Pushback(record.Trailer())
		p.after = max(p.after, wait)
	}
	for _, option := range opts {
		if trailer, ok := option.(grpc.TrailerCallOption); ok {
			wait, _ := wire.Pushback(*trailer.TrailerAddr)
			p.after = max(p.after, wait)
		}
	}
	return p
}

// otherService is the dimension of a refusal that a server passes on from another service:
// a client cannot see which of its own calls lead there.
const otherService = "elsewhere"

func dimensionOf(service string, v *errdetails.QuotaFailure_Violation) string {
	dimension, ours := v.GetQuotaDimensions()[wire.QuotaKey]
	if ours && v.GetApiService() != service {
		return otherService
	}
	return dimension
}

// refusedLimitOf finds the limit of a refusal, or adds it. There is none where a client
// cannot see which calls count together.
func (m *methodLimits) refusedLimitOf(p pushback) (*refusedLimit, bool) {
	for {
		old := m.refusedBy.Load()
		var limits []refusedLimit
		if old != nil {
			limits = *old
		}
		if i := slices.IndexFunc(limits, func(l refusedLimit) bool { return l.name == p.limit && l.dimension == p.dimension }); i >= 0 {
			return &limits[i], true
		}
		find, ok := m.finderOf(p.dimension)
		if !ok || len(limits) >= maxRefusedLimits {
			return nil, false
		}
		id := m.limiter.table.seeds.hashAll([]string{m.meta.FullMethod, p.limit, p.dimension})
		fresh := refusedLimit{name: p.limit, dimension: p.dimension, keyer: keyer{find: find, limit: id}, until: &atomic.Int64{}}
		limits = append(slices.Clone(limits), fresh)
		if m.refusedBy.CompareAndSwap(old, &limits) {
			return &limits[len(limits)-1], true
		}
	}
}

// finderOf is nil where all calls of this process count together.
func (m *methodLimits) finderOf(dimension string) (find finder, ok bool) {
	seeds := &m.limiter.table.seeds
	what, name, _ := strings.Cut(dimension, " ")
	switch {
	case dimension == "" || dimension == "identity":
		return nil, true
	case dimension == "peer": // a proxy writes for whom it calls
		return func(ctx context.Context, _ any) (key, error) {
			return seeds.hashAll(interceptors.MetadataValues(ctx, interceptors.Client, "x-forwarded-for")), nil
		}, true
	case what == "metadata":
		return metadataKey(seeds, interceptors.Client, name), true
	case strings.HasPrefix(dimension, "request field "):
		find, _ := fieldKey(seeds, m.meta.Descriptor, strings.TrimPrefix(dimension, "request field "))
		return find, find != nil
	default:
		return nil, false
	}
}

func targetOf(cc *grpc.ClientConn) string {
	if cc == nil {
		return ""
	}
	return cc.CanonicalTarget()
}

// cooldowns are the keys that others refuse until a time. Each has one of two places by its
// hash, so about as many fit as there are places; beyond, those that end first go.
type cooldowns []atomic.Pointer[cooldown]

type cooldown struct {
	key         key
	until       int64
	probedUntil atomic.Int64 // a call is under way that probes whether it is over
}

func (c cooldowns) places(k key) [2]*atomic.Pointer[cooldown] {
	n := uint64(len(c))
	return [...]*atomic.Pointer[cooldown]{&c[k.hi%n], &c[k.lo%n]}
}

// find is nil for a key that nobody refuses.
func (c cooldowns) find(k key) *cooldown {
	for _, place := range c.places(k) {
		if there := place.Load(); there != nil && there.key == k {
			return there
		}
	}
	return nil
}

func (c cooldowns) drop(k key) {
	for _, place := range c.places(k) {
		if there := place.Load(); there != nil && there.key == k {
			place.CompareAndSwap(there, nil)
		}
	}
}

// put never shortens a cooldown.
func (c cooldowns) put(fresh *cooldown) {
	for {
		var at *atomic.Pointer[cooldown]
		var old *cooldown
		for _, place := range c.places(fresh.key) {
			there := place.Load()
			if there != nil && there.key == fresh.key {
				at, old = place, there
				break
			}
			if at == nil || old != nil && (there == nil || there.until < old.until) {
				at, old = place, there
			}
		}
		if old != nil && old.until >= fresh.until && old.key == fresh.key || at.CompareAndSwap(old, fresh) {
			return
		}
	}
}
