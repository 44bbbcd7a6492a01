package concurrency

import (
	"context"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
)

// part is the limiter's part in the calls of one method.
type part struct {
	*Limiter
	meta    *interceptors.CallMeta
	rule    *rule
	method  *method
	refusal error
}

// newPart is nil where nothing is limited.
func (l *Limiter) newPart(meta *interceptors.CallMeta, streams bool) *part {
	r := newRule(meta, streams)
	if r == nil {
		return nil
	}
	m := l.methods.of(meta.FullMethod, r.bounds)
	// Without a contract it is not known yet which kind of calls will come.
	if meta.Descriptor != nil || !streams || m.rule.Load() == nil {
		m.rule.Store(r)
	}
	return &part{Limiter: l, meta: meta, rule: r, method: m, refusal: newRefusal(meta)}
}

// admit takes a permit, or refuses the call. Who gets a permit calls the observer after it
// has seen to its release: the observer may panic.
func (p *part) admit(ctx context.Context) bool {
	limit := p.method.limit(p.rule)
	if p.rule.priority != "" {
		limit = p.priorityOf(ctx).of(limit)
	}
	if p.method.acquire(limit) {
		return true
	}
	p.method.waited()
	p.observe(p.meta, Refused)
	interceptors.OutcomeOf(ctx, p.meta).TellLimit(interceptors.Concurrency.String(), Refused.String())
	return false
}

func (p *part) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (reply any, err error) {
	if !p.admit(ctx) {
		return nil, p.refusal
	}
	if !p.rule.adaptive {
		defer p.method.release()
		p.observe(p.meta, Admitted)
		return handler(ctx, req)
	}
	began, result := p.method.started(), noSample
	defer func() { // a panic, too, gives the permit back
		p.method.release()
		p.method.ended(began, result, p.rule.bounds)
	}()
	p.observe(p.meta, Admitted)
	reply, err = handler(ctx, req)
	result = p.method.outcomeOf(ctx, began, err)
	return reply, err
}

func (p *part) stream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if !p.admit(ss.Context()) {
		return p.refusal
	}
	defer p.method.release()
	p.observe(p.meta, Admitted)
	return handler(srv, ss)
}
