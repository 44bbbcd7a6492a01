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

	"github.com/meshlite-go/meshlite/interceptors"
)

// pushbackKey tells gRPC's own retries when to come again (gRFC A6); a negative
// value tells them not to.
const pushbackKey = "grpc-retry-pushback-ms"

// refusal tells a caller which limit it has reached and when to come again.
type refusal struct {
	meta  *interceptors.CallMeta
	rule  *rule
	after time.Duration // whole milliseconds, or Never
}

// newRefusal lengthens wait by up to a tenth, so that callers refused together do
// not come again together, and rounds it up.
func newRefusal(meta *interceptors.CallMeta, rule *rule, wait time.Duration) refusal {
	after := wait
	if wait != Never {
		after += rand.N(wait/10 + 1)
		after = (after + time.Millisecond - 1).Truncate(time.Millisecond)
	}
	return refusal{meta: meta, rule: rule, after: after}
}

func (r refusal) trailer() metadata.MD {
	pushback := "-1"
	if ms := r.after.Milliseconds(); ms <= math.MaxInt32 { // gRPC reads 32 bits
		pushback = strconv.FormatInt(ms, 10)
	}
	return metadata.Pairs(pushbackKey, pushback)
}

func (r refusal) err() error {
	s := status.New(codes.ResourceExhausted, r.message())
	details := []protoadapt.MessageV1{&errdetails.QuotaFailure{
		Violations: []*errdetails.QuotaFailure_Violation{{
			Subject:     "limit:" + r.rule.name,
			Description: r.rule.description(),
			ApiService:  r.meta.Service,
			QuotaId:     r.rule.name,
			QuotaValue:  int64(min(r.rule.limit.Calls, math.MaxInt64)),
		}},
	}}
	if r.after != Never {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(r.after)})
	}
	if detailed, err := s.WithDetails(details...); err == nil {
		s = detailed
	}
	return s.Err()
}

func (r refusal) message() string {
	if r.after == Never {
		return fmt.Sprintf("rate limit %q: one call costs more than its burst (%s): raise the burst or lower the cost", r.rule.name, r.rule.description())
	}
	return fmt.Sprintf("rate limit %q reached (%s): try again in %v", r.rule.name, r.rule.description(), r.after)
}

// description is "50 per 1s by metadata customer-id".
func (r *rule) description() string {
	if r.by == "" {
		return r.limit.String()
	}
	return r.limit.String() + " by " + r.by
}
