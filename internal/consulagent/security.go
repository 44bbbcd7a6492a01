package consulagent

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strconv"
)

// Security is what an agent needs to be run as in production: its APIs by TLS alone, gossip
// encrypted, ACLs that deny by default.
type Security struct {
	CAFile, CertFile, KeyFile string // PEM; the certificate is of 127.0.0.1, localhost and server.dc1.consul
	GossipKey                 string // 32 bytes in base64
	Management                string // the token with all rights, a UUID
	ForChecks                 bool   // the certificate is presented to services that are checked, too
}

// flags are those of the ports, and of all that is secured. Without security they are those
// of plaintext.
func (s *Security) flags(http, grpc int) []string {
	if s == nil {
		return []string{"-http-port=" + strconv.Itoa(http), "-grpc-port=" + strconv.Itoa(grpc), "-grpc-tls-port=-1"}
	}
	return []string{
		"-http-port=-1", "-https-port=" + strconv.Itoa(http), "-grpc-port=-1", "-grpc-tls-port=" + strconv.Itoa(grpc),
		"-encrypt=" + s.GossipKey,
		"-hcl", fmt.Sprintf("enable_agent_tls_for_checks = %t", s.ForChecks),
		"-hcl", fmt.Sprintf(`tls { defaults { ca_file = %q cert_file = %q key_file = %q verify_outgoing = true } }`, s.CAFile, s.CertFile, s.KeyFile),
		"-hcl", fmt.Sprintf(`acl { enabled = true default_policy = "deny" tokens { initial_management = %q agent = %[1]q } }`, s.Management),
	}
}

// clientConfig trusts the authority alone.
func (s *Security) clientConfig() (*tls.Config, error) {
	text, err := os.ReadFile(s.CAFile)
	if err != nil {
		return nil, fmt.Errorf("consul: CAFile: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("consul: CAFile %q has no certificate: write it in PEM", s.CAFile)
	}
	return &tls.Config{RootCAs: roots}, nil
}
