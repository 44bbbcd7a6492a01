package benchkit

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// Security makes what secures an end whose directory is given, and what closes it.
type Security func(*consul.Directory) (_ meshlite.Option, end func(), _ error)

// Plaintext is the [Security] of an end without any.
func Plaintext(*consul.Directory) (meshlite.Option, func(), error) {
	return meshlite.WithPlaintext(), func() {}, nil
}

// MutualTLS are credentials as users have them, of a service of Consul's CA.
func MutualTLS(service string) Security {
	return func(directory *consul.Directory) (meshlite.Option, func(), error) {
		source, err := directory.Identity(service)
		if err != nil {
			return nil, nil, err
		}
		mtls, err := identity.New(source, identity.WithLogger(silent()))
		if err != nil {
			return nil, nil, err
		}
		return meshlite.WithTransportCredentials(mtls), mtls.Close, nil
	}
}

// PlainTLS are the settings of [MutualTLS] with crypto/tls alone. Client asks the agent at an
// address for the certificate.
func PlainTLS(client *http.Client, agent, service string) (*tls.Config, error) {
	var leaf struct{ CertPEM, PrivateKeyPEM string }
	var roots struct{ Roots []struct{ RootCert string } }
	for path, v := range map[string]any{"leaf/" + service: &leaf, "roots": &roots} {
		if err := get(client, "http://"+agent+"/v1/agent/connect/ca/"+path, v); err != nil {
			return nil, err
		}
	}
	pair, err := tls.X509KeyPair([]byte(leaf.CertPEM), []byte(leaf.PrivateKeyPEM))
	if err != nil {
		return nil, err
	}
	trusted := x509.NewCertPool()
	for _, root := range roots.Roots {
		trusted.AppendCertsFromPEM([]byte(root.RootCert))
	}
	return ChainOnly(pair, trusted), nil
}

func get(client *http.Client, url string, v any) error {
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	return json.NewDecoder(response.Body).Decode(v)
}

// ChainOnly is mutual TLS 1.3 that verifies the chain of the other end, whose name does not
// count, and resumes nothing.
func ChainOnly(pair tls.Certificate, roots *x509.CertPool) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"h2"},
		SessionTicketsDisabled: true, InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return errors.New("no certificate")
			}
			_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
			return err
		},
	}
}
