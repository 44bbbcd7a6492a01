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

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
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

// healthCheck is how Consul checks the health of the server.
type healthCheck struct {
	address    string        // that Consul calls; empty if only the server reports
	at         string        // where the server asks instead; empty is address
	tls        bool          // whether it speaks TLS there
	serverName string        // that it verifies; empty is nothing
	unproven   bool          // whether only the agent may trust the authority
	certified  bool          // whether the agent presents its certificate, which the server demands
	ttl        time.Duration // in which the server reports instead; 0 is not
	why        string        // it is this one, where no option sets it
}

// String explains it to an operator.
func (h healthCheck) String() string {
	how := "gRPC in plaintext at " + h.address
	if h.tls {
		how = "gRPC over TLS at " + h.address
	}
	if h.certified {
		how += " with the agent's certificate"
	}
	switch {
	case h.ttl > 0:
		how = fmt.Sprintf("the server reports it, three times in %v", h.ttl)
	case h.unproven:
		how += fmt.Sprintf(", verified for %q by the agent's authorities", h.serverName)
	case h.serverName != "":
		how += fmt.Sprintf(", verified for %q", h.serverName)
	case h.tls:
		how += ", the certificate is not verified"
	}
	if h.why != "" {
		how += ": " + h.why
	}
	return how
}

// apply writes it into r.
func (h healthCheck) apply(r *catalog.Registration) {
	r.TTL = h.ttl
	r.CheckAddress, r.CheckTLS, r.CheckServerName, r.CheckSkipVerify = "", false, "", false
	if h.ttl == 0 {
		r.CheckAddress, r.CheckTLS = h.address, h.tls
		r.CheckServerName, r.CheckSkipVerify = h.serverName, h.tls && h.serverName == ""
	}
}

// healthChecks are those that Consul may carry out, the one to prefer first. An agent that
// checks with TLS of its own trusts its own authorities, whatever the system's prove here.
func (r *run) healthChecks(given catalog.Registration, address string, agentTLS bool) []healthCheck {
	at := cmp.Or(given.CheckAddress, address)
	if r.healthOnly != nil {
		return []healthCheck{{address: cmp.Or(given.CheckAddress, reachable(r.healthAddress, address))}}
	}
	host, _, _ := net.SplitHostPort(at)
	plain, unverified := healthCheck{address: at}, healthCheck{address: at, tls: true}
	switch {
	case given.CheckServerName != "":
		proven, unproven := unverified, unverified
		proven.serverName, unproven.serverName, unproven.unproven = given.CheckServerName, given.CheckServerName, true
		if agentTLS {
			return []healthCheck{unproven}
		}
		return []healthCheck{proven, unproven}
	case given.CheckSkipVerify:
		return []healthCheck{unverified}
	case isPlaintext(r.config.creds) && !given.CheckTLS:
		return []healthCheck{plain}
	}
	checks := []healthCheck{{address: at, tls: true, serverName: given.Service}, {address: at, tls: true, serverName: host}, unverified}
	if agentTLS {
		checks = []healthCheck{unverified}
	}
	if given.CheckTLS {
		return checks
	}
	return append(checks, plain)
}

// findCheck finds the first health check that the server answers, called as Consul will
// call it. Where one fails for its TLS, the next one is tried.
func (r *run) findCheck(ctx context.Context, given catalog.Registration, address string) (*healthCheck, error) {
	if credentials := r.config.identity(); credentials != nil && r.healthOnly == nil {
		return r.identified(ctx, credentials, given, address)
	}
	agentTLS, err := r.agentTLS(ctx)
	if err != nil {
		return nil, err
	}
	checks := r.healthChecks(given, address, agentTLS)
	if err := r.reach(ctx, given.SelfCheck, address, checks[0].address); err != nil {
		return nil, err
	}
	var failures []string
	noTLS := false
	for _, check := range checks {
		if check.tls && noTLS {
			continue
		}
		if given.SelfCheck != nil {
			check.at = r.listens()
		}
		_, err := r.ask(ctx, &check)
		var handshake *handshakeError
		switch {
		case err == nil:
			check.ttl = given.TTL
			check.why = strings.Join(failures[:min(len(failures), 1)], "")
			return &check, nil
		case errors.Is(err, errClientCertificate) && agentTLS && namesTLS(given):
			check.certified = true // whether the server accepts it, Consul finds out
			return &check, nil
		case errors.Is(err, errClientCertificate):
			return reported(given, err)
		case !errors.As(err, &handshake):
			return nil, fmt.Errorf("the health check that Consul would make fails, %v: %w%s", check, err, fixOf(err))
		}
		noTLS = noTLS || !handshake.unverified
		if !slices.Contains(failures, err.Error()) {
			failures = append(failures, err.Error())
		}
	}
	return reported(given, errors.New(strings.Join(failures, "; ")))
}

// identified is the health check of a server that demands certificates of services: Consul's
// agent has none, so the server reports its health, once it has a certificate of its own.
func (r *run) identified(ctx context.Context, credentials *identity.Credentials, given catalog.Registration, address string) (*healthCheck, error) {
	if err := r.reach(ctx, given.SelfCheck, address, ""); err != nil {
		return nil, err
	}
	if err := credentials.Ready(); err != nil {
		return nil, err
	}
	return reported(given, errMeshCertificate)
}

