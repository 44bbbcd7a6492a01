package meshtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"

	"google.golang.org/grpc/test/bufconn"

	"github.com/meshlite-go/meshlite"
)

const (
	bufferSize = 64 << 10 // each way of a connection, as of a socket
	backlog    = 128      // connections that a listener has not accepted yet
	firstPort  = 40000    // of those that are chosen
)

// network is TCP in memory. Its goroutines block on channels and condition variables only,
// so it works in a bubble of testing/synctest.
type network struct {
	mu        sync.Mutex
	listeners map[netip.AddrPort]*listener
	lastPort  uint16
	lastHost  int
}

func newNetwork() *network {
	return &network{listeners: map[netip.AddrPort]*listener{}, lastPort: firstPort - 1}
}

// host adds a machine with an address of its own and one process.
func (n *network) host() *host {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lastHost++
	address := netip.AddrFrom4([4]byte{10, 0, byte(n.lastHost / 254), byte(n.lastHost%254 + 1)})
	return &host{network: n, address: address, dead: make(chan struct{}), awake: closed()}
}

func closed() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// free returns a port that was not given before. Like its callers it holds n.mu.
func (n *network) free() uint16 {
	n.lastPort++
	return n.lastPort
}

// host is a process as the network sees it. It implements [meshlite.Network].
type host struct {
	network *network
	address netip.Addr

	mu    sync.Mutex
	dead  chan struct{} // closed when the process was killed
	awake chan struct{} // closed while the process is not stalled
	conns []*conn
}

var _ meshlite.Network = (*host)(nil)

// DialContext connects to a listener of any host.
func (h *host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	refuse := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: addr(address), Err: err}
	}
	to, err := parse(address)
	if err != nil {
		return refuse(err)
	}
	if h.isDead() {
		return refuse(errKilled)
	}
	h.network.mu.Lock()
	l := h.network.listeners[to]
	from := netip.AddrPortFrom(h.address, h.network.free())
	h.network.mu.Unlock()
	if l == nil || l.host.isDead() {
		return refuse(os.NewSyscallError("connect", syscall.ECONNREFUSED))
	}
	ours, theirs, err := pipe(ctx)
	if err != nil {
		return refuse(err)
	}
	ours, theirs = h.own(ours, from, to), l.host.own(theirs, to, from)
	select {
	case l.incoming <- theirs:
		return ours, nil
	case <-l.closed:
		err = os.NewSyscallError("connect", syscall.ECONNREFUSED)
	case <-ctx.Done():
		err = ctx.Err()
	}
	_, _ = ours.Close(), theirs.Close()
	return refuse(err)
}

// pipe is a connection with buffers.
func pipe(ctx context.Context) (client, server net.Conn, err error) {
	meeting := bufconn.Listen(bufferSize)
	defer meeting.Close() //nolint:errcheck // it never fails
	accepted := make(chan net.Conn, 1)
	go func() {
		defer close(accepted)
		if conn, err := meeting.Accept(); err == nil {
			accepted <- conn
		}
	}()
	client, err = meeting.DialContext(ctx)
	if err != nil {
		return nil, nil, err
	}
	return client, <-accepted, nil
}

// Listen opens an address of this host, the unspecified and the loopback ones being its own.
func (h *host) Listen(_ context.Context, network, address string) (net.Listener, error) {
	refuse := func(err error) (net.Listener, error) {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: addr(address), Err: err}
	}
	at, err := parse(address)
	switch {
	case err != nil:
		return refuse(err)
	case h.isDead():
		return refuse(errKilled)
	}
	own := at.Addr().IsUnspecified() || at.Addr().IsLoopback()
	if !own && at.Addr() != h.address {
		return refuse(os.NewSyscallError("bind", syscall.EADDRNOTAVAIL))
	}
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	port := at.Port()
	if port == 0 {
		port = h.network.free()
	}
	at = netip.AddrPortFrom(h.address, port)
	if h.network.listeners[at] != nil {
		return refuse(os.NewSyscallError("bind", syscall.EADDRINUSE))
	}
	l := &listener{host: h, at: at, incoming: make(chan net.Conn, backlog), closed: make(chan struct{})}
	h.network.listeners[at] = l
	return l, nil
}

