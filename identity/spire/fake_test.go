package spire_test

import (
	"crypto/x509"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/internal/certtest"
)

// agent is a Workload API, as far as it issues X509-SVIDs.
type agent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	t   testing.TB
	ids []string

	mu      sync.Mutex
	roots   []*certtest.Authority // the last one signs
	failure error
	answer  *workload.X509SVIDResponse
	changed chan struct{}
}

func newAgent(t testing.TB, ids ...string) *agent {
	a := &agent{t: t, ids: ids, roots: []*certtest.Authority{certtest.New(t)}, changed: make(chan struct{})}
	a.change(func() {})
	return a
}

// change does what with the state locked, and issues new certificates.
func (a *agent) change(what func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	what()
	var bundle []byte
	for _, root := range a.roots {
		bundle = append(bundle, root.Certificate().Raw...)
	}
	a.answer = &workload.X509SVIDResponse{}
	for _, id := range a.ids {
		// go-spiffe refuses a leaf that is no end entity by its extension.
		template := certtest.IDTemplate(a.t, time.Hour, id)
		template.BasicConstraintsValid = true
		leaf := a.roots[len(a.roots)-1].Sign(a.t, template)
		key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
		if err != nil {
			a.t.Error(err)
		}
		a.answer.Svids = append(a.answer.Svids, &workload.X509SVID{SpiffeId: id, X509Svid: leaf.Certificate[0], X509SvidKey: key, Bundle: bundle})
	}
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *agent) renew() { a.change(func() {}) }

func (a *agent) addRoot() {
	root := certtest.New(a.t)
	a.change(func() { a.roots = append(a.roots, root) })
}

func (a *agent) dropOldRoots() { a.change(func() { a.roots = a.roots[len(a.roots)-1:] }) }

func (a *agent) setReachable(is bool) { a.fail(is, status.Error(codes.Unavailable, "down")) }

func (a *agent) setAllowed(is bool) {
	a.fail(is, status.Error(codes.PermissionDenied, "no identity issued"))
}

func (a *agent) fail(well bool, failure error) {
	a.change(func() {
		if a.failure = failure; well {
			a.failure = nil
		}
	})
}

func (a *agent) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	if sent, _ := metadata.FromIncomingContext(stream.Context()); len(sent.Get("workload.spiffe.io")) != 1 {
		return status.Error(codes.InvalidArgument, "security header missing from request")
	}
	for {
		a.mu.Lock()
		answer, failure, changed := a.answer, a.failure, a.changed
		a.mu.Unlock()
		if failure != nil {
			return failure
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// serve serves the API until stop.
func (a *agent) serve(listener net.Listener) (stop func()) {
	g := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(g, a)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(listener) }()
	return func() { g.Stop(); <-done }
}