// agentTLS reports whether the agent checks with its certificate and authorities
// (enable_agent_tls_for_checks). One that does not let the server read that does not.
func (r *run) agentTLS(ctx context.Context) (bool, error) {
	directory, ok := r.config.directory.(interface {
		Agent(context.Context) (consul.Agent, error)
	})
	if !ok || r.healthOnly != nil || isPlaintext(r.config.creds) {
		return false, nil
	}
	agent, err := inTime(ctx, r, "Agent of the directory", directory.Agent, func(consul.Agent) {})
	if err != nil && !agent.Reached {
		return false, err
	}
	return agent.TLSForChecks, nil
}

// namesTLS reports whether a check over TLS is asked for, and what it verifies.
func namesTLS(given catalog.Registration) bool {
	return given.CheckServerName != "" || given.CheckSkipVerify
}

// listens is where the server reaches its own health service, whatever is advertised.
func (r *run) listens() string {
	if r.healthOnly != nil {
		return r.healthAddress.String()
	}
	return r.listener.Addr().String()
}

// fixOf is what to change for a server that refuses to answer for its health.
func fixOf(err error) string {
	switch status.Code(err) {
	case codes.PermissionDenied, codes.Unauthenticated, codes.Unimplemented:
		return ": let everybody call grpc.health.v1.Health, or set WithHealthListener or the TTL of WithRegistration"
	default:
		return ""
	}
}

// reported is for a server that Consul cannot call, and that reports its health itself: if
// it is to, or if all that Consul lacks is a client's certificate.
func reported(given catalog.Registration, err error) (*healthCheck, error) {
	asGiven := given.CheckAddress != "" || namesTLS(given)
	switch {
	case given.TTL > 0:
		return &healthCheck{ttl: given.TTL}, nil
	case errors.Is(err, errClientCertificate) && !asGiven:
		return &healthCheck{ttl: fallbackTTL, why: err.Error()}, nil
	case errors.Is(err, errClientCertificate) && !errors.Is(err, errMeshCertificate) && namesTLS(given):
		return nil, refusedError{fmt.Errorf("no health check of Consul's would succeed: %w: set enable_agent_tls_for_checks of the agent, which the token must be able to read (agent:read), WithHealthListener, or the TTL of WithRegistration", err)}
	default:
		return nil, refusedError{fmt.Errorf("no health check of Consul's would succeed: %w: set WithHealthListener, or the TTL of WithRegistration", err)}
	}
}

// reach connects to where clients will, and to where Consul will. A function of
// WithRegistration replaces both.
func (r *run) reach(ctx context.Context, given func(context.Context) error, address, check string) error {
	if given != nil {
		if err := given(ctx); err != nil {
			return fmt.Errorf("the SelfCheck of WithRegistration: %w", err)
		}
		return nil
	}
	if err := r.connect(ctx, address); err != nil {
		return r.unreached(err)
	}
	if check == "" || check == address {
		return nil
	}
	if err := r.connect(ctx, check); err != nil {
		return fmt.Errorf("%w: set the CheckAddress of WithRegistration to where the agent reaches the server", err)
	}
	return nil
}

func (r *run) connect(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := r.config.runtime.network.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// selfCheck asks the server for its health as Consul does, and connects to the address
// that it advertises.
func (r *run) selfCheck(ctx context.Context, check *healthCheck, given func(context.Context) error, address string) error {
	if err := r.healthy(); err != nil {
		return err
	}
	if err := r.reach(ctx, given, address, check.address); err != nil || check.address == "" || check.certified {
		return err
	}
	answer, err := r.ask(ctx, check)
	if err == nil && answer != healthv1.HealthCheckResponse_SERVING {
		err = fmt.Errorf("its health service answers %v", answer)
	}
	return err
}

// errMeshCertificate is errClientCertificate of a server whose callers are services.
var errMeshCertificate = fmt.Errorf("%w: it accepts those of services of the mesh alone", errClientCertificate)

// errClientCertificate is what Consul's agent cannot give, unless it checks with TLS of its own.
var errClientCertificate = errors.New("the server demands a client's certificate, which Consul's agent does not present")

// handshakeError is why no secured connection, or none in plaintext, came to be.
type handshakeError struct {
	error
	unverified bool // only the certificate was refused
}

func (e *handshakeError) Unwrap() error { return e.error }

// ask asks for the health as Consul's agent does: with its settings of TLS and no
// certificate of its own.
func (r *run) ask(ctx context.Context, h *healthCheck) (healthv1.HealthCheckResponse_ServingStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var demanded atomic.Bool
	var failed atomic.Pointer[handshakeError]
	at := cmp.Or(h.at, h.address)
	conn, err := grpc.NewClient("passthrough:///"+at, append(r.config.runtime.dialer(), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
		grpc.WithTransportCredentials(witness{h.credentials(&demanded), &failed}))...)
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
	case code == codes.Unavailable && !h.tls && r.connect(ctx, at) == nil:
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
		// Consul itself skips it, or verifies by authorities that this machine may lack.
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
	listener, err := r.listen("WithHealthListener", cmp.Or(*r.config.healthListener, defaultHealthListener))
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
// be held for any time.
type checkOnly struct {
	healthv1.UnimplementedHealthServer
	server *Server
}

// Check answers for the server.
func (c checkOnly) Check(ctx context.Context, request *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	return c.server.health.Check(ctx, request)
}
