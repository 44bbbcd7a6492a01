package concurrency

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshlite-go/meshlite/internal/rpc"
)

// method is the state of a method's limit. It outlives changes of the policy.
type method struct {
	name  string
	start time.Time // times count from here, so they are monotonic
	rule  atomic.Pointer[rule]

	inFlight                   atomic.Int64
	peak                       atomic.Int64 // in flight, since the window began
	allowed                    atomic.Int64 // by gradient
	probing                    atomic.Bool
	admitted, refused, ignored atomic.Uint64

	mu       sync.Mutex
	gradient gradient
}

func newMethod(name string, in bounds) *method {
	m := &method{name: name, start: time.Now()}
	m.gradient.limit = in.clampFloat(initialLimit)
	m.publish(m.now())
	return m
}

// now is finer than a microsecond: the handlers that must be limited most are the
// fast ones.
func (m *method) now() int64 { return int64(time.Since(m.start)) }

// limit is how many calls of all priorities may run now.
func (m *method) limit(r *rule) int64 {
	if !r.adaptive {
		return r.max
	}
	return r.clamp(m.allowed.Load())
}

// acquire takes a permit if fewer than limit are out.
func (m *method) acquire(limit int64) bool {
	for {
		n := m.inFlight.Load()
		if n >= limit {
			m.refused.Add(1)
			return false
		}
		if m.inFlight.CompareAndSwap(n, n+1) {
			m.admitted.Add(1)
			return true
		}
	}
}

// started records how many calls run at once, and returns the time.
func (m *method) started() int64 {
	n := m.inFlight.Load()
	for peak := m.peak.Load(); n > peak && !m.peak.CompareAndSwap(peak, n); {
		peak = m.peak.Load()
	}
	return m.now()
}

func (m *method) release() { m.inFlight.Add(-1) }

// ended passes a call whose permit is released to the gradient.
func (m *method) ended(began int64, o outcome, in bounds) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if !m.gradient.skipped(now) && o != noSample &&
		m.gradient.sample(now, began, o == expired, m.peak.Load(), in) {
		m.publish(now)
	}
	if n := m.inFlight.Load(); m.gradient.settle(now, n, in) {
		m.peak.Store(n)
	}
}

// endLongProbe ends a probe that has refused calls for too long, whether or not any call
// ends.
func (m *method) endLongProbe() {
	if !m.probing.Load() || !m.mu.TryLock() {
		return
	}
	defer m.mu.Unlock()
	if now := m.now(); m.gradient.giveUp(now) {
		m.publish(now)
	}
}

// publish begins a window and makes its limit that of the calls.
func (m *method) publish(now int64) {
	n := m.inFlight.Load()
	m.gradient.begin(now, n)
	m.peak.Store(n)
	m.allowed.Store(m.gradient.allowed())
	m.probing.Store(m.gradient.phase != steady)
}

// maxMethods caps the methods with a limit of their own. With an unknown-service handler,
// peers can make up any number, which share one.
const maxMethods = 1024

const other = "other"

// methods are those that have been called.
type methods struct {
	known, others rpc.Table[string, *method] // others has one at most, by the name other
}

func newMethods() methods {
	return methods{known: rpc.Table[string, *method]{Max: maxMethods}}
}

// of is called once for each method and policy, not for each call.
func (m *methods) of(fullMethod string, in bounds) *method {
	if len(fullMethod) <= rpc.MaxName && fullMethod != other {
		if known, ok := m.known.Of(fullMethod, func() *method { return newMethod(fullMethod, in) }); ok {
			return known
		}
	}
	shared, _ := m.others.Of(other, func() *method { return newMethod(other, in) })
	return shared
}

func (m *methods) all() []*method {
	var all []*method
	for _, table := range []*rpc.Table[string, *method]{&m.known, &m.others} {
		for _, one := range table.All() {
			all = append(all, one)
		}
	}
	return all
}
