package consultest

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// listener keeps its connections at hand, to break them as a dying agent would.
type listener struct {
	net.Listener
	owner  *Server
	server *http.Server

	mu    sync.Mutex
	conns map[*conn]struct{}
}

// Listen serves the agent on a TCP address until Close and returns the address
// with the port filled in; "127.0.0.1:0" picks a free one. Anything but loopback
// needs WithACL, since whoever reaches the agent can make it open connections.
func (s *Server) Listen(address string) (string, error) {
	tcp, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return "", fmt.Errorf("consultest: bad listen address %q: want host:port, such as 127.0.0.1:8500: %w", address, err)
	}
	if !tcp.IP.IsLoopback() && !s.aclEnabled {
		return "", fmt.Errorf("consultest: listen address %q is not loopback: use 127.0.0.1 or turn on WithACL", address)
	}
	inner, err := net.Listen("tcp", address)
	if err != nil {
		return "", fmt.Errorf("consultest: cannot listen on %s (is another agent running there? stop it or take another port, 0 for a free one): %w", address, err)
	}
	l := &listener{Listener: inner, owner: s, conns: make(map[*conn]struct{})}
	// No WriteTimeout: a blocking query may rightly take ten minutes.
	l.server = &http.Server{Handler: l, ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout: 15 * time.Minute, IdleTimeout: 2 * time.Minute,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		ConnState:   func(c net.Conn, state http.ConnState) { c.(*conn).owe(state == http.StateActive) }}

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = inner.Close()
		return "", fmt.Errorf("consultest: cannot listen on %s: the server is closed", address)
	}
	s.listeners = append(s.listeners, l)
	s.work.Go(func() { _ = l.server.Serve(l) })
	return inner.Addr().String(), nil
}

// Accept drops connections at once while the agent is unreachable.
func (l *listener) Accept() (net.Conn, error) {
	for {
		inner, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &conn{Conn: inner, owner: l, over: l.owner.conns.add(clientOf(inner))}
		l.mu.Lock()
		l.conns[c] = struct{}{}
		l.mu.Unlock()
		if l.owner.isReachable() {
			return c, nil
		}
		c.reset()
	}
}

// drop breaks all open connections.
func (l *listener) drop() {
	l.mu.Lock()
	conns := slices.Collect(maps.Keys(l.conns))
	l.mu.Unlock()
	for _, c := range conns {
		c.breakOff("HTTP/1.1 ", func(c *conn) { _ = c.Close() })
	}
}

func (s *Server) isReachable() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reachable
}

// connKey leads from the context of a request to its *conn.
type connKey struct{}

type conn struct {
	net.Conn
	owner *listener
	over  bool // the limit of its client

	mu     sync.Mutex
	owes   bool // an answer of which not a byte was written
	broken bool
}

func (c *conn) owe(answer bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owes = answer
}

// Write sends nothing after the words of breakOff.
func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	broken := c.broken
	c.owes = false
	c.mu.Unlock()
	if broken {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

// breakOff ends a connection so that its client hears of it: net/http quietly
// repeats a GET whose connection broke before the first byte of an answer, and
// would ask an agent that has restarted in between with an index of the old one.
// Words that answer nothing would be worse: it complains of them in the log.
func (c *conn) breakOff(words string, end func(*conn)) {
	c.mu.Lock()
	owes := c.owes
	c.owes, c.broken = false, true
	c.mu.Unlock()
	if !owes {
		c.reset()
		return
	}
	_ = c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	_, _ = c.Conn.Write([]byte(words))
	end(c)
}

// reset closes without the courtesy of a FIN, as the kernel does for a killed process.
func (c *conn) reset() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

func (c *conn) Close() error {
	c.owner.mu.Lock()
	_, open := c.owner.conns[c]
	delete(c.owner.conns, c)
	c.owner.mu.Unlock()
	if open {
		c.owner.owner.conns.remove(clientOf(c))
	}
	return c.Conn.Close()
}
