package meshlite

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

const (
	// askTimeout is what Consul's check of the health gets, too.
	askTimeout = 2 * time.Second
	// fallbackTTL is for a server that Consul cannot call.
	fallbackTTL = 15 * time.Second
)

// refusedError is why a server does not start, however long it tries.
type refusedError struct{ error }

func (e refusedError) Unwrap() error { return e.error }

// healthCheck is how Consul learns of the health of the server.
type healthCheck struct {
	address    string        // that Consul calls; empty if only the server reports
	at         string        // where the server asks instead; empty is address
	tls        bool          // whether it speaks TLS there
	serverName string        // that it verifies; empty is nothing
	unproven   bool          // whether only the agent may know the authority
	ttl        time.Duration // in which the server reports instead; 0 is not
	why        string        // it is this one, where no option says so
}

// String explains it to an operator.
func (h healthCheck) String() string {
	how := "gRPC in plaintext at " + h.address
	switch {
	case h.ttl > 0:
		how = fmt.Sprintf("the server reports it, three times in %v", h.ttl)
	case h.unproven:
		how = fmt.Sprintf("gRPC over TLS at %s, verified for %q by the agent's authorities", h.address, h.serverName)
	case h.serverName != "":
		how = fmt.Sprintf("gRPC over TLS at %s, verified for %q", h.address, h.serverName)
	case h.tls:
		how = fmt.Sprintf("gRPC over TLS at %s, the certificate is not verified", h.address)
	}
	if h.why != "" {
		how += ": " + h.why
	}
	return how
}

// apply writes it into r.
func (h healthCheck) apply(r *catalog.Registration) {
	r.TTL = h.ttl
	if h.ttl > 0 {
		return
	}
	r.CheckAddress, r.CheckTLS = h.address, h.tls
	r.CheckServerName, r.CheckSkipVerify = h.serverName, h.tls && h.serverName == ""
}

// healthChecks are those that Consul may carry out, the one to prefer first.
func (r *run) healthChecks(name, address string) []healthCheck {
	c := &r.config
	at := cmp.Or(c.check, address)
	if r.healthOnly != nil {
		return []healthCheck{{address: cmp.Or(c.check, reachable(r.healthAddress, address))}}
	}
	host, _, _ := net.SplitHostPort(at)
	plain, unverified := healthCheck{address: at}, healthCheck{address: at, tls: true}
	switch {
	case c.plaintext:
		return []healthCheck{plain}
	case c.checkName != "":
		return []healthCheck{{address: at, tls: true, serverName: c.checkName}, {address: at, tls: true, serverName: c.checkName, unproven: true}}
	case c.checkSkipVerify:
		return []healthCheck{unverified}
	default:
		return []healthCheck{{address: at, tls: true, serverName: name}, {address: at, tls: true, serverName: host}, unverified, plain}
	}
}

// findCheck finds the first health check that the server answers, called as Consul will
// call it. Where one fails for its TLS, the next one is tried.
func (r *run) findCheck(ctx context.Context, name, address string) (*healthCheck, error) {
	checks := r.healthChecks(name, address)
	if r.config.selfCheck == selfCheckOff {
		return r.unprovenCheck(checks), nil
	}
	if err := r.reach(ctx, address, checks[0].address); err != nil {
		return nil, err
	}
	var failures []string
	noTLS := false
	for _, check := range checks {
		if check.tls && noTLS {
			continue
		}
		check.at = r.asksAt()
		_, err := check.ask(ctx)
		var handshake *handshakeError
		switch {
		case err == nil:
			check.ttl = r.config.ttl
			check.why = strings.Join(failures[:min(len(failures), 1)], "")
			return &check, nil
		case errors.Is(err, errClientCertificate):
			return r.reported(err)
		case !errors.As(err, &handshake):
			return nil, fmt.Errorf("the health check that Consul would make fails, %v: %w%s", check, err, fixOf(err))
		}
		noTLS = noTLS || !handshake.unverified
		if !slices.Contains(failures, err.Error()) {
			failures = append(failures, err.Error())
		}
	}
	return r.reported(errors.New(strings.Join(failures, "; ")))
}

// asksAt is where the server asks for its own health, empty for where Consul will.
func (r *run) asksAt() string {
	if r.config.selfCheck != "" && r.healthOnly != nil {
		return r.healthAddress.String()
	}
	return r.config.selfCheck
}

// unprovenCheck is the health check of a server that may not call itself: the first that
// needs no proof.
func (r *run) unprovenCheck(checks []healthCheck) *healthCheck {
	check := checks[0]
	for _, c := range checks {
		if c.serverName == "" || c.unproven {
			check = c
			break
		}
	}
	check.ttl, check.why = r.config.ttl, `it is not tried, by WithSelfCheckAddress "off"`
	return &check
}

// fixOf says what to change for a server that refuses to answer for its health.
func fixOf(err error) string {
	switch status.Code(err) {
	case codes.PermissionDenied, codes.Unauthenticated, codes.Unimplemented:
		return ": let everybody call grpc.health.v1.Health, or set WithHealthListener or WithTTLCheck"
	default:
		return ""
	}
}

