package consul_test

import (
	"context"
	"fmt"
	"math"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/internal/racetest"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

const manyWatches = 300

func serviceName(n int) string { return fmt.Sprint("service-", n) }

func registerNamed(t *testing.T, agent *consultest.Server, name string, port int) {
	t.Helper()
	err := agent.Register(consultest.Service{ID: fmt.Sprint(name, "-", port), Name: name, Address: "10.0.0.1", Port: port})
	if err != nil {
		t.Fatal(err)
	}
}

// watchMany watches manyWatches services, each with one instance, and waits for
// the first answers.
func watchMany(t *testing.T, agent *consultest.Server, d *consul.Directory) []*reports {
	t.Helper()
	var all []*reports
	for n := range manyWatches {
		registerNamed(t, agent, serviceName(n), 1)
		all = append(all, watch(d, catalog.Query{Service: serviceName(n)}))
	}
	for _, r := range all {
		r.await(t, "10.0.0.1:1")
	}
	return all
}

// R12: 300 watched services in one process work over at most 64 connections to
// the agent (its limit is 200 per client address).
//
// Case R12
func TestManyWatchesShareFewConnections(t *testing.T) {
	agent := consultest.New()
	defer agent.Close()
	address, err := agent.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d, err := consul.New(consul.Config{Address: address, Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var used connections
	consul.WrapDial(d, used.count)
	all := watchMany(t, agent, d)
	for n, r := range all {
		defer r.stop()
		registerNamed(t, agent, serviceName(n), 2)
	}
	for _, r := range all {
		r.await(t, "10.0.0.1:1", "10.0.0.1:2")
	}
	mustRegister(t, d, instance("late-1", serveHealth(t))) // for which there is always a connection left
	if most := used.most.Load(); most > 64 || most < 2 {
		t.Errorf("%d connections for %d watches, want some and 64 at most", most, manyWatches)
	}
	if n := d.Stats()[0].Watches; n != manyWatches {
		t.Errorf("the statistics report %d watches", n)
	}
}

// connections are those that a client has open. The other end still counts one that is
// closed until it reads so.
type connections struct{ open, most atomic.Int64 }

func (c *connections) count(dial consul.Dial) consul.Dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		open := c.open.Add(1)
		for most := c.most.Load(); open > most && !c.most.CompareAndSwap(most, open); most = c.most.Load() {
		}
		return &countedConn{conn, sync.OnceFunc(func() { c.open.Add(-1) })}, nil
	}
}

type countedConn struct {
	net.Conn
	closed func()
}

func (c *countedConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

// R12, exactly: no watch of 300 is notified of a change later than its turn comes, with
// at most 60 queries in the air, and registrations are not kept waiting.
//
// Case R12
func TestACrowdTakesTurns(t *testing.T) {
	racetest.Skip(t)
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		counted := countTraffic(agent)
		d := newDirectory(t, agent, consul.Config{})
		const turns = manyWatches / 60 * time.Second * 17 / 16
		start := time.Now()
		all := watchMany(t, agent, d)
		if took := time.Since(start); took > turns {
			t.Errorf("the first answers took %v", took)
		}
		for _, r := range all {
			defer r.stop()
		}
		time.Sleep(time.Minute)
		var worst time.Duration
		for n := 0; n < manyWatches; n += 7 {
			registerNamed(t, agent, serviceName(n), 2)
			changed := time.Now()
			all[n].await(t, "10.0.0.1:1", "10.0.0.1:2")
			worst = max(worst, time.Since(changed))
		}
		if worst > turns {
			t.Errorf("a watch was notified of a change after %v, want %v at most", worst, turns)
		}
		start = time.Now()
		if _, err := d.NodeAddress(t.Context()); err != nil || time.Since(start) > 0 {
			t.Errorf("what does not block waited %v: %v", time.Since(start), err)
		}
		if most := counted.mostSince(); most > 61 {
			t.Errorf("%d requests at one time, want the one that does not block and 60", most)
		}
	})
}

