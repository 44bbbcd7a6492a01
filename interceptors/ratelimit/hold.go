package ratelimit

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/interceptors"
)

const (
	defaultHoldBack = time.Minute
	// mostHolds is of how many keys refusals are obeyed, about.
	mostHolds = 1 << 10
	// mostKinds bounds the limits of one method whose refusals are obeyed.
	mostKinds = 8
)

// kind is a limit that a server has refused a call of the method by. Calls count
// together that the server counts together, as far as a client can tell.
type kind struct {
	limit, counts string // its name and by what it counts
	keyer
}

// kinds are those of one method: few, mostly none.
type kinds = atomic.Pointer[[]kind]

// held is how long the call is held back, and by which limit.
func (p *part) held(ctx context.Context, req any, target string) (longest time.Duration, by *kind) {
	if p.kinds == nil {
		return 0, nil
	}
	kinds := p.kinds.Load()
	if kinds == nil {
		return 0, nil
	}
	now, at := p.table.now(), p.table.seeds.hash(target)
	for i := range *kinds {
		k := &(*kinds)[i]
		if left := p.holds.left(k.key(ctx, req).of(at), now); left > longest {
			longest, by = left, k
		}
	}
	return longest, by
}

// holdBack refuses a call until the time that the server has told, or waits for it.
func (p *part) holdBack(ctx context.Context, req any, cc *grpc.ClientConn) error {
	target := targetOf(cc)
	left, by := p.held(ctx, req, target)
	if by == nil {
		return nil
	}
	p.heldBack.Add(1)
	if p.waitsFor(by.limit) && int64(left) <= patienceOf(ctx) {
		if !sleep(ctx, left) {
			return status.FromContextError(ctx.Err()).Err()
		}
		return nil
	}
	interceptors.OutcomeOf(ctx, p.meta).TellLimit(by.limit, "held_back")
	r := refusal{after: jittered(left), quota: newQuotaFailure(&errdetails.QuotaFailure_Violation{
		Subject:         "limit:" + by.limit,
		Description:     "held back by the client",
		ApiService:      p.meta.Service,
		QuotaId:         by.limit,
		QuotaDimensions: map[string]string{keyDimension: by.counts},
	})}
	r.message = fmt.Sprintf("%s has refused such a call by its rate limit %q: held back here, try again in %v", target, by.limit, r.after)
	return r.err()
}

// obey takes note of when a server that refused a call wants another.
func (p *part) obey(ctx context.Context, req any, cc *grpc.ClientConn, err error, opts []grpc.CallOption) {
	if err == nil || p.kinds == nil || status.Code(err) != codes.ResourceExhausted {
		return
	}
	after, limit, counts := advice(p.meta.Service, status.Convert(err), opts)
	if after <= 0 {
		return
	}
	k, ok := p.learn(limit, counts)
	if !ok {
		return
	}
	key := k.key(ctx, req).of(p.table.seeds.hash(targetOf(cc)))
	p.holds.put(&hold{key: key, until: p.table.now() + int64(min(after, p.options.holdBack))})
}

// advice reads RetryInfo and, where the caller or a retry has asked for the
// trailer, the pushback. The longer counts.
func advice(service string, s *status.Status, opts []grpc.CallOption) (after time.Duration, limit, counts string) {
	for _, detail := range s.Details() {
		switch d := detail.(type) {
		case *errdetails.RetryInfo:
			after = max(after, d.GetRetryDelay().AsDuration())
		case *errdetails.QuotaFailure:
			if all := d.GetViolations(); len(all) > 0 {
				limit, counts = all[0].GetQuotaId(), countsOf(service, all[0])
			}
		}
	}
	for _, option := range opts {
		if trailer, ok := option.(grpc.TrailerCallOption); ok {
			if values := trailer.TrailerAddr.Get(pushbackKey); len(values) == 1 {
				ms, _ := strconv.ParseUint(values[0], 10, 31)
				after = max(after, time.Duration(ms)*time.Millisecond)
			}
		}
	}
	return after, limit, counts
}

// elsewhere is what a refusal counts by that a server passes on from another
// service: which of its own calls lead there, nobody can tell.
const elsewhere = "elsewhere"

func countsOf(service string, v *errdetails.QuotaFailure_Violation) string {
	counts, ours := v.GetQuotaDimensions()[keyDimension]
	if ours && v.GetApiService() != service {
		return elsewhere
	}
	return counts
}

// learn finds the kind of a refusal, or adds it. There is none where a client
// cannot tell which calls count together.
func (p *part) learn(limit, counts string) (*kind, bool) {
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
		fresh := kind{limit: limit, counts: counts}
		fresh.of = of
		fresh.keyer.limit = p.table.seeds.hashAll([]string{p.meta.FullMethod, limit, counts})
		kinds = append(slices.Clone(kinds), fresh)
		if p.kinds.CompareAndSwap(old, &kinds) {
			return &kinds[len(kinds)-1], true
		}
	}
}

// keyOf is nil where all calls of this process count together.
func (p *part) keyOf(counts string) (of func(context.Context, any) key, ok bool) {
	seeds := &p.table.seeds
	what, name, _ := strings.Cut(counts, " ")
	switch {
	case counts == "" || counts == "identity":
		return nil, true
	case counts == "peer": // who calls for others says for whom
		return metadataKey(seeds, interceptors.Client, forwardedKey), true
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
