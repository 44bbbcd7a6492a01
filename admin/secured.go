package admin

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"slices"
	"sync/atomic"

	"github.com/meshlite-go/meshlite/internal/peeked"
)

// ServeTLS is [Serve] that takes HTTPS/1.1 beside HTTP on the same port: a connection that begins
// as TLS is secured by settings, such as those of identity.Credentials.ServerTLS. Whatever these
// demand, a client may come without a certificate, such as Prometheus for /metrics. One that a
// client shows is verified as settings say, and opens what [WithIdentities] demands it for.
func ServeTLS(listener net.Listener, handler http.Handler, settings *tls.Config) *Server {
	s := newServer(securedListener{listener, withoutDemand(settings)}, securedHandler{handler})
	s.http.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, conn)
	}
	go s.serve()
	return s
}

// withoutDemand returns a copy of settings that lets clients in without a certificate.
func withoutDemand(settings *tls.Config) *tls.Config {
	changed := settings.Clone()
	changed.NextProtos = []string{"http/1.1"}
	switch changed.ClientAuth {
	case tls.RequireAndVerifyClientCert:
		changed.ClientAuth = tls.VerifyClientCertIfGiven
	case tls.RequireAnyClientCert:
		changed.ClientAuth = tls.RequestClientCert
	}
	if verify := settings.VerifyConnection; verify != nil {
		changed.VerifyConnection = func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return nil
			}
			return verify(state)
		}
	}
	if choose := settings.GetConfigForClient; choose != nil {
		changed.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			chosen, err := choose(hello)
			if chosen == nil || err != nil {
				return nil, err
			}
			return withoutDemand(chosen), nil
		}
	}
	return changed
}

type securedListener struct {
	net.Listener
	settings *tls.Config
}

func (l securedListener) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &securedConn{Conn: raw, settings: l.settings}, nil
}

// connKey is under which the context of a request has its connection.
type connKey struct{}

// securedHandler gives requests the state of their TLS, which net/http does for its own
// connections alone.
type securedHandler struct{ http.Handler }

func (h securedHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if conn, ok := r.Context().Value(connKey{}).(*securedConn); ok {
		if secured := conn.secured.Load(); secured != nil {
			state := secured.ConnectionState()
			r.TLS = &state
		}
	}
	h.Handler.ServeHTTP(w, r)
}

// securedConn is in plaintext or TLS, as its first byte says. As net/http does, one goroutine
// reads it, before anything is written, and with a deadline, which bounds the handshake.
type securedConn struct {
	net.Conn // as it was accepted
	settings *tls.Config
	begun    bool
	secured  atomic.Pointer[tls.Conn] // nil in plaintext, and before the first byte
}

func (c *securedConn) Read(b []byte) (int, error) {
	if secured := c.secured.Load(); secured != nil {
		return secured.Read(b)
	}
	n, err := c.Conn.Read(b)
	if c.begun || n == 0 {
		return n, err
	}
	c.begun = true
	if !peeked.IsTLS(b[0]) {
		return n, err
	}
	secured := tls.Server(peeked.NewConn(c.Conn, slices.Clone(b[:n])), c.settings)
	c.secured.Store(secured)
	return secured.Read(b)
}

func (c *securedConn) Write(b []byte) (int, error) {
	if secured := c.secured.Load(); secured != nil {
		return secured.Write(b)
	}
	return c.Conn.Write(b)
}

// CloseWrite lets a client read the answer to a request of which the rest is not read.
func (c *securedConn) CloseWrite() error {
	if secured := c.secured.Load(); secured != nil {
		return secured.CloseWrite()
	}
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

func (c *securedConn) Close() error {
	if secured := c.secured.Load(); secured != nil {
		return secured.Close()
	}
	return c.Conn.Close()
}
