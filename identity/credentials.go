package identity

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/meshlite-go/meshlite/internal/wire"
)

const (
	// firstWait is how long a server's handshake waits for the first certificate.
	firstWait = 4 * time.Second
	// defaultMaxConnectionAge, with gRPC's 10 % of jitter, is less than what is left of a leaf of
	// Consul's shortest, an hour, when it is renewed.
	defaultMaxConnectionAge = 20 * time.Minute
	minConnectionAge        = time.Second
	lateLinePeriod          = 10 * time.Second
	alpn                    = "h2"
)

type counter = atomic.Uint64

// Option changes what [New] makes.
type Option func(*settings)

type settings struct {
	log         *slog.Logger
	grace       time.Duration
	age         time.Duration
	datacenters []string
	servers     map[string]string
	permissive  bool
	open        bool // WithoutIntentions
}

// WithLogger logs refused connections, at most 10 lines in 10 s for each reason. Default, and
// nil: slog.Default().
func WithLogger(log *slog.Logger) Option { return func(s *settings) { s.log = log } }

// WithExpiryGrace accepts certificates, one's own and others', for so long after their end,
// with a warning in the log: for outages of the authority that outlast a certificate. Both
// ends need it. Default: 0, an ended certificate is refused.
func WithExpiryGrace(grace time.Duration) Option { return func(s *settings) { s.grace = grace } }

// WithMaxConnectionAge sets how long a server of package meshlite serves a connection before
// it asks the client for a new one: less than what is left of a leaf when it is renewed.
// Default: 20 min. Calls that run then go on until the certificates of the connection end.
func WithMaxConnectionAge(age time.Duration) Option { return func(s *settings) { s.age = age } }

// WithDatacenters accepts servers of these datacenters beside the one in which the server was
// found: that of the target, or one's own if the target names none.
func WithDatacenters(datacenters ...string) Option {
	return func(s *settings) { s.datacenters = append(s.datacenters, datacenters...) }
}

// WithServerIDs sets which SPIFFE id the server of a target must have, by the service of the target:
//
//	identity.WithServerIDs(map[string]string{
//		"catalog": "spiffe://example.org/shop/catalog",
//		"*":       "spiffe://example.org/ns/prod/sa/{service}",
//	})
//
// The key "*" is for services that are not listed. Without it, these must have an id in Consul's
// form that is of the target, or are refused if the authority's ids have another form.
func WithServerIDs(ids map[string]string) Option { return func(s *settings) { s.servers = ids } }

// WithPermissive makes servers accept plaintext on the same port, while clients are moved to
// mutual TLS. A plaintext caller has no identity, whatever its metadata says. [Stats] has who
// they are. Clients are not changed by it: they use TLS.
func WithPermissive() Option { return func(s *settings) { s.permissive = true } }

// WithoutIntentions lets every service of the mesh call a server of package meshlite that would
// enforce Consul's intentions, as one with meshlite.ConsulIdentity does: for a mesh that has
// another way to authorize. The server logs a warning.
func WithoutIntentions() Option { return func(s *settings) { s.open = true } }

// Credentials secure connections by mutual TLS 1.3. They serve clients and servers, and are
// safe for concurrent use.
type Credentials struct {
	*shared
	serverName string // that replaces the authority
}

// shared is what clones have in common.
type shared struct {
	settings
	serverIDs serverIDs
	source    Source
	conns     *connections
	refusals  *refusals
	plaintext *plaintextCallers
	lateAt    atomic.Int64 // when warnLate last wrote, in Unix ns

	clients, servers counter // handshakes that succeeded
}

var _ credentials.TransportCredentials = (*Credentials)(nil)

