package bench

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/internal/benchkit"
	"github.com/meshlite-go/meshlite/internal/certtest"
)

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
	mtls, err := identity.New(feed, identity.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mtls.Close)
	plain := func(settings *tls.Config) [2]handshake {
		end := func(made func(net.Conn, *tls.Config) *tls.Conn) handshake {
			return func(raw net.Conn) (net.Conn, error) {
				secured := made(raw, settings)
				return secured, secured.Handshake()
			}
		}
		return [2]handshake{end(tls.Client), end(tls.Server)}
	}
	resumed := benchkit.ChainOnly(pair, authority.Roots)
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
		handshakeFull:    plain(benchkit.ChainOnly(pair, authority.Roots)),
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

// Handshakes are what the table says: those with resumption resume all but the first.
func TestHandshakesSucceed(t *testing.T) {
	for name, ends := range handshakes(t) {
		resumed := 0
		client := func(raw net.Conn) (net.Conn, error) {
			secured, err := ends[0](raw)
			if plain, ok := secured.(*tls.Conn); ok && err == nil && plain.ConnectionState().DidResume {
				resumed++
			}
			return secured, err
		}
		if n, err := shake(client, ends[1], func(made int) bool { return made == 3 }); n != 3 || err != nil {
			t.Errorf("%s: %d handshakes, %v", name, n, err)
		}
		if want := map[string]int{handshakeResumed: 2}[name]; resumed != want {
			t.Errorf("%s: %d sessions were resumed, want %d", name, resumed, want)
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
	each := func(name string) time.Duration {
		return time.Duration(float64(time.Second) / median(rates[name])).Round(time.Microsecond)
	}
	table := table{
		title:   fmt.Sprintf("Handshakes of mutual TLS 1.3 on loopback, with leaves as Consul's CA signs them (ECDSA P-256), both ends in this process, one after the other, medians of %d", *runs),
		columns: []string{"what", "handshakes/s", "each, both ends", "beside crypto/tls without resumption"},
		notes: []string{fmt.Sprintf("a resumed session would outlive the certificates that it was made with, so identity has none: %v for each new connection",
			each(handshakeOurs)-each(handshakeResumed))},
	}
	for _, name := range []string{handshakeOurs, handshakeFull, handshakeResumed} {
		table.add([]string{name, thousands(median(rates[name])), each(name).String(), fmt.Sprintf("%.2fx", median(rates[name])/median(rates[handshakeFull]))})
	}
	show(t, table)
}
