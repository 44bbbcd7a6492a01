package ratelimit

import (
	"context"
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
	"github.com/meshlite-go/meshlite/internal/wire"
)

const (
	// defaultHoldBack bounds what a server can ask for: after it one call finds out.
	defaultHoldBack = 30 * time.Second
	// probeTime is how long others wait for that call, in which its answer is expected.
	probeTime = time.Second
	// mostHolds is of how many keys refusals are obeyed, about.
	mostHolds = 1 << 10
	// mostKinds bounds the limits of one method whose refusals are obeyed.
	mostKinds = 8
	// mostName bounds the name of a limit that a server has sent.
	mostName = 128
)

// kind is a limit that a server has refused a call of the method by. Calls count
// together that the server counts together, as far as a client can tell.
type kind struct {
	limit, counts string // its name and by what it counts
	keyer
	until *atomic.Int64 // when no call of the kind is held back any more
}

// kinds are those of one method: few, mostly none.
type kinds = atomic.Pointer[[]kind]

// learn takes note of how an attempt ended: of an instance or a service that wants no
// more such calls for a time, and of one that takes them again.
func (p *part) learn(ctx context.Context, req any, cc *grpc.ClientConn, record *attempt.Record, a *avoidance, err error, opts []grpc.CallOption) {
	var picked *attempt.Instance
	if record != nil {
		picked = record.Picked()
	}
	if a != nil {
		a.ended(picked, status.Code(err))
	}
	if status.Code(err) != codes.ResourceExhausted || a.refused() {
		return
	}
	asked := advice(p.meta.Service, status.Convert(err), opts)
	p.tracks.Store(true)
	if asked.after <= 0 || picked == nil && !asked.service {
		return // nobody knows who has refused
	}
	k, ok := p.kindOf(asked)
	if !ok {
		return
	}
	found, _, failed := k.key(ctx, req)
	if failed != nil {
		return
	}
	whose := picked
	if asked.service {
		whose = nil
	} else {
		picked.CountRefusal()
	}
	seeds, lasts := &p.table.seeds, min(asked.after, p.options.holdBack)
	until := p.table.now() + int64(lasts)
	p.holds.put(&hold{key: found.of(seeds.hash(targetOf(cc))).of(seeds.hashInstance(whose)), until: until})
	k.extend(until + int64(probeTime))
	p.warnHeld(targetOf(cc), whose, asked, lasts)
}

// extend never shortens the time in which calls of the kind are looked at.
func (k *kind) extend(until int64) {
	for last := k.until.Load(); last < until && !k.until.CompareAndSwap(last, until); {
		last = k.until.Load()
	}
}

// hashInstance tells instances apart, and what one was before from what it is now. That
// of all together is zero.
func (s *seeds) hashInstance(i *attempt.Instance) key {
	if i == nil {
		return key{}
	}
	names := [...]string{i.ID, i.Address}
	term := i.Generation()
	return s.hashAll(names[:]).of(key{term, term})
}

// warnEvery is how often it is said that calls are held back.
const warnEvery = time.Minute

// warnHeld says once a minute that servers refuse calls.
func (p *part) warnHeld(target string, picked *attempt.Instance, asked asked, lasts time.Duration) {
	obeyed, now := p.obeyed.Add(1), p.table.now()
	last := p.warnedAt.Load()
	if last != 0 && now-last < int64(warnEvery) || !p.warnedAt.CompareAndSwap(last, max(now, 1)) {
		return
	}
	all := []any{"target", target, "method", p.meta.FullMethod, "limit", asked.limit,
		"for", lasts, "asked_for", asked.after, "refusals", obeyed - p.obeyedThen.Swap(obeyed)}
	if picked != nil {
		all = append(all, "instance", picked.ID, "address", picked.Address)
	}
	p.options.log.Warn("calls are held back: a server has refused one by its rate limit", all...)
}

