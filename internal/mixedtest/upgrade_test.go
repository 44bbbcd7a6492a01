package mixedtest

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/internal/openloop"
	"github.com/meshlite-go/meshlite/internal/shop"
	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
)

const (
	rate        = 40               // calls a second of each kind
	callTimeout = 10 * time.Second // longer than a machine stalls
	stopTimeout = 20 * time.Second // of an instance that drains
	instances   = 2                // of each service
	tries       = 2
)

// fleet are the instances of the services, by service.
type fleet struct {
	t       *testing.T
	running map[string][]*shop.Instance
}

// args are what a service is started with. A gateway reads contracts by reflection.
func args(service string) []string {
	if service == shop.Gateway {
		return []string{"storefront", "--forward-header=customer-id"}
	}
	return []string{"--reflection"}
}

// start adds an instance.
func (f *fleet) start(s *shop.Shop, service string) {
	f.t.Helper()
	i, err := s.Start(f.t.Context(), service, args(service)...)
	if err != nil {
		f.t.Fatal(err)
	}
	f.running[service] = append(f.running[service], i)
}

// replace starts an instance of s for one of each service, in the order of services, and
// then stops that one, as a rolling update does.
func (f *fleet) replace(s *shop.Shop, services []string) {
	f.t.Helper()
	for _, service := range services {
		f.start(s, service)
		first := f.running[service][0]
		f.running[service] = f.running[service][1:]
		first.Stop(stopTimeout)
		if state := first.State(); state != "exit status 0" {
			f.t.Errorf("%s has ended by %s; it said:\n%s", first.ID, state, first.LastLines(5))
		}
	}
}

// load calls the shop by gRPC, and over HTTP through its gateways.
type load struct {
	loop  *openloop.Loop
	sent  atomic.Int64
	mu    sync.Mutex
	wrong []error
}

func (l *load) failed(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong = append(l.wrong, err)
}

// begin calls until finish. Each call is by another customer: the storefront limits them.
func begin(t *testing.T, s *shop.Shop) *load {
	t.Helper()
	runtime, err := meshlite.NewRuntime(meshlite.RuntimeConfig{})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := meshlite.NewClient("consul:///storefront", meshlite.WithPlaintext(), meshlite.WithDirectory(s.Directory()),
		meshlite.WithRuntime(runtime), meshlite.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	doors := openDoors(t, s)
	shop := storefrontv1.NewStorefrontServiceClient(conn)
	l := &load{loop: openloop.New(1000)}
	add := func(kind string, ask func(ctx context.Context, n int) error) {
		l.loop.Go(t.Context(), time.Now(), openloop.Rate(rate), func(n int, _ time.Time) func() {
			l.sent.Add(1)
			return func() {
				ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
				defer cancel()
				if err := ask(ctx, n); err != nil {
					l.failed(fmt.Errorf("%s: %w", kind, err))
				}
			}
		})
	}
	add("gRPC", func(ctx context.Context, n int) error {
		ctx = metadata.AppendToOutgoingContext(ctx, "customer-id", customer(n))
		if n%10 == 0 {
			_, err := shop.PlaceOrder(ctx, &storefrontv1.PlaceOrderRequest{SweetId: "lemon-sherbet", Grams: 100})
			return err
		}
		answer, err := shop.Browse(ctx, &storefrontv1.BrowseRequest{})
		if err == nil && len(answer.GetOffers()) == 0 {
			err = status.Error(codes.DataLoss, "the shop offers nothing")
		}
		return err
	})
	add("HTTP", doors.browse)
	return l
}

func customer(n int) string { return fmt.Sprintf("customer-%d", n) }

// finish returns what has failed of the calls.
func (l *load) finish() []error {
	l.loop.Finish()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wrong
}

// upgrade plays a rolling upgrade and the way back under load.
func upgrade(t *testing.T, previous, current release) (sent int64, failed []error) {
	registry, err := shop.StartRegistry(t.Context(), shop.Auto)
	if err != nil {
		t.Fatal(err)
	}
	defer registry.Stop()
	before, after := open(t, registry, previous), open(t, registry, current)
	defer before.Close()
	defer after.Close()
	f := &fleet{t, map[string][]*shop.Instance{}}
	servers := []string{"catalog", "inventory", "storefront", shop.Gateway}
	clients := []string{shop.Gateway, "storefront", "inventory", "catalog"}
	for range instances {
		for _, service := range servers {
			f.start(before, service)
		}
	}
	l := begin(t, after)
	f.replace(after, servers)
	t.Run("commands", func(t *testing.T) { commands(t, registry, f, previous, current) })
	f.replace(after, servers) // all is upgraded
	f.replace(before, clients)
	f.replace(before, clients)
	return l.sent.Load(), l.finish()
}

func open(t *testing.T, registry *shop.Registry, r release) *shop.Shop {
	t.Helper()
	s, err := shop.Open(registry, shop.Options{Dir: r.dir})
	if err != nil {
		t.Fatalf("%s: %v", r.name, err)
	}
	return s
}

// A rolling upgrade from the previous release, service by service and instance by instance,
// servers first, and the way back, clients first, fails no call. Half way, with one instance
// of each release, the commands of both read all pages.
func TestARollingUpgradeAndBackFailsNoCall(t *testing.T) {
	previous, current := releases(t)
	for try := range tries {
		sent, failed := upgrade(t, previous, current)
		t.Logf("%s, %s and back: %d of %d calls failed", previous.name, current.name, len(failed), sent)
		if sent < 100 {
			t.Fatalf("%d calls were sent, want some hundreds", sent)
		}
		if len(failed) == 0 {
			return
		}
		// A machine that stalls fails calls by their own deadlines, and only by these.
		if try < tries-1 && onlyLate(failed) {
			t.Logf("once more: calls ran into their deadlines: %v", failed[0])
			continue
		}
		t.Fatalf("%d of %d calls failed, want none: %v", len(failed), sent, failed[:min(5, len(failed))])
	}
}

func onlyLate(failed []error) bool {
	for _, err := range failed {
		if status.Code(err) != codes.DeadlineExceeded && !strings.Contains(err.Error(), http.StatusText(http.StatusGatewayTimeout)) {
			return false
		}
	}
	return true
}
