package admin_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/admin"
	"github.com/meshlite-go/meshlite/internal/certtest"
)

// One port serves HTTP to those who scrape it, HTTPS to those without a certificate, and the
// pages to an operator's certificate. The settings demand one: the pages do instead.
//
// Case I13
func TestOnePortTakesHTTPAndHTTPS(t *testing.T) {
	authority, other := certtest.New(t), certtest.New(t)
	demanding := &tls.Config{
		Certificates: []tls.Certificate{authority.Issue(t, "127.0.0.1")}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: authority.Roots,
		NextProtos: []string{"h2"}, VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return errors.New("no certificate")
			}
			return nil
		},
	}
	for name, settings := range map[string]*tls.Config{
		"fixed":  demanding,
		"chosen": {GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return demanding, nil }},
	} {
		t.Run(name, func(t *testing.T) {
			address := serveTLS(t, settings)
			with := func(pairs ...tls.Certificate) *tls.Config {
				return &tls.Config{RootCAs: authority.Roots, Certificates: pairs}
			}
			ops := authority.IssueID(t, time.Hour, operator)
			for what, test := range map[string]struct {
				scheme, path string
				settings     *tls.Config
				code         int // 0: the handshake fails
			}{
				"metrics in plaintext":           {"http", "/metrics", nil, 200},
				"pages in plaintext":             {"http", "/debug/meshlite", nil, 401},
				"metrics without a certificate":  {"https", "/metrics", with(), 200},
				"health without a certificate":   {"https", "/healthz", with(), 200},
				"pages without a certificate":    {"https", "/debug/meshlite", with(), 401},
				"pages as the operator":          {"https", "/debug/meshlite", with(ops), 200},
				"pages as another":               {"https", "/debug/meshlite", with(authority.IssueID(t, time.Hour, operator+"-2")), 403},
				"metrics by an unknown operator": {"https", "/metrics", with(other.IssueID(t, time.Hour, operator)), 0},
				"metrics by one that has ended":  {"https", "/metrics", with(authority.IssueID(t, -time.Minute, operator)), 0},
			} {
				client := &http.Client{Transport: &http.Transport{TLSClientConfig: test.settings, DisableKeepAlives: true}}
				answer, err := client.Get(test.scheme + "://" + address + test.path)
				switch {
				case err != nil && test.code != 0:
					t.Errorf("%s: %v", what, err)
				case err == nil:
					_, _ = io.Copy(io.Discard, answer.Body)
					answer.Body.Close()
					if answer.StatusCode != test.code {
						t.Errorf("%s: %d, want %d", what, answer.StatusCode, test.code)
					}
				}
			}
		})
	}
}

// A handshake that breaks off, or is none, leaves no answer in plaintext, and the port goes on.
func TestABrokenHandshakeIsAnsweredByNothingReadable(t *testing.T) {
	authority := certtest.New(t)
	address := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{authority.Issue(t, "127.0.0.1")}})
	for _, sent := range []string{"\x16", "\x16\x03\x01", "\x16GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", "\x16\x03\x01\xff\xff" + strings.Repeat("a", 1<<16)} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, sent)
		_ = conn.(*net.TCPConn).CloseWrite()
		answer, _ := io.ReadAll(conn)
		conn.Close()
		if strings.Contains(string(answer), "HTTP") {
			t.Errorf("%.20q is answered by %q", sent, answer)
		}
	}
	// A connection is kept for the next request, in TLS as in plaintext.
	for _, dial := range []func() (net.Conn, error){
		func() (net.Conn, error) { return net.Dial("tcp", address) },
		func() (net.Conn, error) { return tls.Dial("tcp", address, &tls.Config{RootCAs: authority.Roots}) },
	} {
		conn, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		reader := bufio.NewReader(conn)
		for range 2 {
			if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			answer, err := http.ReadResponse(reader, nil)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, answer.Body)
			answer.Body.Close()
			if answer.StatusCode != 200 {
				t.Errorf("/healthz is %d", answer.StatusCode)
			}
		}
	}
}

func serveTLS(t *testing.T, settings *tls.Config) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := admin.ServeTLS(listener, everything(t, admin.WithIdentities(operator)), settings)
	t.Cleanup(func() { _ = server.Close() })
	return listener.Addr().String()
}
