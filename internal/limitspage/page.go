package limitspage

import "github.com/meshlite-go/meshlite/interceptors/ratelimit"

// Page is the part "limits" of /debug/meshlite. `meshlite limits` reads it, and its help says
// what the fields are.
type Page struct {
	Limiters []Limiter `json:"limiters"`
}

// Limiter is of one rate limiter. Nothing shows a key that may be a secret.
type Limiter struct {
	Name string `json:"name"` // of who was given it: the service of a server, the target of a channel
	Counts
	Keys      int     `json:"keys"`
	Forgotten uint64  `json:"forgotten"`
	Limits    []Limit `json:"limits"`
	Near      []Near  `json:"near"`
}

// Counts are the limiter's own, which has their names in JSON.
type Counts = ratelimit.Counts

// Limit is a limit of a method that was called.
type Limit struct {
	Rule
	Refused  uint64 `json:"refused"`
	Shadowed uint64 `json:"shadowed"`
}

// Rule is what the policy says of a limit.
type Rule struct {
	ID
	Limit         uint64  `json:"limit"`
	PeriodSeconds float64 `json:"period_seconds"`
	Burst         uint64  `json:"burst"`
	By            string  `json:"by"`
	Rules         string  `json:"rules"`
}

// ID tells the limits of a limiter apart.
type ID struct {
	Method string `json:"method"` // "package.Service/Method"
	Side   string `json:"side"`   // "client" or "server"
	Name   string `json:"name"`
}

// Near is a key that has used most of a limit.
type Near struct {
	ID
	Key          string  `json:"key"`
	Used         float64 `json:"used"`
	Remaining    uint64  `json:"remaining"`
	ResetSeconds float64 `json:"reset_seconds"`
}

// ConcurrencyPage is the part "concurrency" of /debug/meshlite, which `meshlite limits` reads,
// too.
type ConcurrencyPage struct {
	Limiters []Concurrency `json:"limiters"`
}

// Concurrency is of what bounds the handlers of servers.
type Concurrency struct {
	Name    string   `json:"name"` // "runtime", or the service of who was given it
	Methods []Method `json:"methods"`
}

// Method is of the calls of one method that run at once.
type Method struct {
	Method            string  `json:"method"` // "other" is all those beyond the first
	Adaptive          bool    `json:"adaptive"`
	Limit             int64   `json:"limit"`
	InFlight          int64   `json:"in_flight"`
	Admitted          uint64  `json:"admitted"`
	Refused           uint64  `json:"refused"`
	IgnoredPriorities uint64  `json:"ignored_priorities"`
	BaseLatency       float64 `json:"base_latency_ms"`   // 0 while it is not known
	SampleLatency     float64 `json:"sample_latency_ms"` // likewise
}
