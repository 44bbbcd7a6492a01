package identity

import (
	"context"
	"crypto/x509"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// withdrawnSpread is the time over which clients replace their connections when an
	// authority is withdrawn, so that they do not all come at once.
	withdrawnSpread = 30 * time.Second
	// withdrawnGrace is how long running calls may go on then.
	withdrawnGrace = time.Minute
	// lateAge is the age of connections whose certificate has ended but is still accepted.
	lateAge = time.Minute
)

// conn is a connection that ends with its certificates.
type conn struct {
	net.Conn
	set   *connections
	roots []*x509.Certificate // of the other end's chains
	drain func()              // asks for a new connection; nil on a server

	mu       sync.Mutex
	closed   bool
	doomed   bool // its authority was withdrawn
	draining *time.Timer
	drainAt  time.Time
	ending   *time.Timer
	endAt    time.Time
}

// replaceIn draws when to replace a connection that ends in left: late enough for the next
// certificate to be there, and not in step with others.
func replaceIn(left time.Duration) time.Duration {
	if left <= 0 {
		return lateAge/2 + rand.N(lateAge/2)
	}
	return time.Duration(float64(left) * (0.6 + 0.3*rand.Float64()))
}

// schedule replaces the connection before ends, and closes it grace after.
func (c *conn) schedule(ends time.Time, grace time.Duration) {
	left := time.Until(ends)
	c.within(replaceIn(left), max(left+grace, 0))
}

// within replaces the connection in one time and closes it in another, or sooner if it was
// to be replaced or closed sooner.
func (c *conn) within(replace, end time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	now := time.Now()
	if at := now.Add(replace); c.drain != nil && (c.draining == nil || at.Before(c.drainAt)) {
		stopTimer(c.draining)
		c.drainAt = at
		c.draining = time.AfterFunc(replace, func() {
			c.set.replaced.Add(1)
			c.drain()
		})
	}
	if at := now.Add(end); c.ending == nil || at.Before(c.endAt) {
		stopTimer(c.ending)
		c.endAt = at
		c.ending = time.AfterFunc(end, func() {
			c.set.cut.Add(1)
			c.Close()
		})
	}
}

func stopTimer(timer *time.Timer) {
	if timer != nil {
		timer.Stop()
	}
}

// withdraw is called with every new snapshot.
func (c *conn) withdraw(s *Snapshot) {
	trusted := false
	for _, root := range c.roots {
		trusted = trusted || s.trusts(root)
	}
	c.mu.Lock()
	known := c.doomed
	c.doomed = !trusted
	c.mu.Unlock()
	if !trusted && !known {
		c.within(rand.N(withdrawnSpread), withdrawnGrace)
	}
}

// Close may be called again.
func (c *conn) Close() error {
	c.forget()
	return c.Conn.Close()
}

// Read forgets a connection that has failed: where no preface comes gRPC closes what is below.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.forget()
	}
	return n, err
}

// forget ends the timers. It may be called again.
func (c *conn) forget() {
	c.mu.Lock()
	first := !c.closed
	c.closed = true
	stopTimer(c.draining)
	stopTimer(c.ending)
	c.mu.Unlock()
	if first {
		c.set.remove(c)
	}
}

// connections are the open ones of one Credentials. While there are any, one goroutine
// follows the source.
type connections struct {
	source        Source
	replaced, cut counter

	mu   sync.Mutex
	open map[*conn]struct{}
	stop context.CancelFunc
}

func newConnections(source Source) *connections {
	return &connections{source: source, open: map[*conn]struct{}{}}
}

func (s *connections) add(c *conn, made *Snapshot) {
	s.mu.Lock()
	s.open[c] = struct{}{}
	if len(s.open) == 1 {
		ctx, stop := context.WithCancel(context.Background())
		s.stop = stop
		go s.follow(ctx, made)
	}
	s.mu.Unlock()
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		s.remove(c)
	}
}

func (s *connections) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
	if len(s.open) == 0 && s.stop != nil {
		s.stop()
		s.stop = nil
	}
}

func (s *connections) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

