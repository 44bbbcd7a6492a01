package identity

import (
	"cmp"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/meshlite-go/meshlite/internal/peeked"
)

// peek reads the first byte and returns a connection that reads it again.
func peek(raw net.Conn) (_ net.Conn, plain bool, _ error) {
	first := make([]byte, 1)
	if _, err := io.ReadFull(raw, first); err != nil {
		return nil, false, err // plain io.EOF is no fault: a probe of the port
	}
	return peeked.NewConn(raw, first), !peeked.IsTLS(first[0]), nil
}

// Plaintext is the AuthInfo of a caller that a permissive server has accepted without TLS.
type Plaintext struct {
	credentials.CommonAuthInfo
}

// AuthType returns "insecure", as for other connections without TLS.
func (Plaintext) AuthType() string { return "insecure" }

// Unidentified says, to package caller, that nothing this peer says of itself is an identity.
func (Plaintext) Unidentified() {}

// maxPlaintextCallers bounds the addresses that are kept.
const maxPlaintextCallers = 256

// PlaintextCaller is an address from which plaintext connections came.
type PlaintextCaller struct {
	Address     string    `json:"address"` // without the port
	Open        int       `json:"open"`    // connections, now
	Connections uint64    `json:"connections"`
	LastSeen    time.Time `json:"last_seen"` // when the last connection was opened
}

// plaintextCallers counts them. Beyond the bound the one without open connections that was
// seen longest ago is evicted.
type plaintextCallers struct {
	log *slog.Logger

	mu        sync.Mutex
	total     uint64
	open      int
	byAddress map[string]*PlaintextCaller
}

func newPlaintextCallers(log *slog.Logger) *plaintextCallers {
	return &plaintextCallers{log: log, byAddress: map[string]*PlaintextCaller{}}
}

func (p *plaintextCallers) accept(peeked, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	address := addressOf(raw)
	if host, _, err := net.SplitHostPort(address); err == nil {
		address = host
	}
	if p.opened(address) {
		p.log.Warn("a caller uses plaintext: it has no identity, and is refused once WithPermissive is left out", "peer", address)
	}
	counted := &plaintextConn{Conn: peeked, closed: sync.OnceFunc(func() { p.closed(address) })}
	info := Plaintext{credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}}
	return withSystem(raw, counted), info, nil
}

// opened reports whether the address is a new one.
func (p *plaintextCallers) opened(address string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total++
	p.open++
	known := p.byAddress[address]
	if known == nil {
		p.makeRoom()
		known = &PlaintextCaller{Address: address}
		if len(p.byAddress) < maxPlaintextCallers {
			p.byAddress[address] = known
		}
	}
	known.Open++
	known.Connections++
	known.LastSeen = time.Now()
	return known.Connections == 1
}

func (p *plaintextCallers) makeRoom() {
	if len(p.byAddress) < maxPlaintextCallers {
		return
	}
	var oldest *PlaintextCaller
	for _, c := range p.byAddress {
		if c.Open == 0 && (oldest == nil || c.LastSeen.Before(oldest.LastSeen)) {
			oldest = c
		}
	}
	if oldest != nil {
		delete(p.byAddress, oldest.Address)
	}
}

func (p *plaintextCallers) closed(address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open--
	if c := p.byAddress[address]; c != nil && c.Open > 0 {
		c.Open--
	}
}

func (p *plaintextCallers) stats() PlaintextStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := PlaintextStats{Open: p.open, Connections: p.total, Callers: []PlaintextCaller{}}
	for _, c := range p.byAddress {
		s.Callers = append(s.Callers, *c)
	}
	slices.SortFunc(s.Callers, func(a, b PlaintextCaller) int {
		return cmp.Or(b.LastSeen.Compare(a.LastSeen), cmp.Compare(a.Address, b.Address))
	})
	return s
}

type plaintextConn struct {
	net.Conn
	closed func()
}

// Read counts a connection that has failed as closed, as that of [conn] does.
func (c *plaintextConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.closed()
	}
	return n, err
}

func (c *plaintextConn) Close() error {
	c.closed()
	return c.Conn.Close()
}
