package consultest

import (
	"context"
	"net/http"
	"slices"
	"sync"
)

// faultSet is what was injected and not lifted. Its lock comes before that of the
// Server, whose state it stirs.
type faultSet struct {
	mu      sync.Mutex
	rules   []*rule
	changed context.Context // ends when a rule comes or goes
	change  context.CancelFunc
}

// rule is a fault that lasts, or what is left of a script.
type rule struct {
	steps  []Fault
	lasts  bool
	lower  uint64        // how far indexes fall that go backwards
	open   int           // requests that have met it and are not done
	lifted chan struct{} // closed with the fault
	done   chan struct{} // closed when it is lifted or its last step was answered
}

// Inject lets requests meet the faults, in the order given, until lift is called.
// A fault with Times is over when as many have met it. Several may be in force at
// once. lift may be called more than once.
//
// Whoever waits in a blocking query that a fault matches meets it now: the query
// is not held any longer. When a fault that alters answers is lifted, the queries
// that it was to alter are answered too, without it; those that it delays or
// hangs go on to the agent.
func (s *Server) Inject(faults ...Fault) (lift func()) {
	var rules []*rule
	for _, f := range faults {
		rules = append(rules, &rule{steps: []Fault{f}, lasts: f.times == 0})
	}
	s.inject(rules...)
	return func() { s.lift(rules) }
}

// Script lets the first request that its fault matches meet the first step, the
// next one the second, and so on; a step with Times counts as that many. Then all
// is as before. A query that waits when Script is called comes first, and one that
// meets a step other than Pass is answered without blocking. done is closed when
// the last step was answered, and with Heal and Close.
func (s *Server) Script(steps ...Fault) (done <-chan struct{}) {
	r := &rule{steps: slices.Clone(steps)}
	s.inject(r)
	return r.done
}

// Heal lifts all faults and ends all scripts.
func (s *Server) Heal() {
	s.faults.mu.Lock()
	rules := slices.Clone(s.faults.rules)
	s.faults.mu.Unlock()
	s.lift(rules)
}

func (s *Server) inject(rules ...*rule) {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range rules {
		r.lower = s.st.index / 2
		r.lifted, r.done = make(chan struct{}), make(chan struct{})
		if s.closed || len(r.steps) == 0 {
			close(r.done)
			continue
		}
		s.faults.rules = append(s.faults.rules, r)
		if r.lasts {
			s.stir(r.steps[0])
		}
	}
	s.faults.turn()
}

func (s *Server) lift(rules []*rule) {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range rules {
		if !s.faults.remove(r) {
			continue
		}
		close(r.lifted)
		if r.lasts {
			s.stir(r.steps[0])
		}
	}
	s.faults.turn()
}

// stir lets indexes rise if f changes lists. The caller holds s.mu.
func (s *Server) stir(f Fault) {
	if f.stirs() {
		s.st.stir(f.service)
	}
}

// end forgets all rules. What they hold back is broken off by the agent's end.
func (fs *faultSet) end() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for len(fs.rules) > 0 {
		fs.remove(fs.rules[0])
	}
}

// turn makes waiting requests look at the rules again.
func (fs *faultSet) turn() {
	if fs.change != nil {
		fs.change()
	}
	fs.changed, fs.change = context.WithCancel(context.Background())
}

func (fs *faultSet) remove(r *rule) bool {
	i := slices.Index(fs.rules, r)
	if i < 0 {
		return false
	}
	fs.rules = slices.Delete(fs.rules, i, i+1)
	close(r.done)
	return true
}

// next is the fault that a request would meet.
func (r *rule) next(req *http.Request) (Fault, bool) {
	if len(r.steps) == 0 || !r.steps[0].matches(req) {
		return Fault{}, false
	}
	return r.steps[0], true
}

// take uses up a step that was met.
func (r *rule) take() {
	r.open++
	if r.lasts {
		return
	}
	if r.steps[0].times--; r.steps[0].times <= 0 {
		r.steps = r.steps[1:]
	}
}

// leave ends a meeting. Whatever a step told is true no longer.
func (s *Server) leave(m meeting) {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	m.rule.open--
	if m.rule.lasts {
		return
	}
	s.mu.Lock()
	s.stir(m.fault)
	s.mu.Unlock()
	if m.rule.open == 0 && len(m.rule.steps) == 0 {
		s.faults.remove(m.rule)
	}
}
