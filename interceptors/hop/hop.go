// Package hop is the record of what happened to one call at one end of the wire: on the server
// who called, what decided about the call, what the handler did and whom it called in turn; on
// the client where the call went, by which attempts, and why. The two ends of several services
// make a tree.
//
// Concerns fill the record of a call that somebody wants explained, see package explained, by
// one call that does nothing for all others:
//
//	interceptors.Note(ctx, meta, func(h *hop.Hop) { h.TraceID = id })
//
// A record names rules, routes, instances and times. It has no value of a request, of metadata,
// or of the key of a limit or a cache.
package hop

import (
	"fmt"
	"iter"
	"strconv"
	"time"
)

// Hop is what happened to a call at one end. Durations are in milliseconds.
type Hop struct {
	Side     string  `json:"side"`   // "client" or "server"
	Method   string  `json:"method"` // "package.Service/Method"
	Code     string  `json:"code"`   // "OK"; "" for a call that has not ended
	Duration float64 `json:"duration_ms"`
	TraceID  string  `json:"trace_id,omitempty"` // of a call that is sampled

	Deadline *Deadline `json:"deadline,omitempty"` // nil is none
	Cache    *Cache    `json:"cache,omitempty"`    // nil where no cache is in the way of the call
	Limits   []Limit   `json:"limits,omitempty"`
	Panicked bool      `json:"panicked,omitempty"`

	// Of a client: the channel's target, where a chain of routes has sent the call, and what was
	// sent. No attempt is a call that was answered or refused before.
	Target   string    `json:"target,omitempty"`
	Route    *Route    `json:"route,omitempty"`
	Attempts []Attempt `json:"attempts,omitempty"`

	// Of a server.
	Service       string       `json:"service,omitempty"`
	Instance      string       `json:"instance,omitempty"` // in the directory
	Zone          string       `json:"zone,omitempty"`
	Caller        string       `json:"caller,omitempty"` // as logs have it: what a certificate proves, or a hash
	Peer          string       `json:"peer,omitempty"`   // the network address of the caller
	Authorization []Decision   `json:"authorization,omitempty"`
	Concurrency   *Concurrency `json:"concurrency,omitempty"`
	Handler       *float64     `json:"handler_ms,omitempty"` // nil where no handler ran
	Calls         []*Hop       `json:"calls,omitempty"`      // that the handler made, each of a client

	// LeftOut is how many hops below this one, and attempts of it, are not in the record for lack
	// of room.
	LeftOut int `json:"left_out,omitempty"`
}

// Deadline is until when a call may take, as of its beginning.
type Deadline struct {
	Left float64 `json:"left_ms"`
	By   string  `json:"by"` // what has set it: "caller", "route" or "policy"
}

// Cache is what a cache did with a call.
type Cache struct {
	Result string  `json:"result"` // "hit", "miss", "coalesced", "stale", "bypass", "shadow_hit" or "shadow_stale"
	Why    string  `json:"why,omitempty"`
	Age    float64 `json:"age_ms"` // of what is stored; 0 without
}

// Limit is the verdict of one rate limit.
type Limit struct {
	Name   string `json:"name"`
	Result string `json:"result"` // "admitted", "refused", "shadowed" or "held_back"
	// Left is how many further calls of cost 1 the limit admits now for the key of the call, and
	// Reset how long until it admits its whole burst; nil is not known.
	Left       *uint64 `json:"left,omitempty"`
	Reset      float64 `json:"reset_ms,omitempty"`
	Waited     float64 `json:"waited_ms,omitempty"`
	RetryAfter float64 `json:"retry_after_ms,omitempty"`
}

// Route is where a chain of routes has sent a call.
type Route struct {
	Name        string `json:"name"`
	Arm         string `json:"arm,omitempty"`
	Destination string `json:"destination"` // "dc1/catalog/v2"
}

// Attempt is one attempt of a call.
type Attempt struct {
	Number     int     `json:"number"`             // 1 is the first
	Instance   string  `json:"instance,omitempty"` // "" where none was picked
	Address    string  `json:"address,omitempty"`
	Zone       string  `json:"zone,omitempty"`
	Policy     string  `json:"policy,omitempty"`     // that picked the instance
	Candidates int     `json:"candidates,omitempty"` // instances that it could pick
	Route      *Route  `json:"route,omitempty"`      // where it differs from that of the call
	Started    float64 `json:"started_ms"`           // after the beginning of the call
	Duration   float64 `json:"duration_ms"`
	Code       string  `json:"code"`              // "" for one that has not ended, or a stream that was not read to its end
	Verdict    string  `json:"verdict,omitempty"` // what followed a failure: "again", "final", "exhausted" and the like
	Wait       float64 `json:"wait_ms,omitempty"` // before the next attempt
	// Server is what the server answered, and Silent why there is no such answer.
	Server *Hop   `json:"server,omitempty"`
	Silent string `json:"silent,omitempty"`
}

// Decision is that of one authorizer.
type Decision struct {
	Policy  string `json:"policy"`
	Allowed bool   `json:"allowed"`
	Rule    string `json:"rule,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

// Concurrency is the verdict of the concurrency limit, and its state after it.
type Concurrency struct {
	Result  string `json:"result"` // "admitted" or "refused"
	Running int64  `json:"running"`
	Limit   int64  `json:"limit"`
}

// Milliseconds are those of d, down to the microsecond.
func Milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// AddLimit adds the verdict of a limit, in place of an earlier one of the same limit.
func (h *Hop) AddLimit(l Limit) {
	for i := range h.Limits {
		if h.Limits[i].Name == l.Name {
			h.Limits[i] = l
			return
		}
	}
	if len(h.Limits) < maxList {
		h.Limits = append(h.Limits, l)
	}
}

// AddDecision adds that of an authorizer, in place of an earlier one of the same authorizer: a
// stream is authorized again whenever intentions change.
func (h *Hop) AddDecision(d Decision) {
	for i := range h.Authorization {
		if h.Authorization[i].Policy == d.Policy {
			h.Authorization[i] = d
			return
		}
	}
	if len(h.Authorization) < maxList {
		h.Authorization = append(h.Authorization, d)
	}
}

// Follow records what followed the latest attempt.
func (h *Hop) Follow(verdict string, wait time.Duration) {
	if n := len(h.Attempts); n > 0 {
		h.Attempts[n-1].Verdict, h.Attempts[n-1].Wait = verdict, Milliseconds(wait)
	}
}

// below calls f with each hop directly below h, and the place that holds it.
func (h *Hop) below(f func(**Hop)) {
	for i := range h.Attempts {
		if h.Attempts[i].Server != nil {
			f(&h.Attempts[i].Server)
		}
	}
	for i := range h.Calls {
		if h.Calls[i] != nil {
			f(&h.Calls[i])
		}
	}
}

// Facts yields what the hop says beside what the spans and log lines of all calls have, by name:
// who has set the deadline, why the cache did what it did, which rules have decided.
func (h *Hop) Facts() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		if h.Deadline != nil && !yield("deadline.by", h.Deadline.By) {
			return
		}
		if h.Cache != nil && h.Cache.Why != "" && !yield("cache.why", h.Cache.Why) {
			return
		}
		for _, d := range h.Authorization {
			if d.Rule != "" && !yield("authorization.rule", d.Rule) {
				return
			}
		}
		for _, l := range h.Limits {
			if l.Left != nil && !yield("ratelimit."+l.Name+".left", strconv.FormatUint(*l.Left, 10)) {
				return
			}
		}
		if c := h.Concurrency; c != nil {
			yield("concurrency.running", fmt.Sprintf("%d of %d", c.Running, c.Limit))
		}
	}
}
