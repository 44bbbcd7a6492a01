package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/identity"
)

// probeTimeout is for one instance.
const probeTimeout = 2 * time.Second

// state is the state of an instance as the probe found it.
type state uint8

const (
	unreachable state = iota // no connection can be made
	notServing               // it reports so
	uncallable               // it accepts connections, but a client's calls would fail
	unreported               // it answers, but does not report its health
	serving
)

// probeResult is the outcome of a health call to an instance.
type probeResult struct {
	state     state
	text, fix string
}

// prober calls the health service of instances.
type prober struct {
	security    credentials.TransportCredentials // nil is plaintext
	certificate bool                             // whether it presents one
}

// probe calls one over a connection like a client's: by gRPC, or by HTTP if it is registered with
// that scheme.
func (p prober) probe(ctx context.Context, service, scheme, address string) probeResult {
	if ctx.Err() != nil {
		return probeResult{uncallable, "was not probed", "the time is over: give more, or name fewer services"}
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if err := connect(ctx, address); err != nil {
		return explainDial(err)
	}
	if isHTTP(scheme) {
		return probeHTTP(ctx, scheme, address)
	}
	begin := time.Now()
	health, err := p.health(ctx, service, address)
	switch {
	case err != nil:
		return p.explain(ctx, address, status.Convert(err))
	case health == healthv1.HealthCheckResponse_SERVING:
		return probeResult{state: serving, text: fmt.Sprintf("SERVING in %s", time.Since(begin).Round(10*time.Microsecond))}
	default:
		return probeResult{notServing, "reports " + health.String(), "see its log: it may be starting or draining, or its own check fails"}
	}
}

// connect checks that a connection can be made.
func connect(ctx context.Context, address string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

func explainDial(err error) probeResult {
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return probeResult{unreachable, "refuses connections", "is the process running, and listening there?"}
	case errors.As(err, &dns):
		return probeResult{unreachable, fmt.Sprintf("its host %q cannot be resolved here", dns.Name), "can clients resolve it? Register an IP address."}
	case errors.As(err, &timeout) && timeout.Timeout():
		return probeResult{unreachable, "cannot be reached in time", "is the machine up, and does a firewall block the connection?"}
	default:
		return probeResult{unreachable, "cannot be reached: " + err.Error(), "is the address right as seen from here?"}
	}
}

func (p prober) health(ctx context.Context, service, address string) (healthv1.HealthCheckResponse_ServingStatus, error) {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
		grpc.WithMaxHeaderListSize(16 << 10), // anything may listen there
	}
	if p.security != nil {
		options = append(options, grpc.WithTransportCredentials(p.security))
	}
	//lint:ignore SA1019 gRPC itself reads a name that credentials pin from there
	if p.security == nil || p.security.Info().ServerName == "" {
		options = append(options, grpc.WithAuthority(url.PathEscape(service)))
	}
	conn, err := grpc.NewClient("passthrough:///"+address, options...)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	response, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	return response.GetStatus(), err
}

