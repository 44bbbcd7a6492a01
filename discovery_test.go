package meshlite_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	ondisk "github.com/meshlite-go/meshlite/resolver/snapshot"
)

// keptIn keeps snapshots in dir.
func keptIn(t *testing.T, dir string) meshlite.ClientOption {
	t.Helper()
	folder, err := ondisk.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return meshlite.WithResolver(resolver.WithSnapshots(folder))
}

// R19, through the front door: a client of a later process, which another runtime
// stands for, starts while Consul is down.
//
// Case R19
func TestClientStartsFromItsSnapshotWhileConsulIsDown(t *testing.T) {
	m := newMesh(t)
	m.serve(&shop{name: "a"})
	dir := filepath.Join(t.TempDir(), "snapshots")
	client, conn := m.client("consul:///catalog", keptIn(t, dir), uncached())
	get(t, client, "x")
	for deadline := time.Now().Add(10 * time.Second); len(snapshots(t, dir)) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no snapshot was written")
		}
	}
	conn.Close()
	if files := snapshots(t, dir); len(files) != 1 {
		t.Fatalf("the folder has %v, want one snapshot", files)
	}
	m.agent.SetReachable(false)
	m.runtime = newRuntime(t)
	client, _ = m.client("consul:///catalog", keptIn(t, dir), uncached())
	for range 20 {
		if got := get(t, client, "x"); got != "a" {
			t.Fatalf("the call was answered by %q", got)
		}
	}
}

func snapshots(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestMetricsShowDiscovery(t *testing.T) {
	m := newMesh(t)
	runtime := newRuntime(t)
	m.serve(&shop{name: "a"}, meshlite.WithRuntime(runtime))
	m.runtime = runtime
	client, _ := m.client("consul:///catalog")
	get(t, client, "x")
	page := scrape(t, runtime)
	for _, want := range []string{
		`meshlite_discovery_instances{directory="` + m.directory.Name() + `",query="",service="catalog",state="passing"} 1`,
		`meshlite_discovery_held_instances{`, `meshlite_discovery_data_age_seconds{`,
		`meshlite_consul_registrations{agent="`, `meshlite_consul_requests_total{agent="`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	handler, err := runtime.Handler()
	if err != nil {
		t.Fatal(err)
	}
	stats := httptest.NewRecorder()
	handler.ServeHTTP(stats, localRequest(http.MethodGet, "/debug/meshlite", nil))
	if text := stats.Body.String(); !strings.Contains(text, `"discovery"`) || !strings.Contains(text, `"service": "catalog"`) {
		t.Errorf("/debug/meshlite does not show discovery: %s", text)
	}
}

func TestFilterAndConsistencyOfTheTargetReachTheDirectory(t *testing.T) {
	asked := make(chan catalog.Query, 1)
	_, conn := newMesh(t).client("consul:///catalog?filter=Service.Meta.v+%3D%3D+2&consistency=cached", meshlite.WithDirectory(curious{asked}))
	conn.Connect()
	select {
	case q := <-asked:
		if q.Filter != "Service.Meta.v == 2" || q.Consistency != catalog.Cached {
			t.Errorf("asked for %+v", q)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the directory was not asked")
	}
}

// curious is a directory that reports the queries that it is asked.
type curious struct{ asked chan catalog.Query }

func (c curious) Watch(ctx context.Context, q catalog.Query, _ func(catalog.Snapshot, error)) {
	c.asked <- q
	<-ctx.Done()
}
func (curious) Name() string { return "curious" }
func (curious) Register(context.Context, catalog.Registration) (catalog.Lease, error) {
	return nil, nil
}
func (curious) NodeAddress(context.Context) (string, error) { return "127.0.0.1", nil }

// Calls stay in the caller's zone while its instances can carry them.
//
// Case zones
func TestCallsStayInTheClientsZone(t *testing.T) {
	m := newMesh(t)
	m.serve(&shop{name: "near"}, meshlite.WithLocality("eu-1", "eu-1a"))
	m.serve(&shop{name: "far"}, meshlite.WithLocality("eu-1", "eu-1b"))
	client, _ := m.client("consul:///catalog", meshlite.WithLocality("eu-1", "eu-1a"), uncached())
	for get(t, client, "x") == "far" { // while the near one is not connected
		time.Sleep(time.Millisecond)
	}
	for range 100 {
		if got := get(t, client, "x"); got == "far" {
			t.Fatal("a call left its zone")
		}
	}
}

// X10: A wrong config of a policy is an error of NewClient.
//
// Case X10 (chain, balancer)
func TestAWrongPolicyConfigIsAnErrorAtOnce(t *testing.T) {
	for config, want := range map[string]string{
		`{"meshlite_least_request": {"ejection": {"maxEjectionPercent": 150}}}`: "ejection.maxEjectionPercent 150 is not in 0 to 100",
		`{"meshlite_peak_ewma": {"slowStart": {"window": "soon"}}}`:             `"soon"`,
		`{"meshlite_round_robin": {"zone": {"callers": -1}}}`:                   "zone.callers -1",
	} {
		_, err := meshlite.NewClient("dns:///127.0.0.1:1", meshlite.WithPlaintext(), meshlite.WithServiceConfig(`{"loadBalancingConfig": [`+config+`]}`))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error is %v, want one with %s", config, err, want)
		}
	}
}