// asked is what a refusal asks of its caller.
type asked struct {
	after   time.Duration // when to come again; 0 is that nobody says
	limit   string
	counts  string // by what
	service bool   // all instances together
}

// advice reads RetryInfo and, where the caller or a retry has asked for the
// trailer, the pushback. The longer counts. A limit is that of its instance, unless it
// says that it is the service's.
func advice(service string, s *status.Status, opts []grpc.CallOption) (a asked) {
	for _, detail := range s.Details() {
		switch d := detail.(type) {
		case *errdetails.RetryInfo:
			a.after = max(a.after, d.GetRetryDelay().AsDuration())
		case *errdetails.QuotaFailure:
			if all := d.GetViolations(); len(all) > 0 {
				a.limit, a.counts = all[0].GetQuotaId(), countsOf(service, all[0])
				a.limit = strings.ToValidUTF8(a.limit[:min(len(a.limit), mostName)], "?")
				a.service = all[0].GetQuotaDimensions()[wire.QuotaScope] == wire.ScopeService
			}
		}
	}
	for _, option := range opts {
		if trailer, ok := option.(grpc.TrailerCallOption); ok {
			wait, _ := wire.Pushback(*trailer.TrailerAddr)
			a.after = max(a.after, wait)
		}
	}
	return a
}

// elsewhere is what a refusal counts by that a server passes on from another
// service: which of its own calls lead there, nobody can tell.
const elsewhere = "elsewhere"

func countsOf(service string, v *errdetails.QuotaFailure_Violation) string {
	counts, ours := v.GetQuotaDimensions()[wire.QuotaKey]
	if ours && v.GetApiService() != service {
		return elsewhere
	}
	return counts
}

// kindOf finds the kind of a refusal, or adds it. There is none where a client
// cannot tell which calls count together.
func (p *part) kindOf(asked asked) (*kind, bool) {
	limit, counts := asked.limit, asked.counts
	for {
		old := p.kinds.Load()
		var kinds []kind
		if old != nil {
			kinds = *old
		}
		if i := slices.IndexFunc(kinds, func(k kind) bool { return k.limit == limit && k.counts == counts }); i >= 0 {
			return &kinds[i], true
		}
		of, ok := p.keyOf(counts)
		if !ok || len(kinds) >= mostKinds {
			return nil, false
		}
		fresh := kind{limit: limit, counts: counts, until: &atomic.Int64{}}
		fresh.of = of
		fresh.keyer.limit = p.table.seeds.hashAll([]string{p.meta.FullMethod, limit, counts})
		kinds = append(slices.Clone(kinds), fresh)
		if p.kinds.CompareAndSwap(old, &kinds) {
			return &kinds[len(kinds)-1], true
		}
	}
}

// keyOf is nil where all calls of this process count together.
func (p *part) keyOf(counts string) (of finder, ok bool) {
	seeds := &p.table.seeds
	what, name, _ := strings.Cut(counts, " ")
	switch {
	case counts == "" || counts == "identity":
		return nil, true
	case counts == "peer": // who calls for others says for whom
		return func(ctx context.Context, _ any) (key, error) {
			return seeds.hashAll(interceptors.MetadataValues(ctx, interceptors.Client, forwardedKey)), nil
		}, true
	case what == "metadata":
		return metadataKey(seeds, interceptors.Client, name), true
	case strings.HasPrefix(counts, "request field "):
		of, _ := fieldKey(seeds, p.meta.Descriptor, strings.TrimPrefix(counts, "request field "))
		return of, of != nil
	default:
		return nil, false
	}
}

// waitsFor reports whether the policy says of a limit that calls wait for it.
func (p *part) waitsFor(limit string) bool {
	for _, rule := range p.meta.Policy.GetRateLimits() {
		if rule.GetName() == limit {
			return rule.GetWait() && !rule.GetDisabled() && !rule.GetShadow()
		}
	}
	return false
}

func targetOf(cc *grpc.ClientConn) string {
	if cc == nil {
		return ""
	}
	return cc.CanonicalTarget()
}
