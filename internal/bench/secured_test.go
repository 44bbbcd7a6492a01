package bench

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/internal/certtest"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// securedService is the catalog by mutual TLS.
const securedService = "secured-catalog"

// mutualTLS are credentials as users have them.
func mutualTLS(directory *consul.Directory, service string) (*identity.Credentials, error) {
	source, err := directory.Identity(service)
	if err != nil {
		return nil, err
	}
	return identity.New(source, identity.WithLogger(silent()))
}

// plainTLS are the same settings with crypto/tls alone: TLS 1.3, a certificate of Consul's CA at
// both ends, the chain of the other end verified, no resumption.
func plainTLS(client *http.Client, consul, service string) (*tls.Config, error) {
	var leaf struct{ CertPEM, PrivateKeyPEM string }
	var roots struct{ Roots []struct{ RootCert string } }
	for path, v := range map[string]any{"leaf/" + service: &leaf, "roots": &roots} {
		response, err := client.Get("http://" + consul + "/v1/agent/connect/ca/" + path)
		if err != nil {
			return nil, err
		}
		err = json.NewDecoder(response.Body).Decode(v)
		response.Body.Close()
		if err != nil {
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
	return chainOnly(pair, trusted), nil
}

func chainOnly(pair tls.Certificate, roots *x509.CertPool) *tls.Config {
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

func serveSecuredBare(agent *consultest.Server, delays []atomic.Int64) ([]string, error) {
	settings, err := plainTLS(&http.Client{Transport: agent.Transport()}, "127.0.0.1:8500", service)
	if err != nil {
		return nil, err
	}
	var addresses []string
	for i := range delays {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		server := grpc.NewServer(grpc.Creds(credentials.NewTLS(settings)))
		catalogv1.RegisterCatalogServiceServer(server, echo{name: strconv.Itoa(i), delay: &delays[i]})
		go func() { _ = server.Serve(listener) }()
		addresses = append(addresses, listener.Addr().String())
	}
	return addresses, nil
}

func startSecuredBare(t testing.TB, b *backends) dial {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	settings, err := plainTLS(client, b.Consul, "storefront")
	if err != nil {
		t.Fatal(err)
	}
	return bareDial("round_robin", b.Secured, credentials.NewTLS(settings))
}

func startSecuredMesh(_ testing.TB, b *backends) dial {
	return func(t testing.TB) clients {
		t.Helper()
		directory, err := consul.New(consul.Config{Address: b.Consul, Logger: silent()})
		if err != nil {
			t.Fatal(err)
		}
		mtls, err := mutualTLS(directory, "storefront")
		if err != nil {
			t.Fatal(err)
		}
		options := []meshlite.ClientOption{meshlite.WithBalancer("least_request")}
		for _, o := range meshOptions(directory, meshlite.WithTransportCredentials(mtls)) {
			options = append(options, o)
		}
		conn, err := meshlite.NewClient("consul:///"+securedService, options...)
		if err != nil {
			t.Fatal(err)
		}
		return &channels{conns: []*grpc.ClientConn{conn}, then: func() { mtls.Close(); directory.Close() }}
	}
}

// handshake is one end of a handshake, which returns the connection that it has secured.
type handshake func(net.Conn) (net.Conn, error)

// handshakes are pairs of ends by their names in the table.
func handshakes(t testing.TB) map[string][2]handshake {
	t.Helper()
	authority := certtest.New(t)
	pair := authority.IssueID(t, time.Hour, "spiffe://bench.consul/ns/default/dc/dc1/svc/catalog")
	snapshot, err := identity.NewSnapshot(pair, []*x509.Certificate{authority.Certificate()})
	if err != nil {
		t.Fatal(err)
	}
	feed := &identity.Feed{}
	feed.Publish(snapshot)
	mtls, err := identity.New(feed, identity.WithLogger(silent()))
	if err != nil {
		t.Fatal(err)
	}
	plain := func(settings *tls.Config) [2]handshake {
		end := func(made func(net.Conn, *tls.Config) *tls.Conn) handshake {
			return func(raw net.Conn) (net.Conn, error) {
				secured := made(raw, settings)
				return secured, secured.Handshake()
			}
		}
		return [2]handshake{end(tls.Client), end(tls.Server)}
	}
	resumed := chainOnly(pair, authority.Roots)
	resumed.SessionTicketsDisabled, resumed.ServerName, resumed.ClientSessionCache = false, "catalog", tls.NewLRUClientSessionCache(8)
	return map[string][2]handshake{
		handshakeOurs: {
			func(raw net.Conn) (net.Conn, error) {
				secured, _, err := mtls.ClientHandshake(context.Background(), "catalog", raw)
				return secured, err
			},
			func(raw net.Conn) (net.Conn, error) {
				secured, _, err := mtls.ServerHandshake(raw)
				return secured, err
			},
		},
		handshakeFull:    plain(chainOnly(pair, authority.Roots)),
		handshakeResumed: plain(resumed),
	}
}

const (
	handshakeOurs    = "meshlite identity, which never resumes"
	handshakeFull    = "crypto/tls, without resumption"
	handshakeResumed = "crypto/tls, with resumption"
)

// shake makes connections until end, and returns how many.
func shake(client, server handshake, end func(made int) bool) (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	for n := 0; ; n++ {
		if end(n) {
			return n, nil
		}
		var served error
		var work sync.WaitGroup
		work.Go(func() {
			raw, err := listener.Accept()
			if err != nil {
				served = err
				return
			}
			defer raw.Close()
			secured, err := server(raw)
			if err == nil {
				_, err = secured.Write([]byte{1}) // after a ticket, if there is one
			}
			if err == nil {
				_, _ = secured.Read(make([]byte, 1)) // until the client has closed
				secured.Close()
			}
			served = err
		})
		raw, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			return n, err
		}
		secured, err := client(raw)
		if err == nil {
			_, err = secured.Read(make([]byte, 1))
			secured.Close()
		}
		raw.Close()
		work.Wait()
		if err := errors.Join(err, served); err != nil {
			return n, err
		}
	}
}

func TestHandshakesSucceed(t *testing.T) {
	for name, ends := range handshakes(t) {
		if n, err := shake(ends[0], ends[1], func(made int) bool { return made == 3 }); n != 3 || err != nil {
			t.Errorf("%s: %d handshakes, %v", name, n, err)
		}
	}
}

func TestHandshakeFigures(t *testing.T) {
	onlyForFigures(t)
	rates := map[string][]float64{}
	ends := handshakes(t)
	for range *runs {
		for name, pair := range ends {
			start := time.Now()
			n, err := shake(pair[0], pair[1], func(int) bool { return time.Since(start) > *window })
			if err != nil {
				t.Fatal(err)
			}
			rates[name] = append(rates[name], float64(n)/time.Since(start).Seconds())
		}
	}
	table := table{
		title:   fmt.Sprintf("Handshakes of mutual TLS 1.3 on loopback, both ends in this process, one after the other, medians of %d", *runs),
		columns: []string{"what", "handshakes/s", "beside crypto/tls without resumption"},
		notes:   []string{"a resumed session would outlive the certificates that it was made with, so identity has none"},
	}
	for _, name := range []string{handshakeOurs, handshakeFull, handshakeResumed} {
		table.add([]string{name, thousands(median(rates[name])), fmt.Sprintf("%.2fx", median(rates[name])/median(rates[handshakeFull]))})
	}
	show(t, table)
}
