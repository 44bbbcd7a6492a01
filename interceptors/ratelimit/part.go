package ratelimit

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// few is for how many limits a decision allocates nothing.
const few = 4

// part is the limiter's part in the calls of one method.
type part struct {
	*Limiter
	meta  *interceptors.CallMeta
	rules []rule
}

// rule is one limit of a method.
type rule struct {
	name  string
	limit Limit
	by    string // what it counts by, for people
	rate  rate
	cost  int64
	key   keyer
}

type kind bool

const (
	unary  kind = false
	stream kind = true
)

// newPart is nil where nothing is limited.
func (l *Limiter) newPart(meta *interceptors.CallMeta, kind kind) *part {
	p := &part{Limiter: l, meta: meta}
	for _, policy := range meta.Policy.GetRateLimits() {
		if policy.GetDisabled() || !meta.Side.On(policy.GetSide(), interceptors.Server) {
			continue
		}
		if policy.GetKey().GetField() != "" && kind == stream {
			continue
		}
		p.rules = append(p.rules, l.newRule(meta, policy))
	}
	if len(p.rules) == 0 {
		return nil
	}
	return p
}

func (l *Limiter) newRule(meta *interceptors.CallMeta, policy *policyv1.RateLimitRule) rule {
	period, _ := interceptors.ParseDuration(policy.GetPeriod()) // checked with the policy; none is a second
	cost := uint64(1)
	if policy.Cost != nil {
		cost = policy.GetCost()
	}
	r := rule{
		name:  policy.GetName(),
		limit: Limit{Calls: policy.GetLimit(), Period: period, Burst: policy.GetBurst()},
	}
	r.rate = r.limit.rate()
	r.cost = r.rate.cost(cost)
	r.by, r.key = l.newKeyer(meta, r.name, policy.GetKey())
	return r
}

// admit charges a call on all limits of the method, or on none: then it says
// which one refuses it, and for how long.
func (p *part) admit(ctx context.Context, req any) (refusing *rule, wait time.Duration) {
	var space [few]key
	keys := space[:0]
	for i := range p.rules {
		keys = append(keys, p.rules[i].key(ctx, req)) // may run the user's code
	}
	now := p.table.now()
	if len(keys) > 1 {
		refusing, wait = p.lookAll(now, keys)
	}
	if refusing == nil {
		refusing, wait = p.chargeAll(now, keys)
	}
	p.finish(refusing)
	return refusing, wait
}

// lookAll finds the limit that refuses the call for longest.
func (p *part) lookAll(now int64, keys []key) (refusing *rule, wait time.Duration) {
	for i := range p.rules {
		r := &p.rules[i]
		if d := p.table.look(now, keys[i], r.rate, r.cost); d.RetryAfter > wait {
			refusing, wait = r, d.RetryAfter
		}
	}
	return refusing, wait
}

// chargeAll gives back what it charged before a limit that refuses after all.
func (p *part) chargeAll(now int64, keys []key) (refusing *rule, wait time.Duration) {
	var space [few]*bucket
	charged := space[:0]
	for i := range p.rules {
		r := &p.rules[i]
		d, b := p.table.take(now, keys[i], r.rate, r.cost)
		if !d.Admitted {
			for j, b := range charged {
				b.give(p.rules[j].cost)
			}
			return r, d.RetryAfter
		}
		charged = append(charged, b)
	}
	return nil, 0
}

func (p *part) finish(refusing *rule) {
	if refusing != nil {
		p.refused.Add(1)
	} else {
		p.admitted.Add(1)
	}
	switch {
	case p.options.observe == nil:
	case refusing != nil:
		p.options.observe(p.meta, refusing.name, Refused)
	default:
		for i := range p.rules {
			p.options.observe(p.meta, p.rules[i].name, Admitted)
		}
	}
}

func (p *part) unaryClient(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if refusing, wait := p.admit(ctx, req); refusing != nil {
		return newRefusal(p.meta, refusing, wait).err()
	}
	return invoker(ctx, method, req, reply, cc, opts...)
}

func (p *part) streamClient(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if refusing, wait := p.admit(ctx, nil); refusing != nil {
		return nil, newRefusal(p.meta, refusing, wait).err()
	}
	return streamer(ctx, desc, cc, method, opts...)
}

func (p *part) unaryServer(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if refusing, wait := p.admit(ctx, req); refusing != nil {
		refusal := newRefusal(p.meta, refusing, wait)
		// Fails only without a transport, and then nobody can be told.
		_ = grpc.SetTrailer(ctx, refusal.trailer())
		return nil, refusal.err()
	}
	return handler(ctx, req)
}

func (p *part) streamServer(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if refusing, wait := p.admit(ss.Context(), nil); refusing != nil {
		refusal := newRefusal(p.meta, refusing, wait)
		ss.SetTrailer(refusal.trailer())
		return refusal.err()
	}
	return handler(srv, ss)
}
