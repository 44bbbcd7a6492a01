package meshlite_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// byShare admits n calls in a time beyond the test, over all replicas.
func byShare(n uint64, store policyv1.RateLimitStore) meshlite.Option {
	return meshlite.WithPolicy(&policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{"GetSweet": {
		Cache:      &policyv1.CacheRule{Ttl: proto.String("0s")},
		RateLimits: []*policyv1.RateLimitRule{{Name: "share", Limit: &n, Period: proto.String("1000h"), Store: store}},
	}}})
}

// sharer is a server whose limiter can be looked at, and a client of it alone.
type sharer struct {
	*instance
	limiter *ratelimit.Limiter
	client  catalogv1.CatalogServiceClient
}

func (m *mesh) serveSharer(opts ...meshlite.ServerOption) sharer {
	m.t.Helper()
	limiter, err := ratelimit.New(ratelimit.WithLogger(silent))
	if err != nil {
		m.t.Fatal(err)
	}
	known := strings.Join(m.instances("catalog"), " ")
	s := sharer{instance: m.serve(&shop{name: "a"}, append(opts, meshlite.WithRateLimit(limiter))...), limiter: limiter}
	for _, address := range m.instances("catalog") {
		if !strings.Contains(known, address) {
			s.client, _ = m.client("dns:///"+address, uncached())
		}
	}
	return s
}

func (s sharer) admitted(t *testing.T, n int) (admitted int) {
	t.Helper()
	for range n {
		switch _, err := s.client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "x"}); status.Code(err) {
		case codes.OK:
			admitted++
		case codes.ResourceExhausted:
		default:
			t.Fatal(err)
		}
	}
	return admitted
}

// awaitShare waits until the server counts by a share.
func (s sharer) awaitShare(t *testing.T, share float64) {
	t.Helper()
	want := fmt.Sprintf("share %.3g", share)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		limits := s.limiter.Stats().Limits
		if len(limits) > 0 && limits[0].Rules == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server counts by %v, want %s", limits, want)
		}
	}
}

// Replicas divide a limit by their weights in Consul, come and go, and keep
// the last ones while it is down. So do limits in a shared store that nobody has given.
//
// Case replicas
func TestReplicasDivideALimit(t *testing.T) {
	for _, store := range []policyv1.RateLimitStore{policyv1.RateLimitStore_RATE_LIMIT_STORE_PER_REPLICA, policyv1.RateLimitStore_RATE_LIMIT_STORE_EXTERNAL} {
		t.Run(store.String(), func(t *testing.T) {
			m := newMesh(t)
			rule := byShare(1000, store)
			one := m.serveSharer(rule)
			want(t, "first calls", one.admitted(t, 2), 2)
			one.awaitShare(t, 1)
			two, three := m.serveSharer(rule, meshlite.WithRegistration(catalog.Registration{Instance: catalog.Instance{Weight: 2}})), m.serveSharer(rule)
			for _, s := range []sharer{two, three} {
				want(t, "first calls", s.admitted(t, 2), 2)
			}
			one.awaitShare(t, 0.25)
			two.awaitShare(t, 0.5)
			three.awaitShare(t, 0.25)
			total := 6
			for _, s := range []sharer{one, two, three} {
				total += s.admitted(t, 600)
			}
			if total < 970 || total > 1030 {
				t.Errorf("three replicas have admitted %d calls, want 1,000 within 3 %%", total)
			}
			if err := three.stop(); err != nil {
				t.Fatal(err)
			}
			one.awaitShare(t, 1.0/3)
			m.agent.SetReachable(false)
			two.awaitShare(t, 2.0/3)
			time.Sleep(50 * time.Millisecond) // in which its watch has failed
			one.awaitShare(t, 1.0/3)
			m.agent.SetReachable(true)
		})
	}
}

// Without a limit that is divided nothing is watched, and a client's is all its own.
func TestNobodyIsFollowedWithoutNeed(t *testing.T) {
	m := newMesh(t)
	runtime := newRuntime(t)
	s := m.serveSharer(meshlite.WithRuntime(runtime), byShare(1000, policyv1.RateLimitStore_RATE_LIMIT_STORE_LOCAL))
	want(t, "admitted", s.admitted(t, 1), 1)
	if page := scrape(t, runtime); strings.Contains(page, "meshlite_discovery_instances{") {
		t.Error("a server without a shared limit follows its replicas")
	}
}

// unlisting is a directory that takes registrations and lists none.
type unlisting struct {
	curious
	registered chan string
}

func (d *unlisting) Register(_ context.Context, r catalog.Registration) (catalog.Lease, error) {
	d.registered <- r.Instance.Address
	return noLease{}, nil
}

type noLease struct{}

func (noLease) Deregister(context.Context) error { return nil }

// A replica that does not know the others yet admits neither all nor nothing.
//
// Case replicas
func TestAReplicaThatKnowsNobodyYet(t *testing.T) {
	m := newMesh(t)
	directory := &unlisting{curious{make(chan catalog.Query, 1)}, make(chan string, 1)}
	server, err := meshlite.NewServer("catalog", meshlite.WithPlaintext(), meshlite.WithDirectory(directory), meshlite.WithLogger(silent),
		meshlite.WithRuntime(newRuntime(t)), meshlite.WithDrain(0, time.Second), byShare(100, policyv1.RateLimitStore_RATE_LIMIT_STORE_PER_REPLICA))
	if err != nil {
		t.Fatal(err)
	}
	catalogv1.RegisterCatalogServiceServer(server, &shop{name: "a"})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	s := sharer{}
	s.client, _ = m.client("dns:///"+<-directory.registered, uncached())
	want(t, "followed", (<-directory.asked).Service, "catalog")
	want(t, "admitted", s.admitted(t, 100), 50)
	cancel()
	want(t, "error", <-ended, nil)
}

func want[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
