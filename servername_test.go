package meshlite_test

import (
	"crypto/tls"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/internal/certtest"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// A TLS name that the user pins is the one that must be proven, through every kind of
// target.
//
// Case X16
func TestAChannelProvesTheNameThatItsOwnerPins(t *testing.T) {
	m := newMesh(t)
	authority := certtest.New(t)
	shop := &shop{name: "a"}
	m.serveSecured(shop, meshlite.WithTLS(&tls.Config{Certificates: []tls.Certificate{authority.Issue(t, "catalog", "alias", "127.0.0.1")}}))
	address := m.instances("catalog")[0]
	settings := func(name string) *tls.Config { return &tls.Config{RootCAs: authority.Roots, ServerName: name} }
	for name, pinned := range map[string]func(name string) []meshlite.ClientOption{
		"WithTLS": func(name string) []meshlite.ClientOption {
			return []meshlite.ClientOption{meshlite.WithTLS(settings(name))}
		},
		"WithAuthority": func(name string) []meshlite.ClientOption {
			return []meshlite.ClientOption{meshlite.WithTLS(settings("")), meshlite.WithDialOptions(grpc.WithAuthority(name))}
		},
		"credentials of a dial option": func(name string) []meshlite.ClientOption {
			return []meshlite.ClientOption{meshlite.WithTLS(settings("")), meshlite.WithDialOptions(grpc.WithTransportCredentials(credentials.NewTLS(settings(name))))}
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, target := range []string{"consul:///catalog", "dns:///" + address, "passthrough:///" + address} {
				// One runtime, and so one cache: the answer to one name is not one to another.
				right := tlsClient(t, m, target, pinned("alias"))
				if got := get(t, right, "one"); got != "a" {
					t.Errorf("%s: the right name gets %q", target, got)
				}
				wrong := tlsClient(t, m, target, pinned("wrong"))
				if _, err := wrong.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "one"}); status.Code(err) != codes.Unavailable {
					t.Errorf("%s: a name that the certificate has not gets %v, want Unavailable", target, err)
				}
			}
		})
	}
	if got := get(t, tlsClient(t, m, "consul:///catalog", []meshlite.ClientOption{meshlite.WithTLS(settings(""))}), "two"); got != "a" {
		t.Errorf("without a pin the service's name gets %q", got)
	}
}

// tlsClient is one of a mesh with options that say how to be secure.
func tlsClient(t *testing.T, m *mesh, target string, opts []meshlite.ClientOption) catalogv1.CatalogServiceClient {
	t.Helper()
	conn, err := meshlite.NewClient(target, append([]meshlite.ClientOption{
		meshlite.WithDirectory(m.directory), meshlite.WithLogger(silent), meshlite.WithRuntime(m.runtime),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return catalogv1.NewCatalogServiceClient(conn)
}
