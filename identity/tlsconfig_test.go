package identity_test

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/internal/certtest"
)

// serveHTTP is a server of net/http as a service, that answers who calls.
func serveHTTP(t *testing.T, mtls *identity.Credentials, protocols ...string) (url string) {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, _ := caller.VerifiedTLS(r.TLS)
		_, _ = io.WriteString(w, r.Proto+" "+id)
	}))
	server.TLS, server.EnableHTTP2 = mtls.ServerTLS(protocols...), len(protocols) > 0
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL
}

// ask returns an answer over a new connection.
func ask(t *testing.T, url string, settings *tls.Config, http2 bool) (string, error) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: settings, DisableKeepAlives: !http2, ForceAttemptHTTP2: http2}}
	defer client.CloseIdleConnections()
	answer, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return string(text), err
}

// Both ends of HTTP are secured as those of gRPC are: by SPIFFE ids, with the latest
// certificates, and a reason for each refusal.
func TestTLSOfOtherProtocols(t *testing.T) {
	authority, foreign := certtest.New(t), certtest.New(t)
	mine := feed(snapshot(t, authority.IssueID(t, time.Hour, good), authority))
	server := with(t, mine)
	client := of(t, authority, "storefront")
	page, both := serveHTTP(t, server), serveHTTP(t, server, "h2", "http/1.1")
	const caller = " spiffe://" + domain + "/ns/default/dc/dc1/svc/storefront"
	for name, test := range map[string]struct {
		url  string
		http bool
		want string
	}{"HTTP/1.1": {page, false, "HTTP/1.1" + caller}, "HTTP/2": {both, true, "HTTP/2.0" + caller}, "either": {both, false, "HTTP/1.1" + caller}} {
		if got, err := ask(t, test.url, client.ClientTLS("catalog"), test.http); err != nil || got != test.want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, test.want)
		}
	}
	for service, reason := range map[string]identity.Reason{"inventory": identity.WrongService, "127.0.0.1": identity.UnknownService} {
		if _, err := ask(t, page, client.ClientTLS(service), false); err == nil || !strings.Contains(err.Error(), string(reason)) {
			t.Errorf("a client of %s: %v, want %s", service, err, reason)
		}
	}
	raw := func(pair ...tls.Certificate) *tls.Config {
		return &tls.Config{InsecureSkipVerify: true, Certificates: pair}
	}
	for name, settings := range map[string]*tls.Config{
		"no certificate":           raw(),
		"expired":                  raw(authority.IssueID(t, -time.Minute, idOf("storefront").String())),
		"another authority":        raw(foreign.IssueID(t, time.Hour, idOf("storefront").String())),
		"no id":                    raw(authority.Issue(t, "storefront")),
		"another trust domain":     raw(authority.IssueID(t, time.Hour, "spiffe://other.consul/ns/default/dc/dc1/svc/storefront")),
		"TLS 1.2":                  {InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{authority.IssueID(t, time.Hour, idOf("storefront").String())}},
		"a client of another mesh": of(t, foreign, "storefront").ClientTLS("catalog"),
	} {
		if got, err := ask(t, page, settings, false); err == nil {
			t.Errorf("%s: the answer is %q", name, got)
		}
	}
	mine.Publish(snapshot(t, authority.IssueID(t, 2*time.Hour, idOf("inventory").String()), authority))
	if got, err := ask(t, page, client.ClientTLS("inventory"), false); err != nil || got != "HTTP/1.1"+caller {
		t.Errorf("with the next certificate: %q, %v", got, err)
	}
	// What crypto/tls refuses before this package is asked is in the log of the HTTP server.
	refused := server.Stats().Refused
	for _, reason := range []identity.Reason{identity.BadID, identity.WrongTrustDomain} {
		if refused[reason] != 1 {
			t.Errorf("%d refusals for %s, want 1: %v", refused[reason], reason, refused)
		}
	}
	if n := client.Stats().Refused[identity.WrongService]; n != 1 {
		t.Errorf("%d refusals of the client for the service, want 1", n)
	}
}
