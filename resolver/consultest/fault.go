package consultest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Requests to aim a fault at, for [Fault.On].
const (
	HealthReads   = "GET /v1/health/service/" // what resolvers send; the aim of a new fault
	CatalogReads  = "GET /v1/catalog/"
	Registrations = "PUT /v1/agent/service/register"
	Heartbeats    = "PUT /v1/agent/check/" // of TTL checks; registrations of checks too
	KeyValues     = "/v1/kv/"
	ChainReads    = "/v1/discovery-chain/" // what resolvers send to follow routes
	ConfigWrites  = "PUT /v1/config"       // of config entries
	Everything    = "/"
)

// Fault is a way to misbehave, and the requests that it applies to. The functions that
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
	arrive func(*match, *recorder) (answered bool) // before the agent sees the request
	index  func(index, lower uint64) uint64        // of an answer, made from the true one
	header func(http.Header)                       // of an answer of the agent
	body   func([]byte) []byte                     // of an answer of the agent with status 200
	kept   bool                                    // a changed body is no change of index
	drip   time.Duration                           // the body takes that long
	cut    bool                                    // and ends too soon
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
// service, as those for its health do. A registration and a config entry have
// the name in their body and are not found so.
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

// Times ends the fault after n requests. In a script it repeats the step.
func (f Fault) Times(n int) Fault {
	if n < 1 {
		panic(fmt.Sprintf("consultest: a fault cannot happen %d times: want 1 or more", n))
	}
	f.times = n
	return f
}

// And adds the effects of others, in the order given, with the aim of f. Delays come before
// what answers the request or breaks its connection: Delay(d).And(NoLeader()).
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

// has reports whether any effect satisfies what.
func (f Fault) has(what func(effect) bool) bool { return slices.ContainsFunc(f.effects, what) }

// raisesIndex reports whether f raises the indexes when it is injected and lifted, so that clients
// are notified of it as of any change.
func (f Fault) raisesIndex() bool {
	return f.has(func(e effect) bool { return e.body != nil }) && !f.has(func(e effect) bool { return e.kept })
}

// alters reports whether f changes answers.
func (f Fault) alters() bool {
	return f.has(func(e effect) bool { return e.body != nil || e.index != nil })
}

// Pass has no effect: in a script, the request is answered as usual.
func Pass() Fault { return Fault{} }

// IndexZero answers with X-Consul-Index 0, as Consul did on several occasions
// (https://github.com/hashicorp/consul/pull/4437). Every query is answered at once,
// since none can carry the index of the last answer.
func IndexZero() Fault {
	return Fault{effects: []effect{{index: func(uint64, uint64) uint64 { return 0 }}}}
}

// IndexBackwards answers with lower indexes than before, as after servers were
// restored from a backup: all fall by half of the highest one, to 1 at least. A
// query with a higher index is answered at once, so that every client gets to
// see it; the others block as ever.
func IndexBackwards() Fault {
	return Fault{effects: []effect{{index: func(index, lower uint64) uint64 {
		if index <= lower {
			return 1
		}
		return index - lower
	}}}}
}

// IndexKept, added to a fault that changes lists, leaves their index as it is.
// Without it the index rises when such a fault comes and when it goes, as with any
// change. A query that comes with the latest index then blocks, and sees nothing
// of the fault before its wait is over.
func IndexKept() Fault { return Fault{effects: []effect{{kept: true}}} }

// Stale says that the answer comes from a server without contact to
// its leader for age: X-Consul-LastContact, in milliseconds, and X-Consul-KnownLeader false.
func Stale(age time.Duration) Fault {
	return Fault{effects: []effect{{header: func(h http.Header) {
		h.Set("X-Consul-LastContact", strconv.FormatInt(age.Milliseconds(), 10))
		h.Set("X-Consul-KnownLeader", "false")
	}}}}
}

// Empty answers an empty list, as if nothing were registered. Together with
// IndexBackwards it is what Consul has answered for services that had instances:
// https://github.com/hashicorp/consul/issues/20790.
func Empty() Fault {
	return Edit(func(body []byte) []byte {
		if bytes.HasPrefix(body, []byte("{")) {
			return []byte("{}")
		}
		return []byte("[]")
	})
}

