package cache

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache/cachecontrol"
	"github.com/meshlite-go/meshlite/interceptors/hop"
)

// Standing is what a cache has for one call of a client. Durations are in milliseconds.
type Standing struct {
	Destination string `json:"destination,omitempty"` // that a chain of routes chooses: a part of the key
	// State is "fresh", "stale" (served while a newer one is loaded), "expired", "absent", or
	// "bypass" for a call that neither is served nor stored.
	State string `json:"state"`
	Why   string `json:"why,omitempty"` // of a bypass, or why what is stored is not served
	// Key is a digest of what identifies the answer, and Of what that is.
	Key  string   `json:"key,omitempty"`
	Of   []string `json:"of"`
	Age  float64  `json:"age_ms"`
	Left float64  `json:"left_ms"` // until it expires; negative is how long ago it has
}

// Explain returns what the cache has for a call of meta to target with the outgoing metadata and the
// attempt record of ctx. It counts nothing. A nil request is one that is not known.
func (s *Scoped) Explain(ctx context.Context, meta *interceptors.CallMeta, target string, request proto.Message) Standing {
	bypass := func(why string) Standing { return Standing{State: "bypass", Why: why, Of: []string{}} }
	policy := meta.Policy.GetCache()
	switch {
	case duration(policy.GetTtl()) <= 0:
		return bypass("the policy has no ttl")
	case !meta.Cacheable():
		return bypass("the contract does not mark the method NO_SIDE_EFFECTS")
	case !meta.Side.On(policy.GetSide(), interceptors.Client):
		return bypass("the policy caches on the server")
	case meta.Streams():
		return bypass("streams are not cached")
	case request == nil:
		return bypass("the request is not known here")
	}
	r := newRule(s.cache, s.scope, meta)
	if r == nil {
		return bypass("the contract does not have the key fields of the policy")
	}
	x, ok := newExchange(ctx, r, target, request)
	if !ok {
		return bypass(x.unusable)
	}
	x.found = x.lookup()
	return x.standing()
}

// explain is what the record of a call says of the cache. What is stored is what the call has
// found first.
func (x *exchange) explain(result Result) *hop.Cache {
	c := &hop.Cache{Result: result.String()}
	stored := x.found.entry
	if stored != nil {
		c.Age = hop.Milliseconds(stored.age())
	}
	switch {
	case result == Bypass:
		c.Why = cmp.Or(x.unusable, "a call option changes who calls, or whom")
	case result == Miss && stored == nil:
		c.Why = "nothing was stored"
	case result == Miss && x.directives.Has(cachecontrol.NoCache):
		c.Why = "the call says no-cache"
	case result == Miss:
		c.Why = "what was stored has expired"
	case result == Stale:
		c.Why = "what is stored has expired, and may be served"
	case result.Served() && stored != nil && stored.failure != nil:
		c.Why = "a failure is stored"
	}
	return c
}

// standing is that of a call that has been looked up.
func (x *exchange) standing() Standing {
	r, e := x.rule, x.found.entry
	s := Standing{Destination: x.destination, Key: digest([]byte(x.found.key)), Of: x.keyParts(), State: "absent"}
	if e == nil {
		return s
	}
	age := e.age()
	s.Age, s.Left = milliseconds(age), milliseconds(r.ttlOf(e)-age)
	switch now := time.Now(); r.freshnessOf(e, x.directives, now) {
	case fresh:
		s.State = "fresh"
	case staleWhileRevalidate, staleAccepted:
		s.State = "stale"
	default:
		s.State = "expired"
		if s.Left > 0 {
			s.Why = "the call's cache-control refuses it"
		}
	}
	switch {
	case x.directives.Has(cachecontrol.NoCache) && s.State != "expired":
		s.Why = "the call says no-cache: it is loaded anew"
	case r.shadow:
		s.Why = "the policy only counts what would be served (shadow)"
	}
	return s
}

// keyParts names what identifies an answer.
func (x *exchange) keyParts() []string {
	r := x.rule
	parts := []string{"method"}
	if x.destination != "" {
		parts = append(parts, "destination")
	}
	if !r.public {
		parts = append(parts, "identity")
	}
	if len(r.fields) == 0 {
		parts = append(parts, "request")
	}
	for _, path := range r.meta.Policy.GetCache().GetKeyFields() {
		parts = append(parts, "request."+path)
	}
	vary := r.vary
	if e := r.cache.memory.get(r, x.key); e != nil {
		vary = append(vary[:len(vary):len(vary)], e.vary...)
	}
	if len(vary) > 0 {
		parts = append(parts, fmt.Sprintf("metadata (%s)", strings.Join(vary, ", ")))
	}
	return parts
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