// New makes credentials of the certificates of source.
func New(source Source, opts ...Option) (*Credentials, error) {
	s := settings{age: defaultMaxConnectionAge}
	for _, o := range opts {
		o(&s)
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	switch {
	case source == nil:
		return nil, errors.New("identity: the source is nil: give that of a directory's Identity, or of Files")
	case s.grace < 0:
		return nil, fmt.Errorf("identity: WithExpiryGrace %v: write a duration from 0 on", s.grace)
	case s.age < minConnectionAge:
		return nil, fmt.Errorf("identity: WithMaxConnectionAge %v: write at least %v", s.age, minConnectionAge)
	}
	servers, err := newServerIDs(s.servers)
	if err != nil {
		return nil, err
	}
	return &Credentials{shared: &shared{
		serverIDs: servers,
		settings:  s, source: source, conns: newConnections(source), refusals: newRefusals(s.log), plaintext: newPlaintextCallers(s.log),
	}}, nil
}

// Close ends the source, if it has a Close. Connections go on as long as the certificates.
func (c *Credentials) Close() {
	if source, ok := c.source.(interface{ Close() }); ok {
		source.Close()
	}
}

// Ready returns why no connection can be secured now, or nil.
func (c *Credentials) Ready() error {
	_, err := c.usable()
	return err
}

// Current returns the latest certificates of the source.
func (c *Credentials) Current() (*Snapshot, error) { return c.source.Current() }

// Source returns the source that New was given.
func (c *Credentials) Source() Source { return c.source }

// EnforcesIntentions reports whether servers are to let Consul's intentions decide: unless
// [WithoutIntentions] is set, or [WithPermissive], since callers in plaintext have no identity
// and intentions deny them.
func (c *Credentials) EnforcesIntentions() bool { return !c.open && !c.permissive }

// IsPermissive reports whether a server lets in callers in plaintext: [WithPermissive].
func (c *Credentials) IsPermissive() bool { return c.permissive }

// MaxConnectionAge is that of [WithMaxConnectionAge].
func (c *Credentials) MaxConnectionAge() time.Duration { return c.age }

// Info implements credentials.TransportCredentials.
func (c *Credentials) Info() credentials.ProtocolInfo {
	//lint:ignore SA1019 gRPC itself reads a name that credentials pin from there
	return credentials.ProtocolInfo{SecurityProtocol: "tls", ServerName: c.serverName}
}

// Clone returns credentials that share the source and the statistics.
func (c *Credentials) Clone() credentials.TransportCredentials {
	clone := *c
	return &clone
}

// OverrideServerName sets the service that a server must be.
//
// Deprecated: use grpc.WithAuthority, as for other credentials.
func (c *Credentials) OverrideServerName(name string) error {
	c.serverName = name
	return nil
}

// usable returns the latest snapshot, unless its leaf has ended.
func (c *Credentials) usable() (*Snapshot, error) {
	s, err := c.source.Current()
	if err != nil {
		return nil, refuse(NoOwnCertificate, "", "%v", err)
	}
	switch late := time.Since(s.Leaf().NotAfter); {
	case late > c.grace:
		return nil, refuse(NoOwnCertificate, "", "the certificate of %v ended %v ago, and no other has come", s.id, late.Round(time.Second))
	case late > 0:
		c.warnLate(s.id.String(), "own", late)
	}
	return s, nil
}

// wait is usable, which waits for the first snapshot until ctx ends.
func (c *Credentials) wait(ctx context.Context) (*Snapshot, error) {
	s, err := c.usable()
	if err == nil {
		return s, nil
	}
	if _, none := c.source.Current(); none == nil {
		return nil, err // it has ended
	}
	if _, waitErr := c.source.Next(ctx, nil); waitErr != nil {
		return nil, err
	}
	return c.usable()
}

// ClientHandshake implements credentials.TransportCredentials. authority is the service that
// the server must be.
func (c *Credentials) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, info, err := c.clientHandshake(ctx, authority, raw)
	if err != nil {
		c.refusals.record(err, "client", addressOf(raw))
		return nil, nil, err
	}
	c.clients.Add(1)
	return secured, info, nil
}

func (c *Credentials) clientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	s, err := c.wait(ctx)
	if err != nil {
		return nil, nil, err
	}
	want, name, err := c.serverIDs.wanted(wire.Datacenter(credentials.ClientHandshakeInfoFromContext(ctx).Attributes), cmp.Or(c.serverName, authority), s)
	if err != nil {
		return nil, nil, err
	}
	var peer *verified
	secured := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{alpn}, ServerName: name,
		// The leaf is presented whatever authorities the server names.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &s.leaf, nil },
		InsecureSkipVerify:   true, // VerifyConnection verifies the chain, and the SPIFFE id instead of a DNS name
		VerifyConnection: func(state tls.ConnectionState) (err error) {
			if peer, err = s.verify(state.PeerCertificates, x509.ExtKeyUsageServerAuth, c.grace); err != nil {
				return err
			}
			return expect(want, peer.id, c.datacenters)
		},
	})
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, nil, brokenClient(err)
	}
	tracked := c.newConn(secured, peer)
	// In TLS 1.3 a server refuses when the client's handshake is over.
	client := &clientConn{conn: tracked, refused: func(err error) { c.refusals.record(brokenClient(err), "client", addressOf(raw)) }}
	tracked.drain = client.ask
	c.track(tracked, s, peer)
	return withSystem(raw, client), authInfo(secured, peer), nil
}

// ServerHandshake implements credentials.TransportCredentials. gRPC has set a deadline on raw.
func (c *Credentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if c.permissive {
		peeked, plain, err := peek(raw)
		if err != nil {
			return nil, nil, err
		}
		if plain {
			return c.plaintext.accept(peeked, raw)
		}
		return c.serve(peeked, raw)
	}
	return c.serve(raw, raw)
}

func (c *Credentials) serve(from, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, info, err := c.serverHandshake(from, raw)
	if err != nil {
		c.refusals.record(err, "server", addressOf(raw))
		return nil, nil, err
	}
	c.servers.Add(1)
	return secured, info, nil
}

