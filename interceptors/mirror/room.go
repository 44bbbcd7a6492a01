package mirror

import (
	"context"
	"sync"
	"time"

	"github.com/meshlite-go/meshlite/internal/guard"
)

// The bounds of a channel.
const (
	maxInFlight = 64
	maxBytes    = 16 << 20 // of encoded messages
	maxTargets  = 8
)

// room is what the copies of a channel take together: places, bytes and channels to targets.
type room struct {
	mu       sync.Mutex
	opened   int             // by open, less those by close
	until    context.Context // that copies end; nil while closed
	cancel   context.CancelFunc
	copying  *sync.WaitGroup // of one opening, added to with mu held
	inFlight int
	bytes    int
	targets  map[string]*target
}

// target is a channel to where copies go.
type target struct {
	name   string
	until  context.Context // that of the room
	logged guard.OncePerMinute

	running int       // copies; by room.mu
	usedAt  time.Time // by room.mu

	mu   sync.Mutex
	conn Conn // nil until it is dialed
}

func (r *room) open() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.opened++; r.opened == 1 {
		r.until, r.cancel = context.WithCancel(context.Background())
		r.copying = &sync.WaitGroup{}
		r.targets = map[string]*target{}
	}
}

func (r *room) close() {
	r.mu.Lock()
	if r.opened = max(r.opened-1, 0); r.opened > 0 || r.until == nil {
		r.mu.Unlock()
		return
	}
	r.cancel()
	all, copying := r.targets, r.copying
	r.until, r.targets = nil, nil
	r.mu.Unlock()
	copying.Wait()
	for _, t := range all {
		t.close()
	}
}

// leastIdle is how long a target is unused before another may have its place.
const leastIdle = time.Minute

// admit takes a place for c, or returns why there is none.
func (r *room) admit(c *copied) (why dropped, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.until == nil:
		return droppedClosed, false
	case r.inFlight >= maxInFlight:
		return droppedCalls, false
	case r.bytes+c.size > maxBytes:
		return droppedBytes, false
	}
	t := r.targets[c.to]
	if t == nil {
		if len(r.targets) >= maxTargets {
			if c.evicted = r.unused(); c.evicted == nil {
				return droppedTargets, false
			}
			delete(r.targets, c.evicted.name)
		}
		t = &target{name: c.to, until: r.until}
		r.targets[t.name] = t
	}
	t.running++
	t.usedAt = time.Now()
	r.inFlight++
	r.bytes += c.size
	c.target, c.copying = t, r.copying
	c.copying.Add(1)
	return 0, true
}

// unused is the target that is unused for longest, nil if none is for long. The caller holds r.mu.
func (r *room) unused() (oldest *target) {
	for _, t := range r.targets {
		if t.running == 0 && time.Since(t.usedAt) > leastIdle && (oldest == nil || t.usedAt.Before(oldest.usedAt)) {
			oldest = t
		}
	}
	return oldest
}

// end gives back what admit has taken. It may wait for connections to close, and so does not run
// in the goroutine of a caller.
func (r *room) end(c *copied) {
	defer c.copying.Done()
	r.mu.Lock()
	r.inFlight--
	r.bytes -= c.size
	c.running--
	r.mu.Unlock()
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
