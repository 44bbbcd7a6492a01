package metrics_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/interceptors/metrics"
)

const callerMetric = "meshlite_caller_requests_total"

// calledBy is the context of a call whose peer has proven an identity; verified false is one
// that has only shown the certificate.
func calledBy(t testing.TB, spiffe string, verified bool) context.Context {
	t.Helper()
	leaf := &x509.Certificate{Subject: pkix.Name{CommonName: "legacy"}, DNSNames: []string{"legacy.example"}}
	info := credentials.TLSInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}
	if spiffe != "" {
		id, err := url.Parse(spiffe)
		if err != nil {
			t.Fatal(err)
		}
		leaf.URIs, info.SPIFFEID = []*url.URL{id}, id
	}
	info.State = tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
	if verified {
		info.State.VerifiedChains = [][]*x509.Certificate{{leaf}}
	}
	ctx := peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, AuthInfo: info})
	return metadata.NewIncomingContext(ctx, metadata.Pairs("x-meshlite-subject", "alice", "customer-id", "alice"))
}

func serviceID(name string) string { return "spiffe://mesh.consul/ns/default/dc/dc1/svc/" + name }

// byCaller returns the calls of each caller by class, and how many series there are.
func byCaller(t testing.TB, registry *prometheus.Registry) (calls map[string]float64, series int) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	calls = map[string]float64{}
	for _, family := range families {
		if family.GetName() != callerMetric {
			continue
		}
		for _, m := range family.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			calls[labels["caller"]+" "+labels["code_class"]] = m.GetCounter().GetValue()
			series++
		}
	}
	return calls, series
}

func TestVerifiedCallersAreCounted(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := newMetrics(t, metrics.WithRegisterer(registry))
	unary, stream := m.UnaryServer(meta), m.StreamServer(meta)
	info := &grpc.UnaryServerInfo{FullMethod: method}
	ended := func(ctx context.Context, code codes.Code) {
		_, _ = unary(ctx, request, info, func(context.Context, any) (any, error) { return reply, status.Error(code, "") })
		_ = stream(struct{}{}, inContext{ctx}, &grpc.StreamServerInfo{FullMethod: method, IsServerStream: true}, func(any, grpc.ServerStream) error { return status.Error(code, "") })
	}
	ended(calledBy(t, serviceID("web"), true), codes.OK)
	ended(calledBy(t, strings.Replace(serviceID("web"), "dc1", "dc2", 1), true), codes.Internal)
	ended(calledBy(t, serviceID("web"), true), codes.NotFound)
	ended(calledBy(t, "spiffe://spire.example/shop/till", true), codes.OK)
	ended(calledBy(t, "", true), codes.OK)
	// Nobody has verified these.
	ended(calledBy(t, serviceID("mallory"), false), codes.OK)
	ended(t.Context(), codes.OK)
	ended(metadata.NewIncomingContext(t.Context(), metadata.Pairs("x-meshlite-subject", serviceID("mallory"))), codes.OK)
	calls, _ := byCaller(t, registry)
	for name, want := range map[string]float64{
		"web ok": 2, "web server": 2, "web client": 2,
		"spiffe://spire.example/shop/till ok": 2, "spiffe://spire.example/shop/till server": 0, "spiffe://spire.example/shop/till client": 0,
		`subject "CN=legacy" names ["legacy.example"] ok`: 2, `subject "CN=legacy" names ["legacy.example"] server`: 0, `subject "CN=legacy" names ["legacy.example"] client`: 0,
	} {
		if got, found := calls[name]; !found || got != want {
			t.Errorf("%s: %v calls, want %v", name, got, want)
		}
		delete(calls, name)
	}
	if len(calls) > 0 {
		t.Errorf("there are more callers: %v", calls)
	}
}

type inContext struct{ ctx context.Context }

func (s inContext) Context() context.Context   { return s.ctx }
func (inContext) SetHeader(metadata.MD) error  { return nil }
func (inContext) SendHeader(metadata.MD) error { return nil }
func (inContext) SetTrailer(metadata.MD)       {}
func (inContext) SendMsg(any) error            { return nil }
func (inContext) RecvMsg(any) error            { return nil }

// A thousand identities, and names that are long or no text, are as many series as a hundred
// callers and the rest. None of their calls is lost.
func TestTheSeriesOfCallersAreBounded(t *testing.T) {
	const identities, kept, rounds = 1000, 100, 3
	registry := prometheus.NewRegistry()
	m := newMetrics(t, metrics.WithRegisterer(registry))
	unary, info := m.UnaryServer(meta), &grpc.UnaryServerInfo{FullMethod: method}
	all := []context.Context{calledBy(t, "spiffe://spire.example/"+strings.Repeat("a", 1000), true)}
	for n := range identities {
		all = append(all, calledBy(t, serviceID(fmt.Sprint("s-", n)), true))
	}
	var running sync.WaitGroup
	for range rounds {
		running.Go(func() {
			for _, ctx := range all {
				_, _ = unary(ctx, request, info, handler)
			}
		})
	}
	running.Wait()
	calls, series := byCaller(t, registry)
	if want := (kept + 1) * 3; series != want {
		t.Errorf("%d series, want %d: %d callers and the rest, of 3 classes each", series, want, kept)
	}
	sum := 0.0
	for _, n := range calls {
		sum += n
	}
	if sum != float64(rounds*len(all)) || calls["other ok"] != float64(rounds*(len(all)-kept)) {
		t.Errorf("%v calls are counted, %v as other, want %d and %d", sum, calls["other ok"], rounds*len(all), rounds*(len(all)-kept))
	}
}

func TestACallersCallAllocatesNothing(t *testing.T) {
	m := newMetrics(t, metrics.WithRegisterer(prometheus.NewRegistry()))
	unary, info := m.UnaryServer(meta), &grpc.UnaryServerInfo{FullMethod: method}
	for n := range 100 {
		_, _ = unary(calledBy(t, serviceID(fmt.Sprint("s-", n)), true), request, info, handler)
	}
	for name, spiffe := range map[string]string{"known": serviceID("s-7"), "beyond the cap": serviceID("s-100"), "of another authority": "spiffe://spire.example/shop/till"} {
		ctx := calledBy(t, spiffe, true)
		if got := testing.AllocsPerRun(1000, func() { _, _ = unary(ctx, request, info, handler) }); got != 0 {
			t.Errorf("%s: %v allocations, want 0", name, got)
		}
	}
}

func BenchmarkCallers(b *testing.B) {
	m := newMetrics(b, metrics.WithRegisterer(prometheus.NewRegistry()))
	unary, info := m.UnaryServer(meta), &grpc.UnaryServerInfo{FullMethod: method}
	for name, ctx := range map[string]context.Context{"verified": calledBy(b, serviceID("web"), true), "none": b.Context()} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = unary(ctx, request, info, handler)
			}
		})
	}
}
