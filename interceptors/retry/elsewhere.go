package retry

import (
	"context"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer/attempt"
)

// elsewhere is [Again], at once, for an attempt that one instance has refused by a rate
// limit, whatever codes the rule retries: another may admit it.
func (m *method) elsewhere(ctx context.Context, record *attempt.Record, result *outcome) (Verdict, time.Duration) {
	if status.Code(result.err) != codes.ResourceExhausted || !record.Others() || record.Number() >= m.rule.attempts {
		return Final, 0
	}
	s := status.Convert(result.err)
	advice := adviceOf(s, result.trailer)
	if advice.never || !advice.given || ofService(s) || ctx.Err() != nil {
		return Final, 0
	}
	if !m.budget.spend() {
		return Overspent, 0
	}
	return Again, 0
}

// ofService reports whether a limit is that of all instances: one that does not say so is
// that of its instance alone.
func ofService(s *status.Status) bool {
	for _, detail := range s.Details() {
		if quota, ok := detail.(*errdetails.QuotaFailure); ok && len(quota.GetViolations()) > 0 {
			return quota.GetViolations()[0].GetQuotaDimensions()[attempt.QuotaScope] == attempt.ScopeService
		}
	}
	return false
}
