package cli

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite"
)

// Security is how the connections are protected. The zero value is TLS with the
// system's roots and no certificate of one's own.
type Security struct {
	Plaintext  bool
	CACert     string // file of roots, PEM
	Cert, Key  string // files of one's own certificate and its key, PEM
	ServerName string // that the server must prove; empty is the target's
}

// Option is the same for a channel.
func (s Security) Option() (meshlite.ClientOption, error) {
	settings, err := s.settings()
	switch {
	case err != nil:
		return nil, err
	case settings == nil:
		return meshlite.WithPlaintext(), nil
	default:
		return meshlite.WithTLS(settings), nil
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
