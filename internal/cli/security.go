package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// Security is how the connections are protected. The zero value is TLS with the
// system's roots and no certificate of one's own.
type Security struct {
	Plaintext  bool
	CACert     string // file of roots, PEM
	Cert, Key  string // files of one's own certificate and its key, PEM
	ServerName string // that the server must prove; empty is the target's
	Identity   string // service whose certificate Consul's CA signs, instead of files
}

// Credentials are the same for gRPC, with what ends them. A certificate of Consul's CA comes
// from the agent of directory, which is used for that alone. That of files is one of a service
// if it has a SPIFFE id; what the server is, is verified as servers and channels do it then.
func (s Security) Credentials(directory *consul.Directory, log *slog.Logger) (_ credentials.TransportCredentials, end func(), _ error) {
	source, err := s.source(directory, log)
	if err != nil {
		return nil, nil, err
	}
	if source != nil {
		mtls, err := identity.New(source, identity.WithLogger(log))
		if err != nil {
			return nil, nil, err
		}
		if s.ServerName != "" {
			//lint:ignore SA1019 of these credentials alone: other options name the authority, too
			_ = mtls.OverrideServerName(s.ServerName)
		}
		return mtls, mtls.Close, nil
	}
	settings, err := s.settings()
	switch {
	case err != nil:
		return nil, nil, err
	case settings == nil:
		return insecure.NewCredentials(), func() {}, nil
	default:
		return credentials.NewTLS(settings), func() {}, nil
	}
}

// ofAgent are Credentials by the agent that the environment names.
func (s Security) ofAgent() (_ credentials.TransportCredentials, end func(), _ error) {
	directory, err := dialAgent("")
	if err != nil {
		return nil, nil, err
	}
	creds, closeCreds, err := s.Credentials(directory, slog.New(slog.DiscardHandler))
	if err != nil {
		directory.Close()
		return nil, nil, err
	}
	return creds, func() { closeCreds(); directory.Close() }, nil
}

// source is that of a service's certificates, nil for other security.
func (s Security) source(directory *consul.Directory, log *slog.Logger) (identity.Source, error) {
	if s.Identity != "" {
		if s.Plaintext || s.CACert != "" || s.Cert != "" || s.Key != "" {
			return nil, Usagef("--identity %q together with --plaintext, --cacert, --cert or --key: Consul's CA has certificate and roots, leave one out", s.Identity)
		}
		source, err := directory.Identity(s.Identity)
		if err != nil {
			return nil, &Error{ExitUsage, err}
		}
		return source, nil
	}
	if s.Plaintext || s.CACert == "" || s.Cert == "" || s.Key == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(s.Cert, s.Key)
	if err != nil {
		return nil, nil // settings says so
	}
	if _, err := identity.IDOf(pair.Leaf); err != nil {
		return nil, nil
	}
	source, err := identity.Files(identity.FilesConfig{Certificate: s.Cert, Key: s.Key, Roots: s.CACert, Logger: log})
	if err != nil {
		return nil, &Error{ExitUsage, err}
	}
	return source, nil
}

// certificateTimeout is how long a command waits for its certificate of Consul's CA.
const certificateTimeout = 5 * time.Second

// awaitCertificate returns why there is none, so that no call has to time out for that.
func awaitCertificate(ctx context.Context, creds credentials.TransportCredentials) error {
	mtls, ok := creds.(*identity.Credentials)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, certificateTimeout)
	defer cancel()
	for {
		err := mtls.Ready()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

// settings are those of TLS, nil for plaintext.
func (s Security) settings() (*tls.Config, error) {
	files := Security{CACert: s.CACert, Cert: s.Cert, Key: s.Key, ServerName: s.ServerName}
	switch {
	case s.Plaintext && files != Security{}:
		return nil, Usagef("--plaintext together with --cacert, --cert, --key or --servername: plaintext checks none of them, leave one out")
	case s.Plaintext:
		return nil, nil
	case (s.Cert == "") != (s.Key == ""):
		return nil, Usagef("--cert %q, --key %q: one needs the other", s.Cert, s.Key)
	}
	settings := &tls.Config{ServerName: s.ServerName}
	if s.CACert != "" {
		roots, err := readRoots(s.CACert)
		if err != nil {
			return nil, err
		}
		settings.RootCAs = roots
	}
	if s.Cert != "" {
		pair, err := tls.LoadX509KeyPair(s.Cert, s.Key)
		if err != nil {
			return nil, Usagef("--cert %q, --key %q: %w", s.Cert, s.Key, err)
		}
		settings.Certificates = []tls.Certificate{pair}
	}
	return settings, nil
}

func readRoots(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, Usagef("--cacert: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, &Error{ExitUsage, fmt.Errorf("--cacert %q holds no certificate: give a PEM file", file)}
	}
	return roots, nil
}

// withFix is the message of a failure, with what to do about it if gRPC's has none.
func (s Security) withFix(failure *status.Status, timeout time.Duration) string {
	text := failure.Message()
	if fix := s.fix(failure.Code(), text, timeout); fix != "" {
		text += ": " + fix
	}
	return text
}

// fix goes by the text of gRPC and crypto/tls, which have no codes for these errors.
func (s Security) fix(code codes.Code, message string, timeout time.Duration) string {
	has := func(part string) bool { return strings.Contains(message, part) }
	switch {
	case !s.Plaintext && has("first record does not look like a TLS handshake"):
		return "the server speaks plaintext: add --plaintext"
	case !s.Plaintext && has("signed by unknown authority"):
		return "name the file of its authority by --cacert"
	case !s.Plaintext && (has("x509: certificate is") || has("x509: cannot validate certificate for")):
		return "name what the certificate proves by --servername"
	case has("certificate has expired"):
		return "it must be renewed, or one of the clocks is wrong"
	case s.Plaintext && has("error reading server preface"):
		return "if the server speaks TLS, leave --plaintext out"
	case has("identity: " + string(identity.WrongService)):
		return "another service listens there, or name the one that you mean by --servername"
	case has("identity: " + string(identity.UnknownService)):
		return "name the service that listens there by --servername"
	case !s.Plaintext && s.Identity == "" && (has("certificate required") || has("bad certificate")):
		return "show the certificate of a service by --identity, or one by --cert and --key"
	case code == codes.DeadlineExceeded:
		return fmt.Sprintf("is --timeout %v enough?", timeout)
	case has("connect: connection refused"):
		return "is a server running there?"
	case has("the resolver has found no endpoint"):
		return "is the name of the host right?"
	default:
		return ""
	}
}
