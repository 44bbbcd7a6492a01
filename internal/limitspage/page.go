package limitspage

import "github.com/meshlite-go/meshlite/interceptors/ratelimit"

// Page is the part "limits" of /debug/meshlite. `meshlite limits` reads it, and its help says
// what the fields are.
type Page struct {
	Limiters []Limiter `json:"limiters"`
}

// Limiter is the state of one rate limiter. It shows no key that may be a secret.
type Limiter struct {
	Name string `json:"name"` // the service of its server, or the target of its channel
	Counts
	Keys      int      `json:"keys"`
	Forgotten uint64   `json:"forgotten"`
	Limits    []Limit  `json:"limits"`
	HotKeys   []HotKey `json:"hot_keys"`
}

// Counts are the limiter's own, which has their names in JSON.
type Counts = ratelimit.Counts

// Limit is a limit of a method that was called.
type Limit struct {
	Rule
	Refused  uint64 `json:"refused"`
	Shadowed uint64 `json:"shadowed"`
}

// Rule is a limit as the policy defines it.
type Rule struct {
	ID
	Limit         uint64  `json:"limit"`
	PeriodSeconds float64 `json:"period_seconds"`
	Burst         uint64  `json:"burst"`
	By            string  `json:"by"`
	Rules         string  `json:"rules"`
}

// ID identifies a limit of a limiter.
type ID struct {
	Method string `json:"method"` // "package.Service/Method"
	Side   string `json:"side"`   // "client" or "server"
	Name   string `json:"name"`
}

// HotKey is a key that has used most of a limit.
type HotKey struct {
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

// Concurrency is the state of one concurrency limiter.
type Concurrency struct {
	Name    string   `json:"name"` // "runtime", or the service of its server
	Methods []Method `json:"methods"`
}

// Method is the concurrency limit of one method.
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
