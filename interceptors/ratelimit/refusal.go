package ratelimit

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
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
	violation *errdetails.QuotaFailure_Violation
	after     time.Duration // whole milliseconds, or Never
	standings []Standing
}

// refusal is what a caller is told that v refuses.
func (p *part) refusal(v *verdict) refusal {
	e := &v.entries[v.refusing]
	r := refusal{after: jittered(v.wait), standings: v.entries.standings(p.table, v.now)}
	limit := e.rule.description(e.limit)
	switch {
	case e.limit.Calls == 0:
		r.message = fmt.Sprintf("rate limit %q admits nothing (%s)", e.rule.name, limit)
	case r.after == Never:
		r.message = fmt.Sprintf("rate limit %q: one call costs more than its burst (%s): raise the burst or lower the cost", e.rule.name, limit)
	default:
		r.message = fmt.Sprintf("rate limit %q reached (%s): try again in %v", e.rule.name, limit, r.after)
	}
	r.violation = &errdetails.QuotaFailure_Violation{
		Subject:         "limit:" + e.rule.name,
		Description:     limit,
		ApiService:      p.meta.Service,
		QuotaId:         e.rule.name,
		QuotaDimensions: map[string]string{keyDimension: e.rule.by.seen},
		QuotaValue:      int64(min(e.limit.Calls, math.MaxInt64)),
	}
	return r
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
	s := status.New(codes.ResourceExhausted, r.message)
	details := []protoadapt.MessageV1{&errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{r.violation}}}
	if r.after != Never {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(r.after)})
	}
	if detailed, err := s.WithDetails(details...); err == nil {
		s = detailed
	}
	return s.Err()
}