// The watches that came first give way when more come, and have long queries
// again when these are gone.
//
// Case R12
func TestACrowdComesAndGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		d := newDirectory(t, agent, consul.Config{})
		var first []*reports
		for n := range 60 {
			first = append(first, watch(d, catalog.Query{Service: serviceName(n)}))
			defer first[n].stop()
		}
		time.Sleep(time.Second)
		registerNamed(t, agent, "late", 1)
		start := time.Now()
		late := watch(d, catalog.Query{Service: "late"})
		late.await(t, "10.0.0.1:1")
		if took := time.Since(start); took > time.Second {
			t.Errorf("a watch that came late had its first answer after %v", took)
		}
		late.stop()
		time.Sleep(2 * time.Minute)
		before := len(agent.Queries())
		time.Sleep(10 * time.Minute)
		if n := len(agent.Queries()) - before; n > 60*10 {
			t.Errorf("%d queries of 60 watches in 10 minutes, want one a minute each", n)
		}
		for _, r := range first {
			if err := r.lastError(); err != nil {
				t.Fatalf("giving way was an error: %v", err)
			}
		}
	})
}

// R18: 500 clients restarted together spread their queries over the jitter window.
// They lose their queries at one moment, with the agent, and come back over the
// quarter of a second of the first back-off: chi-square over 10 slices is above
// 45 once in a million times.
//
// Case R18: Clients that lose the agent together come back apart.
func TestClientsThatLoseTheAgentTogetherComeBackApart(t *testing.T) {
	racetest.Skip(t)
	synctest.Test(t, func(t *testing.T) {
		const clients, slices, window = 500, 10, 250 * time.Millisecond
		agent := consultest.New()
		defer agent.Close()
		registerNamed(t, agent, "catalog", 1)
		for range clients {
			defer watch(newDirectory(t, agent, consul.Config{}), catalog.Query{Service: "catalog"}).stop()
		}
		time.Sleep(time.Second)
		before := len(agent.Queries())
		lost := time.Now()
		agent.Restart()
		time.Sleep(time.Second)
		counts := make([]float64, slices)
		back := map[time.Duration]bool{}
		for _, q := range agent.Queries()[before:] {
			after := q.Time.Sub(lost)
			if q.Index > 0 || !strings.Contains(q.RawQuery, "stale") {
				continue // the ones after that
			}
			if after < window || after >= 2*window {
				t.Fatalf("a client came back after %v, want %v to %v", after, window, 2*window)
			}
			counts[int((after-window)*slices/window)]++
			back[after] = true
		}
		sum := 0.0
		for _, n := range counts {
			sum += math.Pow(n-clients/slices, 2) / (clients / slices)
		}
		if sum > 45 {
			t.Errorf("chi-square is %.0f: the clients came back in heaps: %v", sum, counts)
		}
		if len(back) < clients*9/10 {
			t.Errorf("%d moments of %d queries", len(back), clients)
		}
	})
}

// R18, where nothing was lost: clients started at one moment ask again over the
// sixteenth that Consul adds to a wait.
//
// Case R18
func TestClientsStartedTogetherDriftApart(t *testing.T) {
	racetest.Skip(t)
	synctest.Test(t, func(t *testing.T) {
		const clients = 500
		agent := consultest.New()
		defer agent.Close()
		registerNamed(t, agent, "catalog", 1)
		for range clients {
			defer watch(newDirectory(t, agent, consul.Config{}), catalog.Query{Service: "catalog"}).stop()
		}
		time.Sleep(65 * time.Second)
		busiest := map[int]int{}
		for _, q := range agent.Queries()[2*clients:] { // after the first and the first blocking one
			busiest[int(time.Since(q.Time)/(375*time.Millisecond))]++
		}
		for slice, n := range busiest {
			if n > clients/10*2 {
				t.Errorf("%d of %d clients asked in slice %d of ten", n, clients, slice)
			}
		}
	})
}

