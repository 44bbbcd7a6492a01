package ratelimit

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// pushbackKey tells gRPC's own retries when to come again (gRFC A6); a negative
// value tells them not to.
const pushbackKey = "grpc-retry-pushback-ms"

// keyDimension is where a refusal says by what the limit counts, so that a client
// can tell which calls count together.
const keyDimension = "key"

// refusal tells a caller which limit it has reached and when to come again.
type refusal struct {
	message   string
	quota     *anypb.Any    // a QuotaFailure
	after     time.Duration // whole milliseconds, or Never
	standings []Standing
}

// refusal is what a caller is told that v refuses.
func (p *part) refusal(v *verdict) refusal {
	e := &v.entries[v.refusing]
	r := refusal{quota: e.rule.quota, after: jittered(v.wait), standings: v.entries.standings(p.table, v.now)}
	if e.terms.limit != e.rule.limit {
		r.quota = e.rule.quotaFailure(e.terms.limit)
	}
	limit := e.rule.description(e.terms.limit)
	switch {
	case e.charge.at == nowhere:
		r.message = fmt.Sprintf("rate limit %q admits nothing while its shared store is away: try again in %v", e.rule.name, r.after)
	case e.terms.limit.Calls == 0:
		r.message = fmt.Sprintf("rate limit %q admits nothing (%s)", e.rule.name, limit)
	case r.after == Never:
		r.message = fmt.Sprintf("rate limit %q: one call costs more than its burst (%s): raise the burst or lower the cost", e.rule.name, limit)
	default:
		r.message = fmt.Sprintf("rate limit %q reached (%s): try again in %v", e.rule.name, limit, r.after)
	}
	return r
}

// quotaFailure tells the limit, and by what it counts.
func (r *rule) quotaFailure(limit Limit) *anypb.Any {
	return newQuotaFailure(&errdetails.QuotaFailure_Violation{
		Subject:         "limit:" + r.name,
		Description:     r.description(limit),
		ApiService:      r.meta.Service,
		QuotaId:         r.name,
		QuotaDimensions: map[string]string{keyDimension: r.by.seen},
		QuotaValue:      int64(min(limit.Calls, math.MaxInt64)),
	})
}

// newQuotaFailure is nil where a name is no valid text.
func newQuotaFailure(violation *errdetails.QuotaFailure_Violation) *anypb.Any {
	quota, err := anypb.New(&errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{violation}})
	if err != nil {
		return nil
	}
	return quota
}

// jittered lengthens wait by up to a tenth, so that callers refused together do
// not come again together, and rounds it up.
func jittered(wait time.Duration) time.Duration {
	if wait == Never {
		return Never
	}
	wait += rand.N(wait/10 + 1)
	return (wait + time.Millisecond - 1).Truncate(time.Millisecond)
}

func (r refusal) trailer() metadata.MD {
	pushback := "-1"
	if ms := r.after.Milliseconds(); ms <= math.MaxInt32 { // gRPC reads 32 bits
		pushback = strconv.FormatInt(ms, 10)
	}
	return metadata.Join(metadata.Pairs(pushbackKey, pushback), fields(r.standings))
}

func (r refusal) err() error {
	s := &spb.Status{Code: int32(codes.ResourceExhausted), Message: r.message}
	if r.quota != nil {
		s.Details = append(s.Details, r.quota)
	}
	if r.after != Never {
		if retry, err := anypb.New(&errdetails.RetryInfo{RetryDelay: durationpb.New(r.after)}); err == nil {
			s.Details = append(s.Details, retry)
		}
	}
	return status.ErrorProto(s)
}
