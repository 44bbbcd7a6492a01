package faultproxy

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// link is a client's connection and the one to the target.
type link struct {
	client *net.TCPConn
	dead   atomic.Bool   // drops all data, without a reset
	ended  chan struct{} // closed when it is reset

	mu     sync.Mutex
	server *net.TCPConn
}

func (l *link) kill() { l.dead.Store(true) }

// join sets the connection to the target, unless the link has ended.
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

// pass copies from one half to the other until one of them ends, which ends the link. A dead
// link stays open.
func (l *link) pass(p *Proxy, from, to net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			l.wait(p.fault(), n)
		}
		if n > 0 && !l.dead.Load() { // it may be dead since the delay
			_, _ = to.Write(buffer[:n]) // a failed write ends the other direction
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
