package scale_test

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/internal/racetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// small is a mesh that takes seconds, also with the race detector.
var small = size{services: 8, instances: 60, channels: 4, perNode: 20, wide: 20, subset: 10, servers: 3, answers: 5000}

// A mesh costs Consul one read for each watched service of each process when they all start at
// once, one a minute when nothing changes, and one for each client of a service that changes.
// Renewals do not come in waves.
//
// Case scale: A mesh costs Consul one read per watched service and minute, and no wave of them follows a restart of all clients.
func TestQueriesOfAMesh(t *testing.T) {
	racetest.Skip(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, small)
		m.start()
		defer m.stop()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		all := small.instances * small.channels
		if got := m.ready(); got != all {
			t.Fatalf("%d channels can call after their start, want %d", got, all)
		}
		if got := m.span(0, time.Second); got.answers != all {
			t.Errorf("%d answers at the start, want one for each watch: %d", got.answers, all)
		}
		_, open := m.busiestAgent()
		if want := small.perNode * small.channels; open != want {
			t.Errorf("%d queries are open at one agent, want one for each watch of its node: %d", open, want)
		}

		time.Sleep(10 * time.Minute)
		first, later := m.span(time.Second, 3*time.Minute), m.span(3*time.Minute, 10*time.Minute)
		if got, want := later.perSecond(), float64(all)/60; got < 0.9*want || got > 1.1*want {
			t.Errorf("%.1f queries a second while nothing changes, want some %.1f: one a minute for each watch", got, want)
		}
		if want := 4 * all / 60; first.busiest > want {
			t.Errorf("%d queries in the busiest second after a restart of all clients, want them spread: at most %d", first.busiest, want)
		}
	})
}

// Every client of a service follows each change of a deploy by one query, and none picks an
// instance that has left.
//
// Case scale
func TestDeployReachesAllClients(t *testing.T) {
	racetest.Skip(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, small)
		m.start()
		defer m.stop()
		time.Sleep(5 * time.Minute)
		for _, name := range []string{hub, "service-3"} {
			began := m.now()
			r := m.deploy(name, 2*time.Second)
			synctest.Wait()
			if r.lastRemoved > time.Second || name != wide && r.lastAdded > time.Second { // a subset may take a new one later
				t.Errorf("%s: the last client saw a new instance after %v and one that left after %v, want a second at most", name, r.lastAdded, r.lastRemoved)
			}
			if n := m.strays(); n != 0 {
				t.Errorf("%s: %d channels pick what has left, or nothing", name, n)
			}
			if name == wide {
				continue // more changes than a watch reads at once
			}
			watchers, idle := m.watchers[name], len(m.channels)-m.watchers[name]
			renewals := idle * int((m.now()-began)/time.Second) / 60
			got, want := m.span(began, m.now()).answers, watchers*r.changes+renewals
			if got < want*8/10 || got > want*12/10 {
				t.Errorf("%s: %d answers for %d changes and %d clients, want some %d", name, got, r.changes, watchers, want)
			}
		}
	})
}

// An outage of Consul's servers ends no call, and the clients come back spread over seconds.
//
// Case scale
func TestServersComeBackToSpreadClients(t *testing.T) {
	racetest.Skip(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, small)
		m.start()
		defer m.stop()
		time.Sleep(5 * time.Minute)
		m.fail()
		time.Sleep(time.Minute)
		all := small.instances * small.channels
		if got := m.ready(); got != all {
			t.Errorf("%d channels can call during an outage of Consul, want all %d", got, all)
		}
		m.recover()
		began := m.now()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		back := m.span(began, began+20*time.Second)
		if back.answers < all {
			t.Errorf("%d answers within 20 s of the end of the outage, want one for each watch: %d", back.answers, all)
		}
		if want := all / 2; back.busiest > want {
			t.Errorf("%d of %d watches come back in one second, want them spread: at most %d", back.busiest, all, want)
		}
	})
}

// A subset bounds the connections of clients times endpoints, and spreads them.
//
// Case scale
func TestSubsetsSpreadConnections(t *testing.T) {
	racetest.Skip(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, small)
		m.start()
		defer m.stop()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		mean, most := m.connections(wide)
		if want := float64(m.watchers[wide]*small.subset) / float64(small.wide); mean != want {
			t.Errorf("%.1f connections to each instance, want a subset of each client: %.1f", mean, want)
		}
		if float64(most) > 3*mean+5 {
			t.Errorf("%d connections to one instance, and %.1f to each in the mean", most, mean)
		}
		if mean, most := m.connections(hub); mean != float64(small.instances) || most != int64(small.instances) {
			t.Errorf("%.1f connections to each instance of the hub, want one of each client: %d", mean, small.instances)
		}
	})
}
