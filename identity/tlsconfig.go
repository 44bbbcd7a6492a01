package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
)

// ServerTLS returns settings for servers of other protocols than gRPC, such as an [http.Server]
// for the pages of package admin. A handshake presents the latest certificate and demands that
// of a service of the mesh, whose identity caller.VerifiedTLS then returns. protocols are those
// of ALPN that the server speaks, such as "h2", "http/1.1"; none is HTTP/1.1.
//
// Unlike a connection of gRPC, one of these does not end with its certificates: bound its
// life, by IdleTimeout of an [http.Server] and the like. A client's certificate that has ended
// is refused whatever [WithExpiryGrace] says.
func (c *Credentials) ServerTLS(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: protocols,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			settings, err := c.serverTLS(hello.Context(), protocols, hello.Conn)
			if err != nil {
				c.refusals.record(err, "server", addressOf(hello.Conn))
			}
			return settings, err
		},
	}
}

// serverTLS are the settings of one handshake.
func (c *Credentials) serverTLS(ctx context.Context, protocols []string, raw net.Conn) (*tls.Config, error) {
	ctx, cancel := context.WithTimeout(ctx, firstWait)
	defer cancel()
	s, err := c.wait(ctx)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: protocols, Certificates: []tls.Certificate{s.leaf}, SessionTicketsDisabled: true,
		// crypto/tls verifies the chain too, so that the state of the connection has it.
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: s.pool,
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := s.verify(state.PeerCertificates, x509.ExtKeyUsageClientAuth, 0)
			if err != nil {
				c.refusals.record(err, "server", addressOf(raw))
				return err
			}
			c.servers.Add(1)
			return nil
		},
	}, nil
}

// ClientTLS returns settings for clients of other protocols than gRPC, such as an
// [http.Transport], that call service and no other: its server is verified as by a channel, and
// the latest certificate is presented to it. A name that is no service's is an error of the
// handshake. See [Credentials.ServerTLS] for the life of a connection.
func (c *Credentials) ClientTLS(service string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: service,
		GetClientCertificate: func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			s, err := c.usable()
			if err != nil {
				return nil, err
			}
			return &s.leaf, nil
		},
		InsecureSkipVerify: true, // VerifyConnection verifies the chain, and the SPIFFE id instead of a DNS name
		VerifyConnection: func(state tls.ConnectionState) error {
			err := c.verifyServer(service, state.PeerCertificates)
			if err != nil {
				c.refusals.record(err, "client", service)
				return err
			}
			c.clients.Add(1)
			return nil
		},
	}
}

// verifyServer checks that certificates are of a service, in one's own datacenter.
func (c *Credentials) verifyServer(service string, certificates []*x509.Certificate) error {
	s, err := c.usable()
	if err != nil {
		return err
	}
	want, _, err := c.serverIDs.wanted("", service, s)
	if err != nil {
		return err
	}
	peer, err := s.verify(certificates, x509.ExtKeyUsageServerAuth, c.grace)
	if err != nil {
		return err
	}
	return expect(want, peer.id, c.datacenters)
}
