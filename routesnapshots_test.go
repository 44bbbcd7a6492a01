package meshlite_test

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// keptSplit has a process keep a split of 90 and 10 in dir, beside plain discovery.
func keptSplit(t *testing.T) (m *mesh, dir string) {
	t.Helper()
	m, dir = newMesh(t), t.TempDir()
	for _, version := range []string{"1", "2"} {
		instance := catalog.Instance{Service: "catalog", Metadata: map[string]string{"version": version}}
		m.serve(&shop{name: version}, meshlite.WithRegistration(catalog.Registration{Instance: instance}))
	}
	answers(t.Context(), m.later(dir), 1)
	awaitFiles(t, dir, 1) // of plain discovery
	m.configure(speaksGRPC, twoVersions, split(90, 10))
	awaitFiles(t, dir, 4) // of both versions, and the chain
	return m, dir
}

func (m *mesh) configure(entries ...string) {
	m.t.Helper()
	for _, entry := range entries {
		if err := m.agent.WriteConfig(entry); err != nil {
			m.t.Fatal(err)
		}
	}
}

// later is a client of a later process, which another runtime stands for.
func (m *mesh) later(dir string) catalogv1.CatalogServiceClient {
	m.t.Helper()
	m.runtime = newRuntime(m.t)
	client, _ := m.client("consul:///catalog", keptIn(m.t, dir), uncached())
	return client
}

func awaitFiles(t *testing.T, dir string, n int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); len(snapshots(t, dir)) != n; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the folder has %v, want %d snapshots", snapshots(t, dir), n)
		}
	}
}

// isTenth reports whether all of 1,000 calls were answered, a tenth of them by v2.
func isTenth(got map[string]int) bool {
	return got["1"]+got["2"] == 1000 && got["2"] >= 98 && got["2"] <= 102
}

// A client that starts while Consul is down goes by the chain that it has kept: the split holds,
// and 0 of 1,000 calls fail.
//
// Case R19
func TestAClientStartsByItsKeptChainWhileConsulIsDown(t *testing.T) {
	for name, away := range map[string]func(*mesh){
		"refuses": func(m *mesh) { m.agent.SetReachable(false) },
		"hangs": func(m *mesh) {
			m.agent.Intercept(func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true })
		},
	} {
		t.Run(name, func(t *testing.T) {
			m, dir := keptSplit(t)
			away(m)
			if got := answers(t.Context(), m.later(dir), 1000); !isTenth(got) {
				t.Errorf("the calls are answered by %v, want the split of 90 and 10 from the first one on", got)
			}
		})
	}
}

// With Consul back, what it says replaces the kept chain, and no call fails meanwhile.
//
// Case R19
func TestAKeptChainYieldsToAnAnswer(t *testing.T) {
	m, dir := keptSplit(t)
	m.agent.SetReachable(false)
	client := m.later(dir)
	answers(t.Context(), client, 100)
	m.configure(split(0, 100))
	m.agent.SetReachable(true)
	for deadline := time.Now().Add(40 * time.Second); ; {
		got := answers(t.Context(), client, 100)
		if got["1"]+got["2"] != 100 {
			t.Fatalf("the calls are answered by %v", got)
		}
		if got["2"] == 100 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the calls are still answered by %v", got)
		}
	}
}

// A chain that was deleted is not kept, and one that was tampered with is ignored: the client goes
// by plain discovery.
//
// Case R19
func TestOnlyAGoodChainIsKept(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, m *mesh, dir string){
		"deleted": func(t *testing.T, m *mesh, dir string) {
			for _, kind := range []string{"service-splitter", "service-resolver", "service-defaults"} {
				if err := m.agent.DeleteConfig(kind, "catalog"); err != nil {
					t.Fatal(err)
				}
			}
			awaitFiles(t, dir, 3)
		},
		"tampered with": func(t *testing.T, _ *mesh, dir string) {
			for _, path := range snapshots(t, dir) {
				text, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				text = []byte(strings.Replace(string(text), `"weight":90`, `"weight":80`, 1))
				if err := os.WriteFile(path, text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m, dir := keptSplit(t)
			change(t, m, dir)
			m.agent.SetReachable(false)
			if got := answers(t.Context(), m.later(dir), 1000); got["1"]+got["2"] != 1000 || got["2"] < 300 {
				t.Errorf("the calls are answered by %v, want plain discovery", got)
			}
		})
	}
}

// A first answer that shows no chain, such as of an agent that does not know the token yet, leaves the
// kept one in force, and its file.
//
// Case R19
func TestADenialLeavesTheKeptChain(t *testing.T) {
	m, dir := keptSplit(t)
	files := len(snapshots(t, dir))
	defer m.agent.Inject(consultest.Forbidden().On("/v1/discovery-chain/"))()
	if got := answers(t.Context(), m.later(dir), 1000); !isTenth(got) {
		t.Errorf("the calls are answered by %v, want the split of 90 and 10", got)
	}
	if n := len(snapshots(t, dir)); n != files {
		t.Errorf("%d files are kept, want %d", n, files)
	}
}

// A chain that is refused leaves the kept one, the last good one, in force.
//
// Case T7
// Case R19
func TestARefusedChainLeavesTheKeptOne(t *testing.T) {
	m, dir := keptSplit(t)
	m.configure(`{"Kind": "service-router", "Name": "catalog", "Routes": [{
		"Match": {"HTTP": {"QueryParam": [{"Name": "x", "Present": true}]}}, "Destination": {"ServiceSubset": "v2"}}]}`)
	if got := answers(t.Context(), m.later(dir), 1000); !isTenth(got) {
		t.Errorf("the calls are answered by %v, want the split of 90 and 10", got)
	}
}
