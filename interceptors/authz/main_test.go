package authz_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/meshlite-go/meshlite/identity/intention"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/authz"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	getSweet = "/sweetshop.catalog.v1.CatalogService/GetSweet"
	domain   = "11111111-2222-3333-4444-555555555555.consul"
)

// id is the SPIFFE id of a service, as Consul has it.
func id(service string) string { return "spiffe://" + domain + "/ns/default/dc/dc1/svc/" + service }

// verified is what gRPC knows of a peer whose certificate was verified; "" is one without.
func verified(t testing.TB, spiffe string) credentials.AuthInfo {
	t.Helper()
	info := credentials.TLSInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}
	if spiffe == "" {
		return info
	}
	parsed, err := url.Parse(spiffe)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{URIs: []*url.URL{parsed}}
	info.State = tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf}}}
	if parsed.Scheme == "spiffe" {
		info.SPIFFEID = parsed
	}
	return info
}

// calledBy is the context of a call.
func calledBy(t testing.TB, spiffe string) context.Context {
	return peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, AuthInfo: verified(t, spiffe)})
}

func metaOf(fullMethod string) *interceptors.CallMeta {
	service, method, _ := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	return &interceptors.CallMeta{Side: interceptors.Server, FullMethod: fullMethod, Service: service, Method: method, Policy: &policyv1.MethodPolicy{}}
}

// journal is a log that tests read.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(line []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(line)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func (j *journal) logger() authz.Option {
	return authz.WithLogger(slog.New(slog.NewTextHandler(j, nil)))
}

func newAuthorizer(t testing.TB, opts ...authz.Option) *authz.Authorizer {
	t.Helper()
	a, err := authz.New("catalog", opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

// allow lets sources call catalog.
func allow(sources ...string) intention.Set {
	set := intention.Set{TrustDomain: domain}
	for _, source := range sources {
		set.Intentions = append(set.Intentions, intention.Intention{Source: source, Destination: "catalog", Action: intention.Allow})
	}
	return set
}

// reports is a watcher by hand.
type reports struct {
	watching chan struct{}
	report   func(intention.Set, error)
}

func newReports() *reports { return &reports{watching: make(chan struct{})} }

func (r *reports) WatchIntentions(ctx context.Context, _ string, report func(intention.Set, error)) {
	r.report = report
	close(r.watching)
	<-ctx.Done()
}
