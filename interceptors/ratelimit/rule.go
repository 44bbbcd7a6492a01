package ratelimit

import (
	"context"
	"math"
	"strconv"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// rule is one limit of a method.
type rule struct {
	name         string
	meta         *interceptors.CallMeta
	limit        Limit
	cost         uint64
	gcra         gcra // of limit and cost
	keyer        keyer
	refund       policyv1.Refund
	wait         bool
	shadow       bool
	perMessage   bool
	countedIn    counter
	share        *replicaShare // nil where this process never counts by its share
	onFailure    policyv1.StoreFailure
	costMetadata string // key, or ""
	callers      *caller.Callers
	quota        *anypb.Any // the QuotaFailure of a refusal
	counts       *counts
	events       *events
	functions
}

// counter is where calls are counted at a limit.
type counter uint8

const (
	inProcess counter = iota
	inStore
	uncounted // the store is unavailable, and the limit then open or closed
)

// functions are the options of a limit. Each may be nil.
type functions struct {
	key     func(context.Context, any) (string, bool)
	costOf  func(context.Context, any) uint64
	limitOf func(context.Context, any, Limit) Limit
	skip    func(context.Context, any) bool
	success func(error) bool
}

// newRule reads a policy that has been checked. share is that of the server, or nil.
func newRule(l *Limiter, meta *interceptors.CallMeta, policy *policyv1.RateLimitRule, share func() float64) rule {
	period, _ := interceptors.ParseDuration(policy.GetPeriod()) // none is a second
	warmUp, _ := interceptors.ParseDuration(policy.GetWarmUp())
	r := rule{
		name:         policy.GetName(),
		meta:         meta,
		limit:        Limit{Calls: policy.GetLimit(), Period: period, Burst: policy.GetBurst()},
		cost:         1,
		refund:       policy.GetRefund(),
		wait:         policy.GetWait() && !policy.GetShadow(),
		shadow:       policy.GetShadow(),
		perMessage:   policy.GetPerMessage(),
		onFailure:    policy.GetOnStoreFailure(),
		costMetadata: policy.GetCostMetadata(),
		callers:      l.options.callers,
		counts:       l.methods.countsOf(meta, policy.GetName()),
		events:       newEvents(policy.GetName()),
	}
	if of := l.options.rules[r.name]; of != nil {
		r.functions = *of
	}
	r.count(l, policy.GetStore(), share)
	seeds := &l.table.seeds
	if r.countedIn == inStore {
		seeds = &l.storeSeeds
	}
	r.keyer = newKeyer(seeds, meta, policy, r.callers, r.key)
	if policy.Cost != nil {
		r.cost = policy.GetCost()
	}
	r.gcra = r.limit.gcra(r.cost)
	r.gcra.warmUp = int64(warmUp)
	r.quota = r.quotaFailure(r.limit, r.countedIn)
	return r
}

// count chooses where r is counted: without a store by the share, since nothing that is
// missing may lift a limit, and without a share as if there was one replica.
func (r *rule) count(l *Limiter, store policyv1.RateLimitStore, share func() float64) {
	switch store {
	case policyv1.RateLimitStore_RATE_LIMIT_STORE_EXTERNAL:
		if l.options.store != nil {
			r.countedIn = inStore
			break
		}
		l.warn(0, r, "a rate limit in an external store is counted in each replica, by its share: give WithStore")
	case policyv1.RateLimitStore_RATE_LIMIT_STORE_PER_REPLICA:
	default:
		return
	}
	if l.options.share != nil {
		share = l.options.share
	}
	if r.countedIn == inStore && r.onFailure > policyv1.StoreFailure_STORE_FAILURE_UNSPECIFIED && r.onFailure != policyv1.StoreFailure_STORE_FAILURE_PER_REPLICA {
		return
	}
	r.share = &replicaShare{of: share}
	if r.countedIn == inProcess {
		l.warnWithoutShare(r)
	}
}

// check prepares the charge of a call. The error is INVALID_ARGUMENT, for a call without
// what the limit needs; a limit in shadow does without.
func (r *rule) check(ctx context.Context, req any) (check, error) {
	c := check{rule: r, gcra: &r.gcra}
	var err error
	if c.key, c.keyless, err = r.keyer.key(ctx, req); err == nil && (r.limitOf != nil || r.costOf != nil || r.costMetadata != "") {
		c.gcra, err = r.gcraOf(ctx, req)
	}
	if err != nil && !r.shadow {
		return c, err
	}
	c.charge.in = r.countedIn
	if r.share != nil && r.countedIn == inProcess {
		c.gcra = r.scaled(c.gcra)
	}
	return c, nil
}

// gcraOf are the parameters of one call. An error comes with those of the rule.
func (r *rule) gcraOf(ctx context.Context, req any) (*gcra, error) {
	limit, cost := r.limit, r.cost
	if r.limitOf != nil {
		limit = r.limitOf(ctx, req, limit)
	}
	if r.costOf != nil {
		cost = r.costOf(ctx, req)
	} else if declared, ok, err := r.declaredCost(ctx); err != nil {
		return &r.gcra, err
	} else if ok {
		cost = declared
	}
	g := limit.gcra(cost)
	g.warmUp = r.gcra.warmUp
	return &g, nil
}

// declaredCost is the cost in metadata, if a trusted peer has sent it: a whole number from
// 1 on. A client trusts itself.
func (r *rule) declaredCost(ctx context.Context) (cost uint64, ok bool, err error) {
	if r.costMetadata == "" || r.meta.Side == interceptors.Server && !r.callers.Trusted(ctx) {
		return 0, false, nil
	}
	value, err := interceptors.MetadataValue(ctx, r.meta.Side, r.costMetadata)
	if value == "" || err != nil {
		return 0, false, err
	}
	cost, invalid := strconv.ParseUint(value, 10, 64)
	return cost, invalid == nil && cost > 0, nil
}

// refunds reports whether a call that ended with err is given back.
func (r *rule) refunds(err error) bool {
	switch r.refund {
	case policyv1.Refund_REFUND_FAILED:
		return !r.succeeded(err)
	case policyv1.Refund_REFUND_SUCCEEDED:
		return r.succeeded(err)
	default:
		return false
	}
}

func (r *rule) succeeded(err error) bool {
	if r.success != nil {
		return r.success(err)
	}
	return status.Code(err) == codes.OK
}

// scaled are g for this replica alone. Those of the rule are computed once for a share.
func (r *rule) scaled(g *gcra) *gcra {
	share := r.share.value()
	if g != &r.gcra {
		scaled := g.scaled(share)
		return &scaled
	}
	last := r.share.last.Load()
	if last == nil || last.share != share {
		last = &scaledGCRA{share, g.scaled(share)}
		r.share.last.Store(last)
	}
	return &last.gcra
}

// minShare bounds what a share function can do to a limit.
const minShare = 1.0 / (1 << 16)

// replicaShare is the share of a limit that this process enforces by itself.
type replicaShare struct {
	of   func() float64 // nil: it is not known, and taken for 1
	last atomic.Pointer[scaledGCRA]
}

// scaledGCRA are the rule's own parameters at a share.
type scaledGCRA struct {
	share float64
	gcra  gcra
}

// value is in its bounds, whatever the function returns.
func (s *replicaShare) value() float64 {
	if s.of == nil {
		return 1
	}
	share := s.of()
	if math.IsNaN(share) {
		return minShare
	}
	return min(max(share, minShare), 1)
}
