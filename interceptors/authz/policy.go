package authz

import (
	"reflect"
	"slices"
	"sync"

	"github.com/meshlite-go/meshlite/identity/intention"
	"github.com/meshlite-go/meshlite/interceptors"
)

// maxServices bounds the services whose rules are kept. Contracts name far fewer.
const maxServices = 1024

// services are the rules of those that were called, from their policies.
type services struct {
	mu    sync.Mutex
	known map[string]*serviceRules
}

type serviceRules struct {
	set   *intention.Set
	rules *intention.Rules
}

// rulesOf compiles the intentions of a service once for all of its methods; nil is none.
func (s *services) rulesOf(a *Authorizer, meta *interceptors.CallMeta) *intention.Rules {
	s.mu.Lock()
	defer s.mu.Unlock()
	if meta.Intentions == nil {
		delete(s.known, meta.Service)
		return nil
	}
	if kept := s.known[meta.Service]; kept != nil && reflect.DeepEqual(kept.set, meta.Intentions) {
		return kept.rules
	}
	set := *meta.Intentions
	set.Intentions = slices.Clone(set.Intentions)
	for i := range set.Intentions {
		set.Intentions[i].Destination = a.destination
	}
	rules, err := intention.Compile(a.destination, set)
	if err != nil {
		panic(err) // New has compiled for this destination
	}
	for _, refused := range rules.Refused() {
		a.log.Warn("an intention is not understood", "service", a.destination, "contract", cut(meta.Service), "intention", refused)
	}
	if s.known == nil {
		s.known = map[string]*serviceRules{}
	}
	if len(s.known) < maxServices || s.known[meta.Service] != nil {
		s.known[meta.Service] = &serviceRules{meta.Intentions, rules}
	}
	return rules
}

// inForce counts the intentions of services that were called.
func (s *services) inForce() (n int, refused []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.known {
		n += one.rules.Len()
		refused = append(refused, one.rules.Refused()...)
	}
	return n, refused
}
