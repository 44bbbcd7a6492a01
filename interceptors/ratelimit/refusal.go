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

	"github.com/meshlite-go/meshlite/internal/wire"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// refusal tells a caller which limit it has reached and when to come again.
type refusal struct {
	message   string
	quota     *anypb.Any    // a QuotaFailure
	after     time.Duration // whole milliseconds, or Never
	elsewhere bool          // another instance may admit the call, which no handler has seen
	standings []Standing
}

// refusal is what a caller is told that v refuses.
func (p *part) refusal(v *verdict) refusal {
	e := &v.entries[v.refusing]
	r := refusal{quota: e.rule.quota, after: jittered(v.wait), standings: v.entries.standings(p.table, v.now)}
	r.elsewhere = e.charge.at != atStore && !p.handled && r.after != Never
	if e.terms.limit != e.rule.limit || e.charge.at != e.rule.at {
		r.quota = e.rule.quotaFailure(e.terms.limit, e.charge.at)
	}
	limit := e.description()
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

// description says why a call without a key finds the limit reached.
func (e *entry) description() string {
	limit := e.rule.description(e.terms.limit)
	switch by := &e.rule.by; {
	case !e.absent || by.absent == "":
		return limit
	case by.missing == policyv1.MissingKey_MISSING_KEY_PEER:
		return fmt.Sprintf("%s; the call has no %s and counts by its network address", limit, by.absent)
	default:
		return fmt.Sprintf("%s; the call has no %s and counts with all that have none", limit, by.absent)
	}
}

// quotaFailure describes the limit, by what it counts, and whose it is: only what the
// store counts is the limit of all replicas together.
func (r *rule) quotaFailure(limit Limit, at place) *anypb.Any {
	scope := wire.ScopeInstance
	if at == atStore {
		scope = wire.ScopeService
	}
	return newQuotaFailure(&errdetails.QuotaFailure_Violation{
		Subject:         "limit:" + r.name,
		Description:     r.description(limit),
		ApiService:      r.meta.Service,
		QuotaId:         r.name,
		QuotaDimensions: map[string]string{wire.QuotaKey: r.by.seen, wire.QuotaScope: scope},
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
	md := metadata.Join(metadata.Pairs(wire.PushbackKey, pushback), fields(r.standings))
	if r.elsewhere {
		md.Set(wire.UnhandledKey, wire.UnhandledLimit)
	}
	return md
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
