package consul

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// maxServices caps the services whose registrations are told of. A process has a few.
const maxServices = 1024

// ServiceStats is what became of the registrations of one service by this process.
type ServiceStats struct {
	Service    string
	Registered bool      // the agent has all of them, as of the last look
	Attempts   uint64    // to register, and looks whether the agent still knows it
	Failures   uint64    // of these: by the agent, or by the self-check
	Confirmed  time.Time // when the agent has last said so; of several, the one that is longest ago
}

// services are those that were registered, or are to be.
type services struct {
	mu    sync.Mutex
	known map[string]*service
}

type service struct {
	attempts, failures uint64
	leases             map[*lease]*confirmation
}

// confirmation is the latest of a registration.
type confirmation struct {
	has       bool
	since, at time.Time // the first and the last time that the agent had it
	err       error     // the last one
	errAt     time.Time
}

// tried counts an attempt on a service; l is nil while it is not registered yet.
func (s *services) tried(name string, l *lease, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.known[name]
	if one == nil {
		if len(s.known) >= maxServices {
			return
		}
		if s.known == nil {
			s.known = map[string]*service{}
		}
		one = &service{leases: map[*lease]*confirmation{}}
		s.known[name] = one
	}
	one.attempts++
	if err != nil {
		one.failures++
	}
	if l == nil {
		return
	}
	if one.leases[l] == nil {
		one.leases[l] = &confirmation{since: time.Now()}
	}
	one.leases[l].set(err)
}

func (c *confirmation) set(err error) {
	if c.has = err == nil; c.has {
		c.at = time.Now()
	} else {
		c.err, c.errAt = err, time.Now()
	}
}

// of is the confirmation of a lease, zero after it was given back.
func (s *services) of(name string, l *lease) confirmation {
	s.mu.Lock()
	defer s.mu.Unlock()
	if one := s.known[name]; one != nil && one.leases[l] != nil {
		return *one.leases[l]
	}
	return confirmation{}
}

// left ends what is told of a lease, and of its service with the last one.
func (s *services) left(name string, l *lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if one := s.known[name]; one != nil {
		if delete(one.leases, l); len(one.leases) == 0 {
			delete(s.known, name)
		}
	}
}

func (s *services) stats() []ServiceStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]ServiceStats, 0, len(s.known))
	for name, one := range s.known {
		told := ServiceStats{Service: name, Attempts: one.attempts, Failures: one.failures, Registered: len(one.leases) > 0}
		for _, c := range one.leases {
			told.Registered = told.Registered && c.has
			if told.Confirmed.IsZero() || c.at.Before(told.Confirmed) {
				told.Confirmed = c.at
			}
		}
		all = append(all, told)
	}
	slices.SortFunc(all, func(a, b ServiceStats) int { return cmp.Compare(a.Service, b.Service) })
	return all
}
