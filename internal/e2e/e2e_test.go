// Package e2e holds the tests with real processes: what must survive a crash is
// crashed here.
package e2e

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/internal/shop"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	inventoryv1 "github.com/meshlite-go/meshlite/proto/sweetshop/inventory/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// build builds the services and tells where they are.
func build(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and runs the services")
	}
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", dir, "./cmd/catalog", "./cmd/inventory", "./cmd/storefront")
	build.Dir = filepath.Join("..", "..")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// open opens an empty shop with the stand-in registry.
func open(t *testing.T) *shop.Shop {
	t.Helper()
	dir := build(t)
	registry, err := shop.StartRegistry(t.Context(), shop.Embedded)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(registry.Stop)
	s, err := shop.Open(registry, shop.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func start(t *testing.T, s *shop.Shop, service string, args ...string) *shop.Instance {
	t.Helper()
	i, err := s.Start(t.Context(), service, args...)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// call is one call of the load, after it has ended.
type call struct {
	start, end time.Time
	instance   string
	err        error
}

// load calls open-loop at a rate, whatever becomes of earlier calls.
func load(client inventoryv1.InventoryServiceClient, rate int, d time.Duration) []call {
	calls := make([]call, int(d.Seconds()*float64(rate)))
	var wait sync.WaitGroup
	begin := time.Now()
	for i := range calls {
		time.Sleep(time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(rate))))
		wait.Go(func() { calls[i] = one(client) })
	}
	wait.Wait()
	return calls
}

func one(client inventoryv1.InventoryServiceClient) call {
	record := attempt.New()
	ctx, cancel := context.WithTimeout(attempt.NewContext(context.Background(), record), time.Second)
	defer cancel()
	c := call{start: time.Now()}
	_, c.err = client.GetStock(ctx, &inventoryv1.GetStockRequest{SweetIds: []string{"lemon-sherbet"}})
	c.end = time.Now()
	if picked := record.Latest().Picked(); picked != nil {
		c.instance = picked.Address
	}
	return c
}

// peak is the largest number of calls that were in flight at once.
func peak(calls []call) int {
	type event struct {
		at    time.Time
		delta int
	}
	var events []event
	for _, c := range calls {
		events = append(events, event{c.start, 1}, event{c.end, -1})
	}
	slices.SortFunc(events, func(a, b event) int { return a.at.Compare(b.at) })
	now, most := 0, 0
	for _, e := range events {
		now += e.delta
		most = max(most, now)
	}
	return most
}

// F1: kill -9 one of three at 1,000 calls/s, no retry: failures <= calls in flight
// there. Handlers take 50 ms.
func TestCrashFailsOnlyWhatWasInFlight(t *testing.T) {
	s := open(t)
	var instances []*shop.Instance
	for range 3 {
		instances = append(instances, start(t, s, "inventory", "--latency=50ms"))
	}
	once := uint32(1)
	conn, err := meshlite.NewClient("consul:///inventory", meshlite.WithPlaintext(), meshlite.WithConsul(s.Directory()),
		meshlite.WithLogger(slog.New(slog.DiscardHandler)), meshlite.WithRuntime(meshlite.NewRuntime()),
		meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{Retry: &policyv1.RetryRule{MaxAttempts: &once}}}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := inventoryv1.NewInventoryServiceClient(conn)
	for range 20 {
		if c := one(client); c.err != nil {
			t.Fatal(c.err)
		}
	}
	victim := instances[1]
	crash := make(chan time.Time, 1)
	time.AfterFunc(1500*time.Millisecond, func() { crash <- time.Now(); _ = victim.Kill() })
	calls := load(client, 1000, 3*time.Second)
	killed := <-crash

	var failed int
	var there, after []call
	for _, c := range calls {
		if c.err != nil {
			failed++
			if c.instance != victim.Address {
				t.Errorf("a call to %s, which lives, failed: %v", c.instance, c.err)
			}
		}
		if c.instance == victim.Address && c.start.Before(killed) {
			there = append(there, c)
		}
		if c.err == nil && c.instance != victim.Address && c.start.After(killed.Add(time.Second)) {
			after = append(after, c)
		}
	}
	inFlight := peak(there)
	t.Logf("%d of %d calls failed; at most %d were in flight at the killed instance", failed, len(calls), inFlight)
	if failed > inFlight || inFlight == 0 {
		t.Errorf("%d calls failed, want at most the %d that were in flight there", failed, inFlight)
	}
	if len(after) < 300 {
		t.Errorf("%d calls were answered in the last half second, want about 500", len(after))
	}
}