// own makes one end of a connection a part of this process.
func (h *host) own(raw net.Conn, local, remote netip.AddrPort) net.Conn {
	c := &conn{Conn: raw, host: h, local: local, remote: remote, closed: make(chan struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns = append(slices.DeleteFunc(h.conns, (*conn).isClosed), c)
	return c
}

var errKilled = errors.New("meshtest: the process was killed")

func (h *host) isDead() bool {
	select {
	case <-h.dead:
		return true
	default:
		return false
	}
}

// kill breaks all connections and refuses new ones.
func (h *host) kill() {
	h.mu.Lock()
	conns := h.conns
	if !h.isDead() {
		close(h.dead)
	}
	h.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

// stall stops the process from reading and writing, or lets it go on.
func (h *host) stall(stalled bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.awake:
		if stalled {
			h.awake = make(chan struct{})
		}
	default:
		if !stalled {
			close(h.awake)
		}
	}
}

// stalled reports whether the process does nothing now.
func (h *host) stalled() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.awake:
		return false
	default:
		return true
	}
}

// wait blocks while the process is stalled, until over.
func (h *host) wait(over <-chan struct{}) {
	h.mu.Lock()
	awake := h.awake
	h.mu.Unlock()
	select {
	case <-awake:
	case <-over:
	}
}

// listener accepts the connections to one address.
type listener struct {
	host     *host
	at       netip.AddrPort
	incoming chan net.Conn
	once     sync.Once
	closed   chan struct{}
}

// Accept waits for a connection. Those to a killed process are never accepted, and Accept
// does not fail then: the process is not there to see it.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.incoming:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close frees the address.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.host.network.mu.Lock()
		defer l.host.network.mu.Unlock()
		delete(l.host.network.listeners, l.at)
		close(l.closed)
		for len(l.incoming) > 0 {
			_ = (<-l.incoming).Close()
		}
	})
	return nil
}

// Addr is the address of the host and the port.
func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.at) }

// conn is one end of a connection.
type conn struct {
	net.Conn
	host          *host
	local, remote netip.AddrPort
	once          sync.Once
	closed        chan struct{}
}

func (c *conn) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// Read returns what has come, while the process is not stalled.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.host.wait(c.closed)
	return n, err
}

// Write sends while the process is not stalled.
func (c *conn) Write(b []byte) (int, error) {
	c.host.wait(c.closed)
	return c.Conn.Write(b)
}

// Close closes both ways.
func (c *conn) Close() (err error) {
	c.once.Do(func() {
		close(c.closed)
		err = c.Conn.Close()
	})
	return err
}

// LocalAddr is that of this end.
func (c *conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.local) }

// RemoteAddr is that of the other end.
func (c *conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// directory reaches the agent as this process does: not at all once it was killed, and with
// answers that it does not read while it is stalled.
type directory struct {
	host  *host
	agent http.RoundTripper
}

// RoundTrip implements [http.RoundTripper].
func (d directory) RoundTrip(request *http.Request) (*http.Response, error) {
	if d.host.isDead() {
		return nil, errKilled
	}
	d.host.wait(request.Context().Done())
	response, err := d.agent.RoundTrip(request)
	d.host.wait(request.Context().Done())
	return response, err
}

// addr is an address as it was written.
type addr string

func (addr) Network() string  { return "tcp" }
func (a addr) String() string { return string(a) }

// parse takes an address of the mesh, where no name is resolved but localhost.
func parse(address string) (netip.AddrPort, error) {
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch name {
	case "":
		name = "0.0.0.0"
	case "localhost":
		name = "127.0.0.1"
	}
	number, portErr := strconv.ParseUint(port, 10, 16)
	ip, err := netip.ParseAddr(name)
	if err != nil || portErr != nil {
		return netip.AddrPort{}, fmt.Errorf("address %q: write an IP address and a port: a mesh in memory resolves no names", address)
	}
	return netip.AddrPortFrom(ip, uint16(number)), nil
}
