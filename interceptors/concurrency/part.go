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

// admit takes a permit, or gives the error of a call that has none. Who gets a permit calls
// the observer after it has seen to its release: the observer may panic.
func (p *part) admit(ctx context.Context) error {
	limit, err := p.method.limit(p.rule), error(nil)
	if p.rule.priority != "" {
		var priority Priority
		if priority, err = p.priorityOf(ctx); err == nil {
			limit = priority.of(limit)
		}
	}
	switch {
	case err != nil:
		p.method.refused.Add(1)
	case p.method.acquire(limit):
		return nil
	default:
		err = p.refusal
		p.method.waited()
	}
	p.publish(ctx, Refused)
	return err
}

func (p *part) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (reply any, err error) {
	if err := p.admit(ctx); err != nil {
		return nil, err
	}
	if !p.rule.adaptive {
		defer p.method.release()
		p.publish(ctx, Admitted)
		return handler(ctx, req)
	}
	began, result := p.method.started(), noSample
	defer func() { // a panic, too, gives the permit back
		p.method.release()
		p.method.ended(began, result, p.rule.bounds)
	}()
	p.publish(ctx, Admitted)
	reply, err = handler(ctx, req)
	result = p.method.outcomeOf(ctx, began, err)
	return reply, err
}

func (p *part) stream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := p.admit(ss.Context()); err != nil {
		return err
	}
	defer p.method.release()
	p.publish(ss.Context(), Admitted)
	return handler(srv, ss)
}

func (p *part) publish(ctx context.Context, result Result) {
	interceptors.Publish(ctx, p.meta, p.observer, result)
}
