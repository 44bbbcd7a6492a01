package ratelimit

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// part is the limiter's part in the calls of one method.
type part struct {
	*Limiter
	meta     *interceptors.CallMeta
	rules    []rule
	waits    bool   // some rule does
	refunds  bool   // some rule does
	shared   bool   // some rule is counted by the store
	handled  bool   // a handler runs: it is about messages of a stream
	messages *part  // the rules that charge each message of a stream, or nil
	kinds    *kinds // nil where nothing is held back
}

// newPart is nil where nothing is limited or, on a client, held back.
func (l *Limiter) newPart(meta *interceptors.CallMeta, stream bool, share func() float64) *part {
	meant := func(rule *policyv1.RateLimitRule) bool { return !stream || rule.GetKey().GetField() == "" }
	p := l.limit(meta, share, meant)
	if !stream {
		l.limits.put(p)
	} else if m := l.limit(meta, share, func(r *policyv1.RateLimitRule) bool { return meant(r) && r.GetPerMessage() }); len(m.rules) > 0 {
		m.handled, p.messages = true, m
	}
	if p.holdsBack() {
		p.kinds = l.limits.kindsOf(meta.FullMethod)
	}
	if len(p.rules) == 0 && p.kinds == nil {
		return nil
	}
	return p
}

// limit has the rules that are in force on this side and meant.
func (l *Limiter) limit(meta *interceptors.CallMeta, share func() float64, meant func(*policyv1.RateLimitRule) bool) *part {
	p := &part{Limiter: l, meta: meta}
	for _, policy := range meta.Policy.GetRateLimits() {
		if policy.GetDisabled() || !meta.Side.On(policy.GetSide(), interceptors.Server) || !meant(policy) {
			continue
		}
		r := l.newRule(meta, policy, share)
		p.rules = append(p.rules, r)
		p.waits = p.waits || r.wait
		p.shared = p.shared || r.at == atStore
		p.refunds = p.refunds || r.refund > policyv1.Refund_REFUND_NONE
	}
	return p
}

// holdsBack reports whether the client obeys refusals: not those of gRPC's own
// services, which are exempt as from defaults.
func (p *part) holdsBack() bool {
	return p.meta.Side == interceptors.Client && p.options.holdBack > 0 && !interceptors.Infrastructure(p.meta.Service)
}

// refuse is the error of a call that is not made, nil for one that is.
func (p *part) refuse(v *verdict, ended error, tell func(metadata.MD)) error {
	if v.refusing == nobody {
		return ended
	}
	r := p.refusal(v)
	if tell != nil {
		tell(r.trailer())
	}
	return r.err()
}

// record is that of the call, in which the picker says who was picked. A limiter alone
// makes one only after a refusal, since it costs an allocation; before, it is nil.
func (p *part) record(ctx context.Context) (context.Context, *attempt.Record) {
	if r := attempt.FromContext(ctx); p.tracks.Load() || r != nil && r.Picked() == nil {
		return attempt.FromOrNew(ctx, attempt.Unary)
	}
	return ctx, nil
}

// errPanic stands for the error of a call that ends by a panic.
var errPanic = errors.New("the call panicked")

func (p *part) unaryClient(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) (err error) {
	var record *attempt.Record
	var avoided *avoidance
	if p.kinds != nil {
		ctx, record = p.record(ctx)
		if avoided, err = p.prepare(ctx, req, cc, record); err != nil {
			return err
		}
	}
	var space [few]entry
	v, ended := p.admit(ctx, req, space[:0])
	if err := p.refuse(&v, ended, nil); err != nil {
		return err
	}
	if p.refunds {
		err = errPanic
		defer func() { p.settle(ctx, v.entries, err) }()
	}
	finish := func(error) {}
	if avoided != nil {
		opts, finish = splitFinish(opts)
	}
	for {
		err = invoker(ctx, method, req, reply, cc, opts...)
		if p.kinds != nil {
			p.learn(ctx, req, cc, record, avoided, err, opts)
		}
		if !avoided.refused() {
			finish(err)
			return err
		}
		if err = avoided.wait(ctx, err); err == nil {
			avoided, err = p.prepare(ctx, req, cc, record)
		}
		if err != nil {
			p.takeBack(ctx, v.entries)
			finish(err)
			return err
		}
	}
}

func (p *part) unaryServer(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (reply any, err error) {
	// It fails only without a transport, and then nobody can be told.
	tell := func(md metadata.MD) { _ = grpc.SetTrailer(ctx, md) }
	var space [few]entry
	v, ended := p.admit(ctx, req, space[:0])
	if err := p.refuse(&v, ended, tell); err != nil {
		return nil, err
	}
	c := p.newCall(ctx, &v)
	if p.options.fields {
		tell(fields(c.entries.standings(c.table, c.now)))
	}
	if p.refunds {
		err = errPanic
		defer func() { p.settle(c, c.entries, err) }()
	}
	return handler(c, req)
}
