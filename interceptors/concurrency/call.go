package concurrency

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/hop"
	"github.com/meshlite-go/meshlite/internal/rpc"
	"github.com/meshlite-go/meshlite/internal/wire"
)

// methodLimit applies the limit of one method.
type methodLimit struct {
	limiter *Limiter
	meta    *interceptors.CallMeta
	rule    *rule
	method  *method
	refusal error
}

// newMethodLimit is nil where nothing is limited.
func newMethodLimit(l *Limiter, meta *interceptors.CallMeta, streams bool) *methodLimit {
	r := newRule(meta, streams)
	if r == nil {
		return nil
	}
	method := l.methods.of(meta.FullMethod, r.bounds)
	// Without a contract it is not known yet which kind of calls will come.
	if meta.Descriptor != nil || !streams || method.rule.Load() == nil {
		method.rule.Store(r)
	}
	return &methodLimit{limiter: l, meta: meta, rule: r, method: method, refusal: newRefusal(meta)}
}

// admit takes a permit, or returns the error of a call that has none. Who gets a permit
// reports it after its release is deferred.
func (m *methodLimit) admit(ctx context.Context) error {
	limit, err := m.method.limit(m.rule), error(nil)
	if m.rule.priority != "" {
		var priority Priority
		if priority, err = m.priorityOf(ctx); err == nil {
			limit = priority.of(limit)
		}
	}
	switch {
	case err != nil:
		m.method.refused.Add(1)
	case m.method.acquire(limit):
		m.note(ctx, Admitted, limit)
		return nil
	default:
		err = m.refusal
		m.method.endLongProbe()
	}
	m.note(ctx, Refused, limit)
	m.publish(ctx, Refused)
	return err
}

func (m *methodLimit) note(ctx context.Context, result Result, limit int64) {
	interceptors.Note(ctx, m.meta, func(h *hop.Hop) {
		h.Concurrency = &hop.Concurrency{Result: result.Result(), Running: m.method.inFlight.Load(), Limit: limit}
	})
}

func (m *methodLimit) publish(ctx context.Context, result Result) {
	m.limiter.publisher.Publish(ctx, m.meta, result)
}

func (m *methodLimit) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (reply any, err error) {
	if err := m.admit(ctx); err != nil {
		return nil, err
	}
	if !m.rule.adaptive {
		defer m.method.release()
		m.publish(ctx, Admitted)
		return handler(ctx, req)
	}
	began, sample := m.method.started(), noSample
	defer func() { // a panic, too, gives the permit back
		m.method.release()
		m.method.ended(began, sample, m.rule.bounds)
	}()
	m.publish(ctx, Admitted)
	reply, err = handler(ctx, req)
	sample = m.method.outcomeOf(ctx, began, err)
	return reply, err
}

func (m *methodLimit) stream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := m.admit(ss.Context()); err != nil {
		return err
	}
	defer m.method.release()
	m.publish(ss.Context(), Admitted)
	return handler(srv, ss)
}

// rule is a ConcurrencyRule with its defaults.
type rule struct {
	bounds
	adaptive bool
	priority string // metadata key, "" for none
}

// bounds are the floor and the ceiling of a limit.
type bounds struct{ min, max int64 }

func (b bounds) clamp(n int64) int64 { return min(max(n, b.min), b.max) }

func (b bounds) clampFloat(n float64) float64 {
	return min(max(n, float64(b.min)), float64(b.max))
}

// newRule is nil where nothing is limited. A stream has no latency that shows the load, so
// its limit is the ceiling.
func newRule(meta *interceptors.CallMeta, streams bool) *rule {
	policy := meta.Policy.GetConcurrency()
	if meta.Side != interceptors.Server || policy.GetMax() == 0 {
		return nil
	}
	if meta.Descriptor != nil && streams != meta.Streams() {
		return nil
	}
	r := &rule{
		bounds:   bounds{min: defaultMin, max: int64(policy.GetMax())},
		adaptive: policy.GetAdaptive() && !streams,
		priority: policy.GetPriorityMetadata(),
	}
	if policy.Min != nil {
		r.min = int64(policy.GetMin())
	}
	r.min = min(r.min, r.max)
	if !r.adaptive {
		r.min = r.max
	}
	return r
}

// outcome is how the end of a call counts as a sample of its method's latency.
type outcome uint8

const (
	noSample outcome = iota // not: it failed, which is often quick, or was cancelled
	answered                // the latency is its own
	expired                 // the latency would have been longer
)

// outcomeOf counts a call that is cancelled at its deadline as expired: client and server
// both end it then, and which of them comes first must not matter.
func (m *method) outcomeOf(ctx context.Context, began int64, err error) outcome {
	if err == nil {
		return answered
	}
	switch rpc.Code(err) {
	case codes.DeadlineExceeded:
		return expired
	case codes.Canceled:
		deadline, ok := ctx.Deadline()
		if took := m.now() - began; ok && int64(time.Until(deadline)) <= took/10 {
			return expired
		}
	}
	return noSample
}

// Priority is the value of the metadata key that the policy names: how much a call
// matters (criticality in Google's Site Reliability Engineering, chapter 21). Calls of
// lower priority are refused from a lower limit on, so that there is room for the rest.
type Priority string

// The priorities, and the part of the limit that all calls under way may fill before
// one more of that priority is refused, rounded up.
const (
	CriticalPlus  Priority = "critical_plus"  // 100 %
	Critical      Priority = "critical"       // 90 %, and the default
	SheddablePlus Priority = "sheddable_plus" // 75 %
	Sheddable     Priority = "sheddable"      // 50 %
)

// percent is 0 for an unknown priority.
func (p Priority) percent() int64 {
	switch p {
	case CriticalPlus:
		return 100
	case Critical:
		return 90
	case SheddablePlus:
		return 75
	case Sheddable:
		return 50
	default:
		return 0
	}
}

// of is the part of limit for p.
func (p Priority) of(limit int64) int64 { return (limit*p.percent() + 99) / 100 }

// priorityOf ignores, and counts, a priority that is unknown or of a caller who is not
// trusted. A trusted caller that sends several gets INVALID_ARGUMENT.
func (m *methodLimit) priorityOf(ctx context.Context) (Priority, error) {
	value, err := interceptors.MetadataValue(ctx, interceptors.Server, m.rule.priority)
	given := Priority(value)
	switch {
	case value == "" && err == nil:
		return Critical, nil
	case !m.limiter.callers.Trusted(ctx):
		m.method.ignored.Add(1)
		return Critical, nil
	case err != nil:
		return "", err
	case given.percent() == 0:
		m.method.ignored.Add(1)
		return Critical, nil
	}
	return given, nil
}

// newRefusal is made once for a method, since an overload refuses many calls. It has no
// time to retry after: another instance may have room now.
func newRefusal(meta *interceptors.CallMeta) error {
	s := status.New(codes.Unavailable, fmt.Sprintf("the concurrency limit of %s on this instance is reached: try another one, or later", meta.FullMethod))
	detailed, err := s.WithDetails(&errdetails.ErrorInfo{Reason: wire.ReasonOverloaded, Domain: wire.ErrorDomain})
	if err != nil {
		return s.Err()
	}
	return detailed.Err()
}
