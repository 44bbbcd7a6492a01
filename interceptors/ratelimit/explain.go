package ratelimit

import (
	"context"
	"time"

	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// LimitState is what a call would meet at one limit. Durations are in milliseconds.
type LimitState struct {
	Name  string `json:"name"`
	Limit string `json:"limit"` // "100 per 1s, burst 20"
	// Counted is "here", "in the store", which has what is left, or "on the server".
	Counted   string  `json:"counted"`
	Remaining uint64  `json:"remaining"` // calls of cost 1 that are admitted at once; of limits that are counted here
	Reset     float64 `json:"reset_ms"`  // until the whole burst is available again
	// Refused says that the call would be refused now, or wait if the limit lets it.
	Refused    bool    `json:"refused"`
	RetryAfter float64 `json:"retry_after_ms"`
	Waits      bool    `json:"waits"`
	Shadow     bool    `json:"shadow"`          // it refuses nothing
	Error      string  `json:"error,omitempty"` // what the call lacks for the limit, or that the program leaves it out
}

// Explain returns what a call of meta with the outgoing metadata of ctx would meet, and charges
// nothing. A nil request is one that is not known.
func (l *Limiter) Explain(ctx context.Context, meta *interceptors.CallMeta, request any) []LimitState {
	all := []LimitState{}
	for _, policy := range meta.Policy.GetRateLimits() {
		switch {
		case policy.GetDisabled():
		case !meta.Side.On(policy.GetSide(), interceptors.Server):
			period, _ := interceptors.ParseDuration(policy.GetPeriod()) // none is a second
			limit := Limit{Calls: policy.GetLimit(), Period: period, Burst: policy.GetBurst()}
			all = append(all, LimitState{Name: policy.GetName(), Limit: limit.String(), Counted: "on the server", Shadow: policy.GetShadow()})
		case meta.Streams() && policy.GetKey().GetField() != "": // it does not apply
		default:
			all = append(all, l.explain(ctx, meta, policy, request))
		}
	}
	return all
}

func (l *Limiter) explain(ctx context.Context, meta *interceptors.CallMeta, policy *policyv1.RateLimitRule, request any) LimitState {
	r := newRule(l, meta, policy, nil)
	s := LimitState{Name: r.name, Limit: r.limit.String(), Counted: "here", Waits: r.wait, Shadow: r.shadow}
	if r.skip != nil && r.skip(ctx, request) {
		s.Error = "the program leaves this call out"
		return s
	}
	c, err := r.check(ctx, request)
	switch {
	case err != nil:
		s.Refused, s.Error = !r.shadow, status.Convert(err).Message()
	case r.countedIn == inStore:
		s.Counted = "in the store"
	default:
		now := l.table.now()
		tat, b := l.table.level(now, c.key, c.gcra)
		standing := newStanding(r.name, c.gcra, now, tat, b)
		decision := l.table.look(now, c.key, c.gcra, 0)
		s.Remaining, s.Reset = standing.Remaining, milliseconds(standing.Reset)
		s.Refused = !decision.Admitted && !r.shadow
		if !decision.Admitted && decision.RetryAfter != Never {
			s.RetryAfter = milliseconds(decision.RetryAfter)
		}
	}
	return s
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