// reported is for a server that Consul cannot call, which so reports its health itself:
// if an option says so, or if all that Consul lacks is a client's certificate.
func (r *run) reported(err error) (*healthCheck, error) {
	switch {
	case r.config.ttl > 0:
		return &healthCheck{ttl: r.config.ttl}, nil
	case errors.Is(err, errClientCertificate) && r.config.check == "" && r.config.checkName == "" && !r.config.checkSkipVerify:
		return &healthCheck{ttl: fallbackTTL, why: err.Error()}, nil
	default:
		return nil, refusedError{fmt.Errorf("no health check of Consul's would succeed: %w: set WithHealthListener or WithTTLCheck", err)}
	}
}

// reach connects to where clients will, and to where Consul will, unless an option says
// where the server reaches itself.
func (r *run) reach(ctx context.Context, address, check string) error {
	if err := connect(ctx, cmp.Or(r.config.selfCheck, address)); err != nil {
		return r.unreached(err)
	}
	if r.config.selfCheck != "" || check == "" || check == address {
		return nil
	}
	if err := connect(ctx, check); err != nil {
		return fmt.Errorf("%w: set WithHealthCheckAddress", err)
	}
	return nil
}

func connect(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// selfCheck asks the server for its health as Consul does, and connects to the address
// that it advertises.
func (r *run) selfCheck(ctx context.Context, check *healthCheck, address string) error {
	if err := r.healthy(); err != nil || r.config.selfCheck == selfCheckOff {
		return err
	}
	if err := r.reach(ctx, address, check.address); err != nil || check.address == "" {
		return err
	}
	answer, err := check.ask(ctx)
	if err == nil && answer != healthv1.HealthCheckResponse_SERVING {
		err = fmt.Errorf("it says it is %v", answer)
	}
	return err
}

// errClientCertificate is what Consul's agent cannot give.
var errClientCertificate = errors.New("the server demands a client's certificate, which Consul's agent has not")

// handshakeError is why no secured connection, or none in plaintext, came to be.
type handshakeError struct {
	error
	unverified bool // only the certificate was refused
}

func (e *handshakeError) Unwrap() error { return e.error }

// ask asks for the health as Consul's agent does: with its settings of TLS and no
// certificate of its own.
func (h healthCheck) ask(ctx context.Context) (healthv1.HealthCheckResponse_ServingStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var demanded atomic.Bool
	var failed atomic.Pointer[handshakeError]
	at := cmp.Or(h.at, h.address)
	conn, err := grpc.NewClient("passthrough:///"+at, grpc.WithTransportCredentials(witness{h.credentials(&demanded), &failed}),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	answer, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	switch code := status.Code(err); {
	case err == nil:
		return answer.GetStatus(), nil
	case code == codes.Unavailable && demanded.Load():
		return 0, errClientCertificate
	case code == codes.Unavailable && failed.Load() != nil:
		return 0, failed.Load()
	case code == codes.Unavailable && !h.tls && connect(ctx, at) == nil:
		return 0, &handshakeError{error: err}
	default:
		return 0, err
	}
}

// credentials are those of the agent. demanded is set if the server asks for a
// certificate.
func (h healthCheck) credentials(demanded *atomic.Bool) credentials.TransportCredentials {
	if !h.tls {
		return insecure.NewCredentials()
	}
	settings := &tls.Config{
		ServerName: h.serverName,
		// It is Consul that skips it, or verifies by authorities that are not known here.
		InsecureSkipVerify: h.serverName == "" || h.unproven, //nolint:gosec
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			demanded.Store(true)
			return &tls.Certificate{}, nil // none
		},
	}
	if h.unproven {
		settings.VerifyConnection = func(s tls.ConnectionState) error {
			return s.PeerCertificates[0].VerifyHostname(h.serverName)
		}
	}
	return credentials.NewTLS(settings)
}

// witness keeps why a handshake failed, of which gRPC's errors have the text alone.
type witness struct {
	credentials.TransportCredentials
	failed *atomic.Pointer[handshakeError]
}

func (w witness) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := w.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil && ctx.Err() == nil {
		w.failed.Store(&handshakeError{error: err, unverified: errors.As(err, new(*tls.CertificateVerificationError))})
	}
	return conn, info, err
}

func (w witness) Clone() credentials.TransportCredentials {
	return witness{w.TransportCredentials.Clone(), w.failed}
}

// serveHealth opens the listener of WithHealthListener.
func (r *run) serveHealth() error {
	if r.config.healthListener == nil {
		return nil
	}
	listener, err := listen("WithHealthListener", cmp.Or(*r.config.healthListener, defaultHealthListener))
	if err != nil {
		return err
	}
	r.healthAddress = listener.Addr()
	r.healthOnly = grpc.NewServer(grpc.MaxConcurrentStreams(16), grpc.MaxRecvMsgSize(1<<10), grpc.MaxHeaderListSize(4<<10), grpc.ConnectionTimeout(askTimeout))
	healthv1.RegisterHealthServer(r.healthOnly, checkOnly{server: r.Server})
	go func() { _ = r.healthOnly.Serve(listener) }() // until stop
	return nil
}

// checkOnly answers one question of grpc.health.v1: anybody may ask, and a watch would
// be kept for as long as they wish.
type checkOnly struct {
	healthv1.UnimplementedHealthServer
	server *Server
}

// Check answers for the server.
func (c checkOnly) Check(ctx context.Context, request *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	return c.server.health.Check(ctx, request)
}
