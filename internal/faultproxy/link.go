package faultproxy

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// link is one connection of a client and the one that it is passed on to.
type link struct {
	client *net.TCPConn
	dead   atomic.Bool   // nothing passes any more, and nobody is told
	ended  chan struct{} // closed when it is reset

	mu     sync.Mutex
	server *net.TCPConn
}

func (l *link) kill() { l.dead.Store(true) }

// join gives the link its other half, unless it has ended.
func (l *link) join(server *net.TCPConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.ended:
		server.Close()
		return false
	default:
		l.server = server
		return true
	}
}

// reset ends both halves with a TCP reset.
func (l *link) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.ended:
		return
	default:
		close(l.ended)
	}
	for _, half := range []*net.TCPConn{l.client, l.server} {
		if half != nil {
			_ = half.SetLinger(0)
			half.Close()
		}
	}
}

// pass copies from one half to the other until one of them ends, which ends the
// link. The client of a dead link is not told.
func (l *link) pass(p *Proxy, from, to net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			l.wait(p.fault(), n)
		}
		if n > 0 && !l.dead.Load() { // it may have died while it was slow
			_, _ = to.Write(buffer[:n]) // the other direction hears of an end
		}
		if err != nil {
			break
		}
	}
	if !l.dead.Load() {
		l.reset()
	}
}

// wait takes the time that n bytes need.
func (l *link) wait(f fault, n int) {
	d := f.latency
	if f.bytesPerSecond > 0 {
		d += time.Duration(n) * time.Second / time.Duration(f.bytesPerSecond)
	}
	if d == 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.ended:
	}
}
