package consultest

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Requests to aim a fault at, for [Fault.On].
const (
	HealthReads   = "GET /v1/health/service/" // what resolvers ask; the aim of a new fault
	CatalogReads  = "GET /v1/catalog/"
	Registrations = "PUT /v1/agent/service/register"
	Heartbeats    = "PUT /v1/agent/check/" // of TTL checks; registrations of checks too
	KeyValues     = "/v1/kv/"
	Everything    = "/"
)

// Fault is a way to misbehave, and an aim: the requests that meet it. The functions that
// make one aim it at HealthReads; its methods return an altered copy, so a Fault
// may be kept and used again. It does nothing until it is given to
// [Server.Inject] or [Server.Script].
type Fault struct {
	patterns []string // none: HealthReads
	service  string
	when     func(*http.Request) bool
	times    int
	effects  []effect
}

// effect is one thing that a fault does. One field or two are set.
type effect struct {
	arrive func(*meeting, *recorder) (answered bool) // before the agent sees the request
	index  func(index, lower uint64) uint64          // of an answer, made from the true one
	header func(http.Header)                         // of an answer of the agent
	body   func([]byte) []byte                       // of an answer of the agent with status 200
	kept   bool                                      // a changed body is no change of index
	drip   time.Duration                             // the body takes that long
	cut    bool                                      // and ends too soon
}

// On aims the fault at the requests that match any of the patterns, which are
// "METHOD /path" or "/path", as in [net/http.ServeMux] but without wildcards: a
// path that ends in a slash stands for all below it.
func (f Fault) On(patterns ...string) Fault {
	for _, pattern := range patterns {
		if _, path := split(pattern); !strings.HasPrefix(path, "/") {
			panic(fmt.Sprintf("consultest: bad pattern %q: want \"/path\" or \"METHOD /path\", such as %q", pattern, HealthReads))
		}
	}
	f.patterns = slices.Clone(patterns)
	return f
}

// Service narrows the fault to requests whose path ends in the name of one
// service, as those for its health do. A registration has the name in its body
// and is not found so.
func (f Fault) Service(name string) Fault {
	f.service = name
	return f
}

// When narrows the fault to requests for which match returns true. It must not
// read the body, inject or lift, and is called several times for one request,
// by several goroutines.
func (f Fault) When(match func(r *http.Request) bool) Fault {
	f.when = match
	return f
}

// Times ends the fault when n requests have met it. In a script it repeats the step.
func (f Fault) Times(n int) Fault {
	if n < 1 {
		panic(fmt.Sprintf("consultest: a fault cannot happen %d times: want 1 or more", n))
	}
	f.times = n
	return f
}

// And adds what others do, in the order given; it is aimed as f is. What holds a
// request back goes before what answers or breaks it off: Delay(d).And(NoLeader()).
func (f Fault) And(others ...Fault) Fault {
	f.effects = slices.Clone(f.effects)
	for _, other := range others {
		f.effects = append(f.effects, other.effects...)
	}
	return f
}

func split(pattern string) (method, path string) {
	if method, path, ok := strings.Cut(pattern, " "); ok {
		return method, path
	}
	return "", pattern
}

func (f Fault) matches(r *http.Request) bool {
	aimed := len(f.patterns) == 0 && onPattern(HealthReads, r) ||
		slices.ContainsFunc(f.patterns, func(pattern string) bool { return onPattern(pattern, r) })
	return aimed && (f.service == "" || strings.HasSuffix(r.URL.Path, "/"+f.service)) && (f.when == nil || f.when(r))
}

func onPattern(pattern string, r *http.Request) bool {
	method, path := split(pattern)
	if method != "" && method != r.Method {
		return false
	}
	return path == r.URL.Path || strings.HasSuffix(path, "/") && strings.HasPrefix(r.URL.Path, path)
}

// has reports whether any effect has what is asked for.
func (f Fault) has(what func(effect) bool) bool { return slices.ContainsFunc(f.effects, what) }

// stirs reports whether indexes rise when f comes and goes: what clients are told
// changes, and they hear of it as of any change.
func (f Fault) stirs() bool {
	return f.has(func(e effect) bool { return e.body != nil }) && !f.has(func(e effect) bool { return e.kept })
}

// alters reports whether clients are told something else while f lasts.
func (f Fault) alters() bool {
	return f.has(func(e effect) bool { return e.body != nil || e.index != nil })
}