// explain says why a health call failed. gRPC and crypto/tls have no codes for the reasons
// of a failed handshake, so it goes by their text.
func (p prober) explain(ctx context.Context, address string, s *status.Status) probeResult {
	has := func(part string) bool { return strings.Contains(s.Message(), part) }
	switch {
	case s.Code() == codes.Unimplemented, s.Code() == codes.NotFound:
		return probeResult{unreported, "answers, but has no health service", "register google.golang.org/grpc/health, or build it by meshlite.NewServer, which does; if it is an HTTP service, register it with the metadata scheme=http or https"}
	case s.Code() == codes.PermissionDenied, s.Code() == codes.Unauthenticated:
		return probeResult{unreported, "answers, but does not report its health", "allow everybody to call grpc.health.v1.Health, or present a certificate by --cert and --key"}
	case has("HTTP/1.1 header"):
		return probeResult{unreported, "speaks HTTP/1, not gRPC", "if it is an HTTP service, register it with the metadata scheme=http; if it does not belong to the mesh, name the services to check"}
	case has("identity: "):
		return p.refused(s.Message())
	case p.security != nil && has("first record does not look like a TLS handshake"):
		return probeResult{uncallable, "speaks plaintext, not TLS", "leave out --tls, --cacert, --cert, --key, --identity and --servername"}
	case has("signed by unknown authority"):
		return probeResult{uncallable, "presents a certificate of an unknown authority", "name the file of its authority by --cacert"}
	case has("certificate required"):
		return probeResult{uncallable, "requires a client certificate", "present one by --cert and --key, or that of a service by --identity"}
	case has("not valid for any names"):
		return probeResult{uncallable, "presents a certificate without names (" + innermost(s.Message()) + ")", "if it is of Consul's CA, with a SPIFFE id, call as a service by --identity"}
	case wrongName(s.Message()):
		return probeResult{uncallable, "presents a certificate of another name (" + innermost(s.Message()) + ")", "name what it proves by --servername"}
	case has("certificate has expired"):
		return probeResult{uncallable, "presents a certificate that is not valid now (" + innermost(s.Message()) + ")", "renew it, and check both clocks"}
	case p.security != nil && s.Code() == codes.Unavailable && wantsCertificate(ctx, address):
		return p.withoutCertificate()
	case p.security == nil && speaksTLS(ctx, address):
		return probeResult{uncallable, "speaks TLS, but was called in plaintext", "add --tls, or --cacert with the file of its authority"}
	case s.Code() == codes.DeadlineExceeded:
		return probeResult{uncallable, "accepts connections but does not answer in time", "is the process stalled or overloaded?"}
	default:
		return probeResult{uncallable, fmt.Sprintf("answers %v: %s", s.Code(), innermost(s.Message())), "see its log"}
	}
}

// refused is for a connection that package identity has refused, here or there.
func (p prober) refused(message string) probeResult {
	_, reason, _ := strings.Cut(message, "identity: ")
	reason, detail, _ := strings.Cut(strings.TrimSuffix(reason, `"`), ": ")
	fix := "see its log, and `meshlite certs`"
	switch identity.Reason(reason) {
	case identity.WrongService:
		fix = "another service listens there: is the registration an old one?"
	case identity.SpeaksPlaintext:
		return probeResult{uncallable, "speaks plaintext, not TLS", "give it meshlite.ConsulIdentity, or leave --identity out"}
	case identity.Expired, identity.NotYetValid:
		fix = "renew it, and check both clocks"
	}
	return probeResult{uncallable, "is refused for " + reason + " (" + detail + ")", fix}
}

// innermost removes the prefixes that the layers in between have added to a message.
func innermost(message string) string {
	if _, inner, found := strings.Cut(message, `desc = "`); found {
		message = strings.TrimSuffix(inner, `"`)
	}
	for _, layer := range []string{"transport: ", "authentication handshake failed: ", "tls: failed to verify certificate: ", "x509: "} {
		message = strings.TrimPrefix(message, layer)
	}
	return message
}

// withoutCertificate is for a server that closes the connection and requests certificates. A client of
// TLS 1.3 writes before it receives the alert, so the reason is often lost.
func (p prober) withoutCertificate() probeResult {
	if !p.certificate {
		return probeResult{uncallable, "requires a client certificate", "present one by --cert and --key, or that of a service by --identity"}
	}
	return probeResult{uncallable, "requires a client certificate and rejects the one of --cert", "is it valid, and from an authority that the server trusts?"}
}

// wantsCertificate reports whether a server requests a certificate in a TLS handshake.
func wantsCertificate(ctx context.Context, address string) (requested bool) {
	handshake(ctx, address, func() { requested = true })
	return requested
}

// speaksTLS reports whether a server answers a TLS handshake, even with an alert.
func speaksTLS(ctx context.Context, address string) bool {
	err := handshake(ctx, address, func() {})
	var refusal *net.OpError
	return err == nil || errors.As(err, &refusal) && refusal.Op == "remote error" // an alert
}

// handshake does a TLS handshake with any server. It calls requested if that requests a
// certificate.
func handshake(ctx context.Context, address string, requested func()) error {
	dialer := tls.Dialer{Config: &tls.Config{
		InsecureSkipVerify: true, // nothing is sent to it
		NextProtos:         []string{"h2"},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			requested()
			return &tls.Certificate{}, nil // none
		},
	}}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}
