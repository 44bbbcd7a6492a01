package ratelimit

import (
	"context"
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

// refusal is what a caller receives: which limit it has reached and when to come again.
type refusal struct {
	message   string
	quota     *anypb.Any    // a QuotaFailure
	after     time.Duration // whole milliseconds, or Never
	unhandled bool          // another instance may admit the call, which no handler has seen
	standings []Standing
}

// refusal is that of the limit that refuses. handled is that a handler has seen the call.
func (v *verdict) refusal(table *Table, handled bool) refusal {
	c := &v.checks[v.refusedBy]
	r := refusal{quota: c.rule.quota, after: jittered(v.wait), standings: v.checks.standings(table, v.now)}
	r.unhandled = c.charge.in != inStore && !handled && r.after != Never
	if c.gcra.limit != c.rule.limit || c.charge.in != c.rule.countedIn {
		r.quota = c.rule.quotaFailure(c.gcra.limit, c.charge.in)
	}
	limit := c.description()
	switch {
	case c.charge.in == uncounted:
		r.message = fmt.Sprintf("rate limit %q admits nothing while its external store is unavailable: try again in %v", c.rule.name, r.after)
	case c.gcra.limit.Calls == 0:
		r.message = fmt.Sprintf("rate limit %q admits nothing (%s)", c.rule.name, limit)
	case r.after == Never:
		r.message = fmt.Sprintf("rate limit %q: one call costs more than its burst (%s): raise the burst or lower the cost", c.rule.name, limit)
	default:
		r.message = fmt.Sprintf("rate limit %q reached (%s): try again in %v", c.rule.name, limit, r.after)
	}
	return r
}

// description adds how a call without a key is counted.
func (c *check) description() string {
	limit := c.rule.description(c.gcra.limit)
	switch k := &c.rule.keyer; {
	case !c.keyless || k.value == "":
		return limit
	case k.missing == policyv1.MissingKey_MISSING_KEY_PEER:
		return fmt.Sprintf("%s; the call has no %s and counts by its network address", limit, k.value)
	default:
		return fmt.Sprintf("%s; the call has no %s and counts with all that have none", limit, k.value)
	}
}

// description is "50 per 1s by metadata customer-id".
func (r *rule) description(limit Limit) string {
	if r.keyer.name == "" {
		return limit.String()
	}
	return limit.String() + " by " + r.keyer.name
}

// quotaFailure describes the limit, by what it counts, and its scope: only what the
// store counts is the limit of all replicas together.
func (r *rule) quotaFailure(limit Limit, in counter) *anypb.Any {
	scope := wire.ScopeInstance
	if in == inStore {
		scope = wire.ScopeService
	}
	return newQuotaFailure(&errdetails.QuotaFailure_Violation{
		Subject:         "limit:" + r.name,
		Description:     r.description(limit),
		ApiService:      r.meta.Service,
		QuotaId:         r.name,
		QuotaDimensions: map[string]string{wire.QuotaKey: r.keyer.dimension, wire.QuotaScope: scope},
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
	if r.unhandled {
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

// FromContext returns the standing of the caller at each limit of the method right after
// its call was admitted, in the order of the policy: what the RateLimit field shows (see
// [WithFields]). It reports false where no limiter of a server is in the chain, or the
// method has no limit.
func FromContext(ctx context.Context) ([]Standing, bool) {
	c, ok := ctx.Value(contextKey{}).(*callContext)
	if !ok {
		return nil, false
	}
	return c.checks.standings(c.table, c.now), true
}

type contextKey struct{}

// callContext is the context of an admitted call, in one allocation where a method has no
// more than two limits.
type callContext struct {
	context.Context
	table  *Table
	now    int64
	checks checks
	space  [2]check
}

// Value finds the context itself.
func (c *callContext) Value(name any) any {
	if name == (contextKey{}) {
		return c
	}
	return c.Context.Value(name)
}

// The fields of draft-ietf-httpapi-ratelimit-headers, as trailers: lists of
// structured fields (RFC 9651), an item for each limit.
const (
	policyField = "ratelimit-policy" // "name";q=quota;w=window in seconds
	stateField  = "ratelimit"        // "name";r=remaining;t=seconds until all is back
)

// fields are those of all standings, nil without one.
func fields(all []Standing) metadata.MD {
	if len(all) == 0 {
		return nil
	}
	policy, state := Fields(all)
	return metadata.Pairs(policyField, policy, stateField, state)
}

// Fields returns the values of the fields RateLimit-Policy and RateLimit
// (draft-ietf-httpapi-ratelimit-headers) that show standings, both "" without one.
func Fields(standings []Standing) (policy, state string) {
	var policies, states []byte
	for i, s := range standings {
		if i > 0 {
			policies, states = append(policies, ", "...), append(states, ", "...)
		}
		quota, window := s.Limit.window()
		policies = appendItem(policies, s.Name, "q", quota, "w", window)
		states = appendItem(states, s.Name, "r", s.Remaining, "t", seconds(s.Reset))
	}
	return string(policies), string(states)
}

func appendItem(to []byte, name, param string, value uint64, param2 string, value2 uint64) []byte {
	const most = 999_999_999_999_999 // RFC 9651, 3.3.1
	to = appendText(to, name)
	to = strconv.AppendUint(append(append(append(to, ';'), param...), '='), min(value, most), 10)
	return strconv.AppendUint(append(append(append(to, ';'), param2...), '='), min(value2, most), 10)
}

// appendText quotes text as far as a structured field can carry it (RFC 9651, 3.3.3).
func appendText(to []byte, text string) []byte {
	to = append(to, '"')
	for _, r := range text {
		switch {
		case r < ' ' || r > '~':
			to = append(to, '_')
		case r == '"' || r == '\\':
			to = append(to, '\\', byte(r))
		default:
			to = append(to, byte(r))
		}
	}
	return append(to, '"')
}

// window is the limit for whole seconds: a period that is none is lengthened to
// the next, and the quota with it.
func (l Limit) window() (quota, window uint64) {
	window = seconds(l.Period)
	if whole := time.Duration(window) * time.Second; whole != l.Period && whole > 0 {
		return uint64(float64(l.Calls) * (float64(whole) / float64(l.Period))), window
	}
	return l.Calls, window
}

// seconds rounds up.
func seconds(d time.Duration) uint64 {
	if d <= 0 {
		return 0
	}
	return uint64(d-1)/uint64(time.Second) + 1
}