// R20: each datacenter keeps its own index.
//
// Case R20: Each datacenter keeps its own index; a channel that leaves idle resolves again.
func TestEachDatacenterKeepsItsOwnIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := consultest.New(consultest.WithDatacenter("here")), consultest.New(consultest.WithDatacenter("there"))
		defer here.Close()
		defer there.Close()
		here.Join(there)
		for range 100 { // the index of one is far ahead
			registerNamed(t, there, "catalog", 1)
			if err := there.Deregister("catalog-1"); err != nil {
				t.Fatal(err)
			}
		}
		registerNamed(t, here, "catalog", 1)
		registerNamed(t, there, "catalog", 2)
		d := newDirectory(t, here, consul.Config{})
		near := watch(d, catalog.Query{Service: "catalog", Datacenter: "here"})
		defer near.stop()
		far := watch(d, catalog.Query{Service: "catalog", Datacenter: "there"})
		defer far.stop()
		for turn := range 5 {
			registerNamed(t, here, "catalog", 10+turn)
			synctest.Wait()
			if s, _ := near.last(); len(s.Instances) != turn+2 {
				t.Fatalf("turn %d: the near watch reports %v", turn, addressesOf(s))
			}
			registerNamed(t, there, "catalog", 20+turn)
			synctest.Wait()
			if s, _ := far.last(); len(s.Instances) != turn+2 {
				t.Fatalf("turn %d: the far watch reports %v", turn, addressesOf(s))
			}
		}
		there.SetReachable(false) // and its own failures
		registerNamed(t, here, "catalog", 99)
		time.Sleep(time.Second)
		if s, _ := near.last(); len(s.Instances) != 7 || near.lastError() != nil || far.lastError() == nil {
			t.Errorf("near: %v %v, far: %v", addressesOf(s), near.lastError(), far.lastError())
		}
	})
}

// Two agents behind one host are distinguished by more than the host.
func TestAgentBehindAPrefixHasANameOfItsOwn(t *testing.T) {
	d, err := consul.New(consul.Config{Address: "http://127.0.0.1:8500/consul", Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	other, err := d.At("127.0.0.1:8500")
	if err != nil {
		t.Fatal(err)
	}
	if d.Name() != "consul at 127.0.0.1:8500/consul" || other.Name() != "consul at 127.0.0.1:8500" {
		t.Errorf("the names are %q and %q", d.Name(), other.Name())
	}
}

func TestStatsCountWhatIsAskedAndWhatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		d := newDirectory(t, agent, consul.Config{})
		other, err := d.At("10.0.0.9:8500")
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := d.At("10.0.0.9:8500"); again != other {
			t.Error("the directory of another agent is not the same the second time")
		}
		if own, _ := d.At("127.0.0.1:8500"); own != d {
			t.Error("the directory of its own agent is another")
		}

		r := watch(d, catalog.Query{Service: "catalog"})
		synctest.Wait()
		r.stop() // which is no failure
		s := d.Stats()
		if len(s) != 2 || s[0].Agent != "127.0.0.1:8500" || s[1].Agent != "10.0.0.9:8500" || s[1].Requests != 0 {
			t.Fatalf("the statistics are %+v, want those of both agents", s)
		}
		if s[0].Requests < 2 || s[0].Failures != 0 || s[0].Watches != 0 {
			t.Errorf("after a watch of an unknown service: %+v", s[0])
		}
		lift := agent.Inject(consultest.NoLeader())
		before := s[0].Failures
		r = watch(d, catalog.Query{Service: "catalog"})
		time.Sleep(time.Minute)
		r.stop()
		lift()
		if s := d.Stats()[0]; s.Failures == before {
			t.Errorf("a minute without a leader is no failure: %+v", s)
		}
	})
}
