package authz

import (
	"reflect"
	"sync/atomic"
	"time"
)

type atomicCount = atomic.Uint64

// Stats are the figures of one authorizer.
type Stats struct {
	// Service is the destination.
	Service string `json:"service"`
	// Policy is [PolicyName] or [OwnPolicyName].
	Policy string `json:"policy"`
	// Allowed counts calls and streams that were allowed when they began.
	Allowed uint64 `json:"allowed"`
	// Denied counts those that were denied, by why.
	Denied Denials `json:"denied"`
	// Revoked counts open streams that a change of intentions has ended. They are in Denied too.
	Revoked uint64 `json:"revoked"`
	// Streams are open now.
	Streams int `json:"streams"`
	// Intentions is the number of those in force; with WithPolicy, of the services that were
	// called.
	Intentions int `json:"intentions"`
	// Refused are those in force that are not understood, with the reasons.
	Refused []string `json:"refused"`
	// ReadAt is when intentions were read last; zero is never. Those of WithIntentions
	// and WithPolicy are read all the time.
	ReadAt time.Time `json:"read_at"`
	// Failing reports that the last attempt to read them failed.
	Failing bool `json:"failing"`
}

// Denials counts denied calls by why.
type Denials struct {
	Rule      uint64 `json:"rule"`       // an intention, or one of its permissions
	Default   uint64 `json:"default"`    // no intention matched, or none of its permissions
	Identity  uint64 `json:"identity"`   // no verified certificate of a service of this trust domain
	NeverRead uint64 `json:"never_read"` // no intentions were read since the start
}

// Stats returns the figures.
func (a *Authorizer) Stats() Stats {
	now := a.current.Load()
	s := Stats{
		Service: a.destination, Policy: a.policyName(),
		Allowed: a.counts.allowed.Load(),
		Denied: Denials{
			Rule: a.counts.byRule.Load(), Default: a.counts.byDefault.Load(),
			Identity: a.counts.unidentified.Load(), NeverRead: a.counts.neverRead.Load(),
		},
		Revoked: a.counts.revoked.Load(), Streams: a.streams.len(),
		ReadAt: now.readAt, Failing: now.failing,
	}
	if a.watcher == nil {
		s.ReadAt = time.Now()
	}
	if a.policy {
		s.Intentions, s.Refused = a.services.inForce()
	}
	if now.Rules != nil {
		s.Intentions, s.Refused = now.Len(), now.Refused()
	}
	return s
}

// same reports whether r and now decide alike, as far as a comparison shows.
func (r *rules) same(now *rules) bool {
	return r.set != nil && now.set != nil && reflect.DeepEqual(r.set, now.set)
}
