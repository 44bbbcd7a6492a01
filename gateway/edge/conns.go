package edge

import (
	"container/list"
	"net"
	"net/http"
	"net/netip"
	"sync"

	"github.com/meshlite-go/meshlite/caller"
)

// Why a connection was closed for others.
const (
	tooManyOfAddress = iota
	tooMany
	evicted
)

var connReasons = []string{tooManyOfAddress: "address", tooMany: "total", evicted: "evicted"}

// conns are the open connections of a server. All that is kept is of open ones, so it is
// bounded as they are.
type conns struct {
	config *ServerConfig

	mu        sync.Mutex
	open      map[*conn]struct{}
	byAddress map[netip.Prefix]int
	waiting   list.List // of *conn without a request, the longest waiting first
	refused   refusals
}

// refusals are counts by reason.
type refusals [evicted + 1]uint64

func newConns(config *ServerConfig) *conns {
	return &conns{config: config, open: map[*conn]struct{}{}, byAddress: map[netip.Prefix]int{}}
}

// conn is one of them.
type conn struct {
	net.Conn
	conns   *conns
	address netip.Prefix  // invalid if it is not counted by address
	element *list.Element // in waiting, or nil
	closed  sync.Once
	err     error
}

// Close closes the connection, once.
func (c *conn) Close() error {
	c.closed.Do(func() {
		c.conns.remove(c)
		c.err = c.Conn.Close()
	})
	return c.err
}

// listener accepts connections of l that there is room for.
func (c *conns) listener(l net.Listener) net.Listener { return &listener{l, c} }

type listener struct {
	net.Listener
	conns *conns
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		accepted, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := l.conns.admit(accepted); c != nil {
			return c, nil
		}
		accepted.Close()
	}
}

// admit is nil if there is no room for a connection.
func (c *conns) admit(accepted net.Conn) *conn {
	fresh := &conn{Conn: accepted, conns: c}
	if addr, err := caller.ParseAddress(accepted.RemoteAddr().String()); err == nil && !trusts(c.config.TrustedProxies, addr) {
		fresh.address = networkOf(addr)
	}
	c.mu.Lock()
	if fresh.address.IsValid() && c.byAddress[fresh.address] >= c.config.MaxConnsPerAddress {
		c.refused[tooManyOfAddress]++
		c.mu.Unlock()
		return nil
	}
	var old *conn
	if len(c.open) >= c.config.MaxConns {
		if front := c.waiting.Front(); front != nil {
			old = front.Value.(*conn)
			c.drop(old)
			c.refused[evicted]++
		} else {
			c.refused[tooMany]++
			c.mu.Unlock()
			return nil
		}
	}
	c.open[fresh] = struct{}{}
	if fresh.address.IsValid() {
		c.byAddress[fresh.address]++
	}
	fresh.element = c.waiting.PushBack(fresh)
	c.mu.Unlock()
	if old != nil {
		old.Close()
	}
	return fresh
}

// networkOf is addr or, in IPv6, all of its subscriber's addresses.
func networkOf(addr netip.Addr) netip.Prefix {
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	prefix, _ := addr.Prefix(bits)
	return prefix
}

func (c *conns) remove(old *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(old)
}

// drop forgets a connection, if it has not been forgotten. The caller holds the lock.
func (c *conns) drop(old *conn) {
	if _, ok := c.open[old]; !ok {
		return
	}
	delete(c.open, old)
	c.unlist(old)
	if old.address.IsValid() {
		if c.byAddress[old.address]--; c.byAddress[old.address] == 0 {
			delete(c.byAddress, old.address)
		}
	}
}

func (c *conns) unlist(known *conn) {
	if known.element != nil {
		c.waiting.Remove(known.element)
		known.element = nil
	}
}

// changed follows whether a connection has a request: it is the server's ConnState.
func (c *conns) changed(raw net.Conn, state http.ConnState) {
	if secure, ok := raw.(interface{ NetConn() net.Conn }); ok {
		raw = secure.NetConn()
	}
	known, ok := raw.(*conn)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.open[known]; !ok {
		return
	}
	switch state {
	case http.StateActive, http.StateHijacked:
		c.unlist(known)
	case http.StateIdle:
		c.unlist(known)
		known.element = c.waiting.PushBack(known)
	}
}

// closeAll closes what is left.
func (c *conns) closeAll() {
	c.mu.Lock()
	left := make([]*conn, 0, len(c.open))
	for known := range c.open {
		left = append(left, known)
	}
	c.mu.Unlock()
	for _, known := range left {
		known.Close()
	}
}

func (c *conns) counts() (open int, refused refusals) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open), c.refused
}