// ACLFiltered answers an empty list and says that it was filtered, as Consul does
// when a token lost its permissions.
func ACLFiltered() Fault {
	return Empty().And(Fault{effects: []effect{{header: func(h http.Header) {
		h.Set("X-Consul-Results-Filtered-By-ACLs", "true")
	}}}})
}

// Without answers lists that lack a share of their entries, from 0 to 1 and
// rounded up: the first ones, which are always the same.
func Without(share float64) Fault {
	if !(share >= 0 && share <= 1) {
		panic(fmt.Sprintf("consultest: a list cannot lack a share of %v: want 0 to 1", share))
	}
	return onLists(func(items []json.RawMessage) []json.RawMessage {
		return items[int(math.Ceil(share*float64(len(items)))):]
	})
}

// WithoutFirst answers lists that lack their first n entries, or all if they have fewer.
func WithoutFirst(n int) Fault {
	if n < 0 {
		panic(fmt.Sprintf("consultest: a list cannot lack %d entries: want 0 or more", n))
	}
	return onLists(func(items []json.RawMessage) []json.RawMessage { return items[min(n, len(items)):] })
}

// Duplicates answers lists with every entry twice.
func Duplicates() Fault {
	return onLists(func(items []json.RawMessage) []json.RawMessage {
		twice := make([]json.RawMessage, 0, 2*len(items))
		for _, item := range items {
			twice = append(twice, item, item)
		}
		return twice
	})
}

// Edit changes the bodies of answers with status 200 in any way.
func Edit(change func(body []byte) []byte) Fault {
	return Fault{effects: []effect{{body: change}}}
}

func onLists(change func([]json.RawMessage) []json.RawMessage) Fault {
	return Edit(func(body []byte) []byte {
		var items []json.RawMessage
		if json.Unmarshal(body, &items) != nil || items == nil {
			return body
		}
		changed, _ := json.Marshal(change(items)) // raw messages that were read cannot fail
		return changed
	})
}

// ServerError answers an error instead of the agent. Consul's own are
// 500 with a line of text.
func ServerError(status int, text string) Fault {
	return answering(status, typeText, text)
}

// NoLeader answers 500 "No cluster leader", as Consul does while its servers elect
// one. Registrations and heartbeats do not fail then: the agent keeps them for later.
func NoLeader() Fault { return ServerError(http.StatusInternalServerError, "No cluster leader") }

// Forbidden answers 403 "ACL not found", as Consul does to every request of a
// token that was deleted.
func Forbidden() Fault { return answering(errTokenUnknown.status, typeText, errTokenUnknown.text) }

// Garbage answers 200 with a page of HTML: something answers there, but it is not Consul.
func Garbage() Fault {
	return answering(http.StatusOK, "text/html; charset=utf-8",
		"<!DOCTYPE html>\n<html><head><title>Welcome</title></head><body><h1>It works!</h1></body></html>\n")
}

func answering(status int, contentType, body string) Fault {
	return Fault{effects: []effect{{arrive: func(m *match, rec *recorder) bool {
		if contentType == typeText { // Consul's own
			m.exchange.server.writeCommon(rec.Header())
		}
		write(rec, status, contentType, []byte(body))
		return true
	}}}}
}

// Delay delays requests by d before the agent sees them.
func Delay(d time.Duration) Fault {
	return Fault{effects: []effect{{arrive: func(m *match, _ *recorder) bool {
		m.wait(time.NewTimer(d))
		return false
	}}}}
}

// Hang delays requests until the client gives up or the fault is lifted, and then
// answers them.
func Hang() Fault {
	return Fault{effects: []effect{{arrive: func(m *match, _ *recorder) bool {
		m.wait(nil)
		return false
	}}}}
}

// Reset breaks the connection before an answer. Through Transport that is
// "connection reset by peer"; over a socket it comes after the first line of an
// answer and net/http calls it "unexpected EOF", since before that it would hide
// it by sending the request again.
func Reset() Fault {
	return Fault{effects: []effect{{arrive: func(m *match, _ *recorder) bool {
		m.exchange.reset()
		return true
	}}}}
}

// SlowBody sends the header at once and the body in pieces that take d together.
func SlowBody(d time.Duration) Fault { return Fault{effects: []effect{{drip: d}}} }

// Truncate announces the whole body and breaks the connection in the middle of it.
func Truncate() Fault { return Fault{effects: []effect{{cut: true}}} }