func (s *connections) follow(ctx context.Context, last *Snapshot) {
	for {
		next, err := s.source.Next(ctx, last)
		if err != nil {
			return
		}
		last = next
		s.mu.Lock()
		open := make([]*conn, 0, len(s.open))
		for c := range s.open {
			open = append(open, c)
		}
		s.mu.Unlock()
		for _, c := range open {
			c.withdraw(next)
		}
	}
}

// goAway is the frame by which a server asks a client for a new connection (RFC 9113, 6.8):
// no error, and no stream is cut off.
var goAway = [17]byte{0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0}

// clientConn replaces itself: its transport reads a GOAWAY between two frames of the server,
// as if the server had closed the connection because of its age. gRPC has no other way for
// a client to drain one connection, and handles this one without a failed call.
type clientConn struct {
	*conn
	frames  frames // one goroutine reads
	refused func(error)

	wake    sync.Mutex
	drained bool // a GOAWAY is to be read
	own     bool // the transport has set a deadline of its own

	sent bool
	rest []byte // of the GOAWAY
}

// ask makes a blocked Read return.
func (c *clientConn) ask() {
	c.wake.Lock()
	defer c.wake.Unlock()
	c.drained = true
	if !c.own {
		_ = c.Conn.SetReadDeadline(time.Unix(1, 0))
	}
}

func (c *clientConn) asked() bool {
	c.wake.Lock()
	defer c.wake.Unlock()
	return c.drained
}

// wokenUp reports whether a read timed out because of ask, and undoes that.
func (c *clientConn) wokenUp() bool {
	c.wake.Lock()
	defer c.wake.Unlock()
	if !c.drained || c.own {
		return false
	}
	return c.Conn.SetReadDeadline(time.Time{}) == nil
}

func (c *clientConn) Read(b []byte) (int, error) {
	for {
		limit := len(b)
		if !c.sent && c.asked() {
			if c.frames.between() {
				c.sent, c.rest = true, goAway[:]
			} else {
				limit = min(limit, c.frames.left())
			}
		}
		if len(c.rest) > 0 {
			n := copy(b, c.rest)
			c.rest = c.rest[n:]
			return n, nil
		}
		n, err := c.Conn.Read(b[:limit])
		c.frames.pass(b[:n])
		if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) && c.wokenUp() {
			continue
		}
		if err != nil {
			c.forget()
		}
		if isAlert(err) {
			c.refused(err)
		}
		return n, err
	}
}

func (c *clientConn) SetReadDeadline(t time.Time) error {
	c.wake.Lock()
	defer c.wake.Unlock()
	c.own = !t.IsZero()
	return c.Conn.SetReadDeadline(t)
}

func (c *clientConn) SetDeadline(t time.Time) error {
	c.wake.Lock()
	defer c.wake.Unlock()
	c.own = !t.IsZero()
	return c.Conn.SetDeadline(t)
}

// frames follows the boundaries of HTTP/2 frames in a stream of bytes.
type frames struct {
	head    [9]byte
	have    int // of head
	payload int // that is still to come
	whole   uint64
}

// between reports whether one frame has ended and no other has begun. The first frame of a
// server must be its settings.
func (f *frames) between() bool { return f.whole > 0 && f.have == 0 && f.payload == 0 }

// left is how much of the current frame, or of its head, is certain to come.
func (f *frames) left() int {
	if f.payload > 0 {
		return f.payload
	}
	return len(f.head) - f.have
}

func (f *frames) pass(b []byte) {
	for len(b) > 0 {
		if f.payload > 0 {
			n := min(f.payload, len(b))
			f.payload -= n
			b = b[n:]
		} else {
			n := copy(f.head[f.have:], b)
			f.have += n
			b = b[n:]
			if f.have < len(f.head) {
				return
			}
			f.have = 0
			f.payload = int(f.head[0])<<16 | int(f.head[1])<<8 | int(f.head[2])
		}
		if f.payload == 0 {
			f.whole++
		}
	}
}

// systemConn lets gRPC set options of the socket below.
type systemConn struct {
	net.Conn
	socket
}

type socket interface{ syscall.Conn }

// withSystem adds the socket of raw to secured, if there is one.
func withSystem(raw, secured net.Conn) net.Conn {
	if system, ok := raw.(syscall.Conn); ok {
		return &systemConn{secured, system}
	}
	return secured
}
