package mirror

import (
	"context"
	"sync"
	"time"

	"github.com/meshlite-go/meshlite/internal/guard"
)

// target is a channel to where copies go.
type target struct {
	name   string
	until  context.Context // ends with Close
	logged guard.OncePerMinute

	running int       // copies; by Mirror.mu
	usedAt  time.Time // by Mirror.mu

	mu   sync.Mutex
	conn Conn // nil until it is dialed
}

// leastIdle is how long a target is unused before another may have its place.
const leastIdle = time.Minute

// admit takes a place for c, or returns why there is none.
func (m *Mirror) admit(c *copied) (why dropped, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.ctx == nil:
		return droppedClosed, false
	case m.inFlight >= maxInFlight:
		return droppedCalls, false
	case m.bytes+c.size > maxBytes:
		return droppedBytes, false
	}
	t := m.targets[c.part.target]
	if t == nil {
		if len(m.targets) >= maxTargets {
			if c.evicted = m.unused(); c.evicted == nil {
				return droppedTargets, false
			}
			delete(m.targets, c.evicted.name)
		}
		t = &target{name: c.part.target, until: m.ctx}
		m.targets[t.name] = t
	}
	t.running++
	t.usedAt = time.Now()
	m.inFlight++
	m.bytes += c.size
	c.target = t
	m.copying.Add(1)
	return 0, true
}

// unused is the target that is unused for longest, nil if none is for long. The caller holds m.mu.
func (m *Mirror) unused() (oldest *target) {
	for _, t := range m.targets {
		if t.running == 0 && time.Since(t.usedAt) > leastIdle && (oldest == nil || t.usedAt.Before(oldest.usedAt)) {
			oldest = t
		}
	}
	return oldest
}

// end gives back what admit has taken. It may wait for connections to close, and so does not run
// in the goroutine of a caller.
func (m *Mirror) end(c *copied) {
	defer m.copying.Done()
	m.mu.Lock()
	m.inFlight--
	m.bytes -= c.size
	c.running--
	m.mu.Unlock()
	if c.evicted != nil {
		c.evicted.close()
	}
}

// connect dials with the first copy. What cannot be dialed is tried again by the next one.
func (t *target) connect(dial Dial) (Conn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn != nil {
		return t.conn, nil
	}
	conn, err := dial(t.name)
	if err != nil {
		return nil, err
	}
	t.conn = conn
	return conn, nil
}

// close closes the channel of a target without copies.
func (t *target) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn != nil {
		_ = t.conn.Close()
	}
}
