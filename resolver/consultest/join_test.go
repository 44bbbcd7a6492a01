package consultest_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// joined are agents of datacenters east and west, with Consul's client of east.
func joined(t *testing.T) (east, west *consultest.Server, client *api.Client) {
	t.Helper()
	east, client = newAgent(t, consultest.WithDatacenter("east"))
	west, _ = newAgent(t, consultest.WithDatacenter("west"), consultest.WithNode("w", "10.1.0.1"))
	must(t, east.Join(west))
	return east, west, client
}

func TestJoinedDatacentersAnswerForEachOther(t *testing.T) {
	eachWay(t, func(t *testing.T, east *consultest.Server, c *http.Client) {
		west, westClient := newAgent(t, consultest.WithDatacenter("west"))
		north, _ := newAgent(t, consultest.WithDatacenter("north"))
		must(t, east.Join(west, north))
		client := agentOver(t, c)
		for i, s := range []*consultest.Server{east, west, north} {
			for range i { // so that indexes differ
				must(t, s.Register(consultest.Service{ID: "x", Name: "other"}))
				must(t, s.Deregister("x"))
			}
			must(t, s.Register(consultest.Service{ID: []string{"e", "w", "n"}[i], Name: "web"}))
		}
		indexes := make(map[uint64]bool)
		for dc, want := range map[string]string{"": "e=passing", "east": "e=passing", "west": "w=passing", "north": "n=passing"} {
			entries, meta, err := client.Health().Service("web", "", true, &api.QueryOptions{Datacenter: dc})
			must(t, err)
			if show(entries) != want {
				t.Errorf("east asked for %q answers %s, want %s", dc, show(entries), want)
			}
			indexes[meta.LastIndex] = true
		}
		if len(indexes) != 3 {
			t.Errorf("the indexes are %v, want one of each datacenter", indexes)
		}
		entries, _, err := westClient.Health().Service("web", "", true, &api.QueryOptions{Datacenter: "north"})
		if must(t, err); show(entries) != "n=passing" {
			t.Errorf("west asked for north answers %s", show(entries))
		}
		if dcs, err := client.Catalog().Datacenters(); err != nil || !slices.Equal(dcs, []string{"east", "north", "west"}) {
			t.Errorf("got %v, %v", dcs, err)
		}
		if got := <-ask(client, "web", &api.QueryOptions{Datacenter: "south"}); got.err == nil || !strings.Contains(got.err.Error(), "500 (No path to datacenter)") {
			t.Errorf("got %+v", got)
		}
	}, consultest.WithDatacenter("east"))
}

func TestKeysOfAnotherDatacenter(t *testing.T) {
	_, west, client := joined(t)
	if _, err := client.KV().Put(&api.KVPair{Key: "k", Value: []byte("v")}, &api.WriteOptions{Datacenter: "west"}); err != nil {
		t.Fatal(err)
	}
	if pair, _, err := client.KV().Get("k", nil); err != nil || pair != nil {
		t.Errorf("east has it: %+v, %v", pair, err)
	}
	if got := do(t, &http.Client{Transport: west.Transport()}, "GET", "/v1/kv/k?raw", ""); got.body != "v" {
		t.Errorf("got %+v", got)
	}
}

func TestQueriesForAnotherDatacenterBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		east, west, client := joined(t)
		must(t, west.Register(consultest.Service{Name: "web"}))
		first := <-ask(client, "web", &api.QueryOptions{Datacenter: "west"})
		wait := func() <-chan asked {
			return ask(client, "web", &api.QueryOptions{Datacenter: "west", WaitIndex: first.index})
		}
		done := wait()
		must(t, east.Register(consultest.Service{Name: "web"}))
		east.Inject(consultest.Empty().Service("other"))
		if !pending(done) {
			t.Fatalf("what happened in the east ended the query: %+v", <-done)
		}
		time.Sleep(time.Minute)
		must(t, west.SetStatus("web", consultest.HealthWarning))
		if got := <-done; got.shown != "web=warning" || got.took != time.Minute {
			t.Errorf("got %+v", got)
		}

		first = <-ask(client, "web", &api.QueryOptions{Datacenter: "west"})
		for name, fault := range map[string]func() (lift func()){
			"here":  func() func() { return east.Inject(consultest.NoLeader()) },
			"there": func() func() { return west.Inject(consultest.NoLeader()) },
			"break": func() func() { return east.Inject(consultest.Reset()) },
			"empty": func() func() { return east.Inject(consultest.Empty()) },
		} {
			done := wait()
			synctest.Wait()
			lift := fault()
			switch got := <-done; {
			case got.took != 0, name == "empty" && (got.err != nil || got.shown != ""),
				name != "empty" && got.err == nil, name == "break" && !errors.Is(got.err, syscall.ECONNRESET):
				t.Errorf("%s: got %+v", name, got)
			}
			lift()
		}
	})
}

// What goes wrong between datacenters is an error of the agent that was asked.
func TestADatacenterThatCannotBeReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		east, west, client := joined(t)
		must(t, west.Register(consultest.Service{Name: "web"}))
		open := ask(client, "web", &api.QueryOptions{Datacenter: "west", WaitIndex: 1000})
		synctest.Wait()
		west.SetReachable(false)
		if got := <-open; got.err == nil || !strings.Contains(got.err.Error(), "503 (error reading from server: EOF)") {
			t.Errorf("got %+v", got)
		}
		const refused = "500 (rpc error getting client: failed to get conn: dial tcp 127.0.0.1:0->10.1.0.1:8300: connect: connection refused)"
		if got := <-ask(client, "web", &api.QueryOptions{Datacenter: "west"}); got.err == nil || !strings.Contains(got.err.Error(), refused) {
			t.Errorf("got %+v", got)
		}
		if dcs, _ := client.Catalog().Datacenters(); len(dcs) != 2 {
			t.Errorf("got %v", dcs)
		}
		west.SetReachable(true)
		if got := <-ask(client, "web", &api.QueryOptions{Datacenter: "west"}); got.shown != "web=passing" {
			t.Errorf("got %+v", got)
		}
		lift := west.Inject(consultest.Reset().Times(1), consultest.Truncate())
		for range 2 {
			if got := <-ask(client, "web", &api.QueryOptions{Datacenter: "west"}); got.err == nil || !strings.Contains(got.err.Error(), "503") {
				t.Errorf("got %+v", got)
			}
		}
		lift()
		closed := ask(client, "web", &api.QueryOptions{Datacenter: "west", WaitIndex: 1000})
		synctest.Wait()
		east.Close()
		if got := <-closed; got.err == nil || strings.Contains(got.err.Error(), "503") {
			t.Errorf("got %+v", got)
		}
		west.Close()
	})
}

func TestOneDatacenterCannotJoinItself(t *testing.T) {
	a, _ := newAgent(t)
	b, _ := newAgent(t)
	if err := a.Join(b); err == nil || !strings.Contains(err.Error(), `cannot join two agents of datacenter "dc1": name one with WithDatacenter`) {
		t.Errorf("got %v", err)
	}
}

// A connection that breaks between datacenters is not the client's.
func TestABreakBetweenDatacentersLeavesTheClientsConnection(t *testing.T) {
	eachWay(t, func(t *testing.T, east *consultest.Server, c *http.Client) {
		west, _ := newAgent(t, consultest.WithDatacenter("west"))
		must(t, east.Join(west))
		west.Inject(consultest.Reset())
		if got := do(t, c, "GET", "/v1/health/service/web?dc=west", ""); got.code != 503 || got.body != "error reading from server: EOF" {
			t.Errorf("got %+v", got)
		}
	}, consultest.WithDatacenter("east"))
}