func (c *Credentials) serverHandshake(from, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	ctx, cancel := context.WithTimeout(context.Background(), firstWait)
	defer cancel()
	s, err := c.wait(ctx)
	if err != nil {
		return nil, nil, err
	}
	var peer *verified
	var old []uint16
	secured := tls.Server(from, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{alpn}, Certificates: []tls.Certificate{s.leaf},
		ClientAuth: tls.RequestClientCert, // VerifyConnection demands it, with a reason
		// A resumed session would have the certificates of another time.
		SessionTicketsDisabled: true,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if !slices.Contains(hello.SupportedVersions, tls.VersionTLS13) {
				old = hello.SupportedVersions
			}
			return nil, nil
		},
		VerifyConnection: func(state tls.ConnectionState) (err error) {
			peer, err = s.verify(state.PeerCertificates, x509.ExtKeyUsageClientAuth, c.grace)
			return err
		},
	})
	if err := secured.Handshake(); err != nil {
		return nil, nil, brokenServer(err, old)
	}
	tracked := c.newConn(secured, peer)
	c.track(tracked, s, peer)
	return withSystem(raw, tracked), authInfo(secured, peer), nil
}

func (c *Credentials) newConn(secured net.Conn, peer *verified) *conn {
	made := &conn{Conn: secured, set: c.conns}
	for _, chain := range peer.chains {
		made.roots = append(made.roots, chain[len(chain)-1])
	}
	return made
}

// track ends a connection with the certificates that it was made with.
func (c *Credentials) track(made *conn, s *Snapshot, peer *verified) {
	if peer.late > 0 {
		c.warnLate(peer.id.String(), "peer", peer.late)
	}
	made.schedule(earlier(peer.ends, s.Leaf().NotAfter), c.grace)
	c.conns.add(made, s)
	if latest, err := c.source.Current(); err == nil && latest != s {
		made.withdraw(latest) // it came during the handshake
	}
}

// warnLate is the loud part of [WithExpiryGrace].
func (c *Credentials) warnLate(id, whose string, late time.Duration) {
	last, now := c.lateAt.Load(), time.Now().UnixNano()
	if now-last >= int64(lateLinePeriod) && c.lateAt.CompareAndSwap(last, now) {
		c.log.Error("a certificate has ended and is used nevertheless: the authority is away, or nothing renews it",
			"id", id, "whose", whose, "ended_ago", late.Round(time.Second).String(), "refused_in", (c.grace - late).Round(time.Second).String())
	}
}

func authInfo(secured *tls.Conn, peer *verified) credentials.AuthInfo {
	state := secured.ConnectionState()
	state.VerifiedChains = peer.chains // crypto/tls has left it to VerifyConnection
	spiffe, _ := url.Parse(peer.id.String())
	return credentials.TLSInfo{
		State:          state,
		SPIFFEID:       spiffe,
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}
}

// brokenClient gives the error of a client's handshake its reason.
func brokenClient(err error) error {
	switch {
	case errors.As(err, new(*Refusal)):
		return err
	case strings.Contains(err.Error(), "protocol version"):
		return refuse(OldTLS, "", "the server does not speak TLS 1.3: %v", err)
	case isAlert(err):
		return refuse(RefusedByPeer, "", "%v: its log says why", err)
	case errors.As(err, new(tls.RecordHeaderError)):
		return refuse(SpeaksPlaintext, "", "the server speaks plaintext: %v", err)
	case errors.Is(err, context.Canceled), errors.Is(err, io.EOF), isNetwork(err):
		return err // of the network
	default:
		return refuse(BrokenHandshake, "", "%v", err)
	}
}

// brokenServer gives the error of a server's handshake its reason. old are the versions of a
// client without TLS 1.3.
func brokenServer(err error, old []uint16) error {
	switch {
	case errors.As(err, new(*Refusal)):
		return err
	case old != nil:
		return refuse(OldTLS, "", "the client speaks %s at most: want TLS 1.3", tls.VersionName(slices.Max(old)))
	case errors.As(err, new(tls.RecordHeaderError)):
		return refuse(SpeaksPlaintext, "", "the caller speaks no TLS: see WithPermissive while callers are moved")
	case isAlert(err):
		return refuse(RefusedByPeer, "", "%v: the log of the client says why", err)
	case errors.Is(err, io.EOF), isNetwork(err):
		return err // a probe of the port, or the network
	default:
		return refuse(BrokenHandshake, "", "%v", err)
	}
}

// isAlert reports whether the other end has refused, which crypto/tls has no type for.
func isAlert(err error) bool {
	var alert *net.OpError
	return errors.As(err, &alert) && alert.Op == "remote error"
}

func isNetwork(err error) bool {
	var network net.Error
	return errors.As(err, &network)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func addressOf(c net.Conn) string {
	if address := c.RemoteAddr(); address != nil {
		return address.String()
	}
	return ""
}

// ServerID is the id that a server of service must prove to a client of c. An empty datacenter is
// the client's own. The error says why no server can.
func (c *Credentials) ServerID(service, datacenter string) (ID, error) {
	own, err := c.source.Current()
	if err != nil {
		return ID{}, err
	}
	id, _, err := c.serverIDs.wanted(datacenter, cmp.Or(c.serverName, service), own)
	return id, err
}
