package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/interceptors/mirror"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/internal/explain"
)

// addPolicy adds what the client does with the call before and after it is sent.
func (n *node) addPolicy(e *explain.Explanation) {
	n.addIdentity(e)
	n.addTimeout(e)
	n.addRetry(e)
	n.addMirror(e.Mirror)
	for i := range e.Cache {
		if s := &e.Cache[i]; i == 0 || s.State != "bypass" || s.Why != e.Cache[i-1].Why {
			n.addCache(s)
		}
	}
	for i := range e.Limits {
		n.addLimit(&e.Limits[i])
	}
	n.addFields(e.Policy)
}

func (n *node) addIdentity(e *explain.Explanation) {
	i := e.Identity
	if i == nil {
		return
	}
	n = n.add("identity: %s", cmp.Or(i.ID, i.Error, "no certificate yet"))
	for _, server := range i.Servers {
		if server.Error != "" {
			n.add("! %s cannot be called: %s", server.Service, server.Error)
			continue
		}
		n.add("%s must prove %s", server.Service, server.ID)
	}
	for _, one := range e.Intentions {
		n.addIntention(&one)
	}
}

func (n *node) addIntention(i *explain.Intention) {
	if i.Error != "" {
		n.add("! the intentions of %s: %s", i.Destination, i.Error)
		return
	}
	text := fmt.Sprintf("✗ %s denies it by %s", i.Destination, i.Rule)
	if i.Allowed {
		text = fmt.Sprintf("✓ %s allows it by %s", i.Destination, i.Rule)
	}
	if i.Reason != "" {
		text += ": " + i.Reason
	}
	n.add("%s", text)
}

// shortMS writes milliseconds for people.
func shortMS(ms float64) string {
	return short(time.Duration(min(max(ms, -mostSeconds*1000), mostSeconds*1000) * float64(time.Millisecond)))
}

// addTimeout adds what bounds the call: once where all arms have the same timeout.
func (n *node) addTimeout(e *explain.Explanation) {
	var arms []routes.ArmExplanation
	for _, arm := range e.Routing.Arms {
		if arm.Share > 0 {
			arms = append(arms, arm)
		}
	}
	if len(arms) == 0 {
		n.add("timeout: %s", timeoutText(e.Timeout, 0))
		return
	}
	for i, arm := range arms {
		switch text := timeoutText(e.Timeout, arm.Timeout); {
		case slices.ContainsFunc(arms, func(a routes.ArmExplanation) bool { return a.Timeout != arm.Timeout }):
			n.add("timeout of arm %s: %s", arm.Name, text)
		case i == 0:
			n.add("timeout: %s", text)
		}
	}
}

// timeoutText is the shorter one of the timeouts of a policy and a route, where 0 is none.
func timeoutText(policy, route float64) string {
	switch {
	case policy <= 0 && route <= 0:
		return "that of the caller alone"
	case route <= 0:
		return shortMS(policy) + " by the policy"
	case policy <= 0:
		return shortMS(route) + " by the route"
	case policy <= route:
		return fmt.Sprintf("%s by the policy, less than the %s of the route", shortMS(policy), shortMS(route))
	default:
		return fmt.Sprintf("%s by the route, less than the %s of the policy", shortMS(route), shortMS(policy))
	}
}

func (n *node) addRetry(e *explain.Explanation) {
	r := e.Retry
	if r.Attempts <= 1 {
		n.add("one attempt: %s", r.Why)
		return
	}
	if r.Why != "" {
		n.add("at most %d attempts, only if no handler has run: %s%s; %.3g retries left in the budget", r.Attempts, r.Why, crossing(&e.Routing), r.Left)
		return
	}
	text := fmt.Sprintf("at most %d attempts, after %s", r.Attempts, strings.Join(r.Codes, " or "))
	if r.OnConnectFailure {
		text += " or without a connection"
	}
	text += fmt.Sprintf(", %s apart on average and growing to %s", shortMS(r.Backoff), shortMS(r.MaxBackoff))
	if r.AttemptTimeout > 0 {
		text += ", each for " + shortMS(r.AttemptTimeout)
	}
	n.add("%s%s; %.3g retries left in the budget", text, crossing(&e.Routing), r.Left)
}

// crossing says where a retry goes whose own target has no instance that the call has not tried.
func crossing(r *routes.Explanation) string {
	targets := map[string]bool{}
	for _, arm := range r.Arms {
		for _, t := range arm.Targets {
			if arm.Weight > 0 && t.Connected && t.Usable > 0 {
				targets[t.ID] = true
			}
		}
	}
	if len(targets) < 2 {
		return ""
	}
	return ", in another arm or failover target when its own has no instance left"
}

func (n *node) addMirror(p *mirror.Plan) {
	switch {
	case p == nil:
	case p.Why != "":
		n.add("mirror: no copies: %s", p.Why)
	default:
		text := fmt.Sprintf("mirror: %.4g%% of such calls are copied to %s", p.Percent, p.Target)
		if p.Compare {
			text += ", and the answers compared"
		}
		if len(p.Ignore) > 0 {
			text += " without " + strings.Join(p.Ignore, ", ")
		}
		n.add("%s", text)
	}
}

func (n *node) addCache(s *cache.Standing) {
	text := "cache"
	if s.Destination != "" {
		text += " of " + s.Destination
	}
	switch s.State {
	case "bypass":
		n.add("%s: not used: %s", text, s.Why)
		return
	case "absent":
		text += ": a miss, nothing is stored"
	case "fresh":
		text += fmt.Sprintf(": a hit, %s old, fresh for %s", shortMS(s.Age), shortMS(s.Left))
	case "stale":
		text += fmt.Sprintf(": a stale hit, %s old, expired %s ago", shortMS(s.Age), shortMS(-s.Left))
	default:
		text += fmt.Sprintf(": a miss, what is stored is %s old", shortMS(s.Age))
	}
	if s.Why != "" {
		text += ", and " + s.Why
	}
	n.add("%s; key %s of %s", text, s.Key, strings.Join(s.Of, ", "))
}

func (n *node) addLimit(s *ratelimit.LimitState) {
	text := fmt.Sprintf("limit %s: %s", s.Name, s.Limit)
	switch {
	case s.Error != "":
		text += ", " + s.Error
	case s.Counted != "here":
		text += ", counted " + s.Counted
	default:
		text += fmt.Sprintf(", %d left", s.Remaining)
		if s.Reset > 0 {
			text += ", all in " + shortMS(s.Reset)
		}
		switch {
		case s.Refused && s.Waits:
			text += ", the call waits for " + shortMS(s.RetryAfter)
		case s.Refused:
			text += ", the call is refused, for " + shortMS(s.RetryAfter)
		}
	}
	if s.Shadow {
		text += " (shadow: it refuses nothing)"
	}
	n.add("%s", text)
}

func (n *node) addFields(fields []interceptors.PolicyField) {
	if len(fields) == 0 {
		n.add("policy: none")
		return
	}
	n = n.add("policy")
	for _, f := range fields {
		n.add("%s: %s (%s, %s)", f.Field, f.Value, f.Layer, f.Of)
	}
}
