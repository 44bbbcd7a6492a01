package retry

import (
	"context"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
)

// unretried is how many attempts a call has whose method may not run twice, when each
// but the last is refused before its handler runs.
const unretried = 3

// elsewhere is [Again], at once, for an attempt that one instance has refused by a rate
// limit while another may admit it. Whether the method may run twice matters where the
// refusal does not prove that no handler has run.
func (m *method) elsewhere(ctx context.Context, record *attempt.Record, result outcome) (Verdict, time.Duration) {
	if status.Code(result.err) != codes.ResourceExhausted || !record.Others() || record.Number() >= m.rule.attempts || ctx.Err() != nil {
		return Final, 0
	}
	advice := adviceOf(status.Convert(result.err), result.trailer)
	if advice.never || !advice.given {
		return Final, 0
	}
	proven, others := m.refused(status.Convert(result.err))
	if !others || !proven && !m.meta.Retryable() {
		return Final, 0
	}
	if !m.budget.spend() {
		return Overspent, 0
	}
	return Again, 0
}

// refused reads whose limit has refused a call: it is that of the instance unless it says
// that it is the service's. proven is that the limit is one of this module in front of
// the very method, so that no handler has run.
func (m *method) refused(s *status.Status) (proven, others bool) {
	for _, detail := range s.Details() {
		if quota, ok := detail.(*errdetails.QuotaFailure); ok && len(quota.GetViolations()) > 0 {
			v := quota.GetViolations()[0]
			of := v.GetQuotaDimensions()
			proven = v.GetApiService() == m.meta.Service && of[attempt.QuotaMethod] == m.meta.Method
			return proven, of[attempt.QuotaScope] != attempt.ScopeService
		}
	}
	return false, true
}

// unretried has the calls of a method that may not run twice tried elsewhere when an
// instance refuses them. nil where the policy says that there is one attempt.
func (r *Retry) unretried(meta *interceptors.CallMeta, rule rule) *method {
	if rule.attempts == 1 {
		return nil
	}
	rule.attempts = max(rule.attempts, unretried)
	return &method{meta: meta, rule: rule, budget: newBudget(rule.budget), observe: r.observer}
}

// first makes the only attempt of most calls, which costs them nothing.
func (m *method) first(ctx context.Context, name string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	m.budget.earn()
	options := newOptions(opts)
	err := invoker(ctx, name, req, reply, cc, options.all...)
	record := attempt.FromContext(ctx)
	for err != nil && record != nil {
		verdict, _ := m.elsewhere(ctx, record, outcome{err: err})
		if verdict != Again {
			break
		}
		m.observe(m.meta, Attempt{record.Number(), record.Picked(), status.Code(err), verdict, 0})
		record = record.Next()
		options.reset(reply)
		err = invoker(attempt.NewContext(ctx, record), name, req, reply, cc, options.all...)
	}
	options.finish(err)
	return err
}
