package resolver_test

import (
	"crypto/tls"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/internal/certtest"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// bundle is a credentials.Bundle of transport credentials alone.
type bundle struct {
	transport credentials.TransportCredentials
}

func (b bundle) TransportCredentials() credentials.TransportCredentials { return b.transport }
func (b bundle) PerRPCCredentials() credentials.PerRPCCredentials       { return nil }
func (b bundle) NewWithMode(string) (credentials.Bundle, error)         { return b, nil }

// A TLS name that the user pins is the one that must be proven, through every kind of
// target.
//
// Case X16: A TLS name that the user pins is the one that must be proven, through every kind
// of target.
func TestThePinnedNameIsTheOneThatIsProven(t *testing.T) {
	authority := certtest.New(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{authority.Issue(t, "greet", "alias")}})))
	healthv1.RegisterHealthServer(server, health.NewServer())
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()
	m := newMesh(t)
	for _, name := range []string{"greet", "other"} {
		port := listener.Addr().(*net.TCPAddr).Port
		if err := m.agent.Register(consultest.Service{ID: name, Name: name, Address: "127.0.0.1", Port: port, Tags: []string{"a"}}); err != nil {
			t.Fatal(err)
		}
	}
	pin := func(name string) credentials.TransportCredentials {
		return credentials.NewTLS(&tls.Config{RootCAs: authority.Roots, ServerName: name})
	}
	overridden := func(name string) credentials.TransportCredentials {
		creds := pin("")
		//lint:ignore SA1019 users still call it
		if err := creds.OverrideServerName(name); err != nil {
			t.Fatal(err)
		}
		return creds
	}
	for name, pinned := range map[string]func(name string) []grpc.DialOption{
		"tls.Config": func(name string) []grpc.DialOption {
			return []grpc.DialOption{grpc.WithTransportCredentials(pin(name))}
		},
		"WithAuthority": func(name string) []grpc.DialOption {
			return []grpc.DialOption{grpc.WithTransportCredentials(pin("")), grpc.WithAuthority(name)}
		},
		"OverrideServerName": func(name string) []grpc.DialOption {
			return []grpc.DialOption{grpc.WithTransportCredentials(overridden(name))}
		},
		"Bundle": func(name string) []grpc.DialOption {
			return []grpc.DialOption{grpc.WithCredentialsBundle(bundle{pin(name)})}
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, target := range []string{"consul:///greet", "consul:///other", "consul:///greet?tag=a&policy=round_robin", "consul:///greet?policy=grpc:pick_first"} {
				dial := func(proven string) error {
					options := append(resolver.DialOptions(m.directory(), resolver.WithLogger(silent)), pinned(proven)...)
					conn, err := grpc.NewClient(target, options...)
					if err != nil {
						t.Fatal(err)
					}
					defer conn.Close()
					return call(conn)
				}
				if err := dial("alias"); err != nil {
					t.Errorf("%s: the pinned name, which the certificate has, is refused: %v", target, err)
				}
				if err := dial("wrong"); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "not wrong") {
					t.Errorf("%s: a pinned name that the certificate has not: %v, want a refusal", target, err)
				}
			}
		})
	}
	// Without a pin it is the service's name.
	for target, proven := range map[string]bool{"consul:///greet": true, "consul:///other": false} {
		conn, err := grpc.NewClient(target, append(resolver.DialOptions(m.directory(), resolver.WithLogger(silent)), grpc.WithTransportCredentials(pin("")))...)
		if err != nil {
			t.Fatal(err)
		}
		if err := call(conn); (err == nil) != proven {
			t.Errorf("%s without a pin: %v", target, err)
		}
		conn.Close()
	}
}
