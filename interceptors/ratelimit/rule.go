package ratelimit

import (
	"context"
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// rule is one limit of a method.
type rule struct {
	name       string
	meta       *interceptors.CallMeta
	limit      Limit
	cost       uint64
	terms      terms // of limit and cost
	by         keyer
	refund     policyv1.Refund
	wait       bool
	shadow     bool
	perMessage bool
	at         place    // where it is counted
	sharing    *sharing // nil unless this process ever enforces its share alone
	onFailure  policyv1.StoreFailure
	costKey    string // metadata key, or ""
	trusted    trust
	quota      *anypb.Any // what a refusal tells of the limit
	counts     *counts
	events     *events
	functions
}

// functions are what the builder of the program says of a limit. Each may be nil.
type functions struct {
	key     func(context.Context, any) (string, bool)
	costOf  func(context.Context, any) uint64
	limitOf func(context.Context, any, Limit) Limit
	skip    func(context.Context, any) bool
	success func(error) bool
}

// newRule reads what was checked with the policy.
func (l *Limiter) newRule(meta *interceptors.CallMeta, policy *policyv1.RateLimitRule, share func() float64) rule {
	period, _ := interceptors.ParseDuration(policy.GetPeriod()) // none is a second
	warm, _ := interceptors.ParseDuration(policy.GetWarmUp())
	r := rule{
		name:       policy.GetName(),
		events:     newEvents(policy.GetName()),
		meta:       meta,
		limit:      Limit{Calls: policy.GetLimit(), Period: period, Burst: policy.GetBurst()},
		cost:       1,
		refund:     policy.GetRefund(),
		wait:       policy.GetWait() && !policy.GetShadow(),
		shadow:     policy.GetShadow(),
		perMessage: policy.GetPerMessage(),
		onFailure:  policy.GetOnStoreFailure(),
		costKey:    policy.GetCostMetadata(),
		trusted:    l.options.trusted,
		counts:     l.limits.countsOf(meta, policy.GetName()),
	}
	l.place(&r, policy.GetStore(), share)
	seeds := &l.table.seeds
	if r.at == atStore {
		seeds = &l.shared
	}
	r.by = l.newKeyer(meta, policy, seeds)
	if of := l.options.rules[r.name]; of != nil {
		r.functions = *of
	}
	if policy.Cost != nil {
		r.cost = policy.GetCost()
	}
	r.terms = r.limit.terms(r.cost)
	r.terms.warm = int64(warm)
	r.quota = r.quotaFailure(r.limit, r.at)
	return r
}

// meet is the entry of a call. The error is INVALID_ARGUMENT, for a call that does not
// say what the limit needs of it; a limit in shadow does without.
func (r *rule) meet(ctx context.Context, req any) (entry, error) {
	e := entry{rule: r, terms: &r.terms}
	var err error
	if e.key, e.absent, err = r.by.key(ctx, req); err == nil && (r.limitOf != nil || r.costOf != nil || r.costKey != "") {
		e.terms, err = r.own(ctx, req)
	}
	if err != nil && !r.shadow {
		return e, err
	}
	e.charge.at = r.at
	if r.sharing != nil && r.at == here {
		e.terms = r.scaled(e.terms)
	}
	return e, nil
}

// own are the terms of one call. An error comes with those of the rule.
func (r *rule) own(ctx context.Context, req any) (*terms, error) {
	limit, cost := r.limit, r.cost
	if r.limitOf != nil {
		limit = r.limitOf(ctx, req, limit)
	}
	if r.costOf != nil {
		cost = r.costOf(ctx, req)
	} else if declared, ok, err := r.declared(ctx); err != nil {
		return &r.terms, err
	} else if ok {
		cost = declared
	}
	t := limit.terms(cost)
	t.warm = r.terms.warm
	return &t, nil
}

// declared is the cost that metadata names, if a trusted peer has sent it: a whole
// number from 1 on. A client trusts its own.
func (r *rule) declared(ctx context.Context) (cost uint64, ok bool, err error) {
	if r.costKey == "" || r.meta.Side == interceptors.Server && !r.trusted.peer(ctx) {
		return 0, false, nil
	}
	value, err := interceptors.MetadataValue(ctx, r.meta.Side, r.costKey)
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

// description is "50 per 1s by metadata customer-id".
func (r *rule) description(limit Limit) string {
	if r.by.by == "" {
		return limit.String()
	}
	return limit.String() + " by " + r.by.by
}
