package retry

import (
	"slices"
	"time"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
)

// Plan is what is retried of the calls of a method. Durations are in milliseconds.
type Plan struct {
	Attempts int `json:"attempts"` // at most, with the first
	// Codes are retried, and OnConnectFailure also what found no connection. Without both only
	// calls that no handler has run are.
	Codes            []string `json:"codes"`
	OnConnectFailure bool     `json:"on_connect_failure"`
	Backoff          float64  `json:"backoff_ms"` // before the second attempt, on average
	MaxBackoff       float64  `json:"max_backoff_ms"`
	AttemptTimeout   float64  `json:"attempt_timeout_ms"` // 0 is none
	Budget           float64  `json:"budget"`             // retries for each call, over time
	Left             float64  `json:"budget_left"`        // retries; as many as there can be for a method that was not called
	Why              string   `json:"why,omitempty"`      // the rule of the policy does not apply
}

// Plan returns that of the calls of meta on a route that says route of retries; nil is nothing.
func (r *Retry) Plan(meta *interceptors.CallMeta, route *attempt.Retry) Plan {
	rule := newRule(meta.Policy.GetRetry())
	if rule.attempts == 1 {
		return Plan{Attempts: 1, Codes: []string{}, Why: "max_attempts is 1"}
	}
	ruled, why := false, ""
	switch adds := route != nil; {
	case meta.Streams():
		why = "a stream is not retried once a handler has run"
	case !meta.Retryable():
		why = "the method may not run twice"
	case rule.attempts < 2 && !adds:
		why = "neither policy nor route has a rule"
	default:
		ruled = true
		if rule.attempts < 2 {
			rule.attempts = attemptsWithoutRule
		}
		if adds {
			rule = rule.with(route)
		}
	}
	if !ruled {
		rule.attempts = max(rule.attempts, attemptsWithoutRule)
	}
	p := Plan{Attempts: rule.attempts, Codes: []string{}, Budget: rule.budget, Left: float64(newBudget(rule.budget).tokens.Load()) / token, Why: why}
	for _, s := range r.Stats() {
		if s.Method == meta.FullMethod {
			p.Left = s.Budget
		}
	}
	if !ruled {
		return p
	}
	for code := range rule.codes {
		p.Codes = append(p.Codes, code.String())
	}
	slices.Sort(p.Codes)
	p.OnConnectFailure = rule.onConnectFailure
	p.Backoff, p.MaxBackoff, p.AttemptTimeout = milliseconds(rule.backoff), milliseconds(rule.maxWait), milliseconds(rule.attemptTimeout)
	return p
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
