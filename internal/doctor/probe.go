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
)

// probeTimeout is for one instance.
const probeTimeout = 2 * time.Second

// state is what an instance's answer means.
type state uint8

const (
	gone    state = iota // nobody is there
	sick                 // it says so
	odd                  // it is there, and cannot be called
	unclear              // it is there, and does not tell
	serving
)

// answer is what an instance said.
type answer struct {
	state     state
	text, fix string
}

// prober asks instances.
type prober struct{ tls *tls.Config }

// ask asks one for its health, by a connection as a client makes one.
func (p prober) ask(ctx context.Context, service, address string) answer {
	if ctx.Err() != nil {
		return answer{odd, "was not asked", "there was no time left: give more, or name fewer services"}
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if err := connect(ctx, address); err != nil {
		return absent(err)
	}
	begin := time.Now()
	told, err := p.health(ctx, service, address)
	switch {
	case err != nil:
		return p.explain(ctx, address, status.Convert(err))
	case told == healthv1.HealthCheckResponse_SERVING:
		return answer{state: serving, text: fmt.Sprintf("SERVING in %s", time.Since(begin).Round(10*time.Microsecond))}
	default:
		return answer{sick, "says " + told.String(), "see its log: it may be starting or draining, or its own check fails"}
	}
}

// connect finds out whether anybody listens.
func connect(ctx context.Context, address string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

func absent(err error) answer {
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return answer{gone, "refuses connections", "is the process running, and listening there?"}
	case errors.As(err, &dns):
		return answer{gone, fmt.Sprintf("its host %q is not known here", dns.Name), "can clients resolve it? Register an IP address."}
	case errors.As(err, &timeout) && timeout.Timeout():
		return answer{gone, "cannot be reached in time", "is the machine up, and does a firewall let us through?"}
	default:
		return answer{gone, "cannot be reached: " + err.Error(), "is the address right as seen from here?"}
	}
}

func (p prober) health(ctx context.Context, service, address string) (healthv1.HealthCheckResponse_ServingStatus, error) {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
		grpc.WithMaxHeaderListSize(16 << 10), // anything may listen there
	}
	if p.tls != nil {
		options = append(options, grpc.WithTransportCredentials(credentials.NewTLS(p.tls)))
	}
	if p.tls == nil || p.tls.ServerName == "" {
		options = append(options, grpc.WithAuthority(url.PathEscape(service)))
	}
	conn, err := grpc.NewClient("passthrough:///"+address, options...)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	told, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	return told.GetStatus(), err
}

// explain is why there was no answer to the question for health. gRPC and
// crypto/tls have no codes for what is wrong with a handshake.
func (p prober) explain(ctx context.Context, address string, s *status.Status) answer {
	has := func(part string) bool { return strings.Contains(s.Message(), part) }
	switch {
	case s.Code() == codes.Unimplemented, s.Code() == codes.NotFound:
		return answer{unclear, "answers, but not for its health", "register google.golang.org/grpc/health, or build it by meshlite.NewServer, which does"}
	case s.Code() == codes.PermissionDenied, s.Code() == codes.Unauthenticated:
		return answer{unclear, "answers, but does not tell us its health", "let everybody call grpc.health.v1.Health, or show a certificate by --cert and --key"}
	case has("HTTP/1.1 header"):
		return answer{unclear, "speaks HTTP/1, not gRPC", "name the services to look at, if it is none of the mesh"}
	case p.tls != nil && has("first record does not look like a TLS handshake"):
		return answer{odd, "speaks plaintext, not TLS", "leave out --tls, --cacert, --cert, --key and --servername"}
	case has("signed by unknown authority"):
		return answer{odd, "shows a certificate of an unknown authority", "name the file of its authority by --cacert"}
	case has("certificate required"):
		return answer{odd, "wants a certificate of us", "show one by --cert and --key"}
	case wrongName(s.Message()):
		return answer{odd, "shows a certificate of another name (" + gist(s.Message()) + ")", "name what it proves by --servername"}
	case has("certificate has expired"):
		return answer{odd, "shows a certificate that is not valid now (" + gist(s.Message()) + ")", "renew it, and look at both clocks"}
	case p.tls != nil && s.Code() == codes.Unavailable && wantsCertificate(ctx, address):
		return p.unproven()
	case p.tls == nil && speaksTLS(ctx, address):
		return answer{odd, "speaks TLS, and was asked in plaintext", "add --tls, or --cacert with the file of its authority"}
	case s.Code() == codes.DeadlineExceeded:
		return answer{odd, "takes connections and does not answer in time", "is the process frozen, or too busy?"}
	default:
		return answer{odd, fmt.Sprintf("answers %v: %s", s.Code(), gist(s.Message())), "see its log"}
	}
}

// gist is what a message says without the layers that it came through.
func gist(message string) string {
	if _, inner, found := strings.Cut(message, `desc = "`); found {
		message = strings.TrimSuffix(inner, `"`)
	}
	for _, layer := range []string{"transport: ", "authentication handshake failed: ", "tls: failed to verify certificate: ", "x509: "} {
		message = strings.TrimPrefix(message, layer)
	}
	return message
}

// unproven is for a server that has hung up and asks for certificates. A client of
// TLS 1.3 writes before it learns why, so that the reason is often lost.
func (p prober) unproven() answer {
	if len(p.tls.Certificates) == 0 {
		return answer{odd, "wants a certificate of us", "show one by --cert and --key"}
	}
	return answer{odd, "wants a certificate of us, and hangs up on the one of --cert", "is it valid, and of an authority that the server trusts?"}
}

// wantsCertificate says whether a server asks for a certificate in a TLS handshake.
func wantsCertificate(ctx context.Context, address string) (asked bool) {
	handshake(ctx, address, func() { asked = true })
	return asked
}

// speaksTLS says whether a server answers a TLS handshake, well or not.
func speaksTLS(ctx context.Context, address string) bool {
	err := handshake(ctx, address, func() {})
	var refusal *net.OpError
	return err == nil || errors.As(err, &refusal) && refusal.Op == "remote error" // an alert
}

// handshake is one of TLS with any server, which calls asked if that wants a certificate.
func handshake(ctx context.Context, address string, asked func()) error {
	dialer := tls.Dialer{Config: &tls.Config{
		InsecureSkipVerify: true, // nothing is told to it
		NextProtos:         []string{"h2"},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			asked()
			return &tls.Certificate{}, nil // none
		},
	}}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}
