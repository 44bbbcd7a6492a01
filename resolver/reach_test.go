package resolver_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/meshlite-go/meshlite/internal/racetest"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// reaching makes a channel to a subset of catalog, from a builder of its own. Its owner
// closes it. Slow start would only take time: its many weights are another matter.
func (m *mesh) reaching(directory catalog.Watcher, subset int) *grpc.ClientConn {
	m.t.Helper()
	const config = `{"loadBalancingConfig": [{"meshlite_round_robin": {"slowStart": {"window": "0s"}}}]}`
	conn, err := grpc.NewClient("consul:///catalog", append(m.options(directory, resolver.WithSubset(subset)), grpc.WithDefaultServiceConfig(config))...)
	if err != nil {
		m.t.Fatal(err)
	}
	return conn
}

// refused fails a dial as a host without the program does, and swallowed as one that is
// off: after the time that gRPC gives a connection.
func refused(context.Context) error { return errors.New("connection refused") }

func swallowed(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// addDead registers count instances, from number first on, to which a dial fails.
func (m *mesh) addDead(first, count int, fail func(context.Context) error) {
	m.t.Helper()
	for n := first; n < first+count; n++ {
		host := fmt.Sprintf("10.0.1.%d", n)
		m.mu.Lock()
		if m.dead == nil {
			m.dead = map[string]func(context.Context) error{}
		}
		m.dead[net.JoinHostPort(host, "80")] = fail
		m.mu.Unlock()
		if err := m.agent.Register(consultest.Service{ID: "dead-" + strconv.Itoa(n), Name: "catalog", Address: host, Port: 80}); err != nil {
			m.t.Fatal(err)
		}
	}
}

// outage calls every 50 ms for a time, and is the longest that no call was answered.
func outage(conn *grpc.ClientConn, lasts time.Duration) (longest time.Duration) {
	begin := time.Now()
	for last := begin; time.Since(begin) < lasts; time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		_, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
		cancel()
		longest = max(longest, time.Since(last))
		if err == nil {
			last = time.Now()
		}
	}
	return longest
}

// R23: a subset exchanges members that do not connect; while any instance is reachable
// it holds at least min(3, reachable) of them: with 3 good and 200 dead registered, 0 of
// 40 clients have an outage longer than 1 s.
//
// Case R23: A subset holds three that can be reached while there are, and exchanges what does
// not connect.
func TestASubsetFindsTheFewThatCanBeReached(t *testing.T) {
	racetest.Skip(t)
	for name, test := range map[string]struct {
		fail            func(context.Context) error
		subset, clients int
	}{
		"refused":             {refused, 100, 6},
		"swallowed":           {swallowed, 100, 10},
		"refused, of few":     {refused, 5, 4},
		"swallowed, of few":   {swallowed, 5, 4},
		"swallowed, of three": {swallowed, 3, 4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(t)
				for n := range 3 {
					m.start(n + 1)
				}
				m.addDead(1, 200, test.fail)
				directory := m.directory()
				var clients sync.WaitGroup
				for range test.clients {
					conn := m.reaching(directory, test.subset)
					defer conn.Close()
					clients.Go(func() {
						if d := outage(conn, 8*time.Second); d > time.Second {
							t.Errorf("a client could call nobody for %v", d)
						}
					})
				}
				clients.Wait()
				for n := range 3 {
					if m.connections(n+1) != test.clients {
						t.Errorf("%d connections were made to instance %d, want one of each of %d clients", m.connections(n+1), n+1, test.clients)
					}
				}
			})
		})
	}
}

// P14, of what does not connect: one dead instance is exchanged for one, comes back in
// its place when it can be reached, and no connection to a well one is touched.
//
// Case P14
func TestOneDeadMemberIsExchangedForOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, all = 10, 30
		m := newMesh(t)
		for n := range all {
			m.start(n + 1)
		}
		conn := m.reaching(m.directory(), size)
		defer conn.Close()
		mustCall(t, conn, 1)
		synctest.Wait() // for all connections
		before := m.connected(all)
		if len(before) != size {
			t.Fatalf("%d instances are connected, want %d", len(before), size)
		}
		victim := before[0]
		back := m.stop(victim)
		time.Sleep(5 * time.Second)
		if now := m.connected(all); !slices.Equal(now, before[1:]) {
			t.Errorf("after a moment %v are connected, want no other than of %v: it may be a restart", now, before)
		}
		time.Sleep(10 * time.Second)
		now := m.connected(all)
		if n := len(now); n != size || len(without(before, now)) != 1 {
			t.Errorf("%v are connected after %v, want %d of which one is another", now, before, size)
		}
		mustCall(t, conn, 50)
		back()
		time.Sleep(6 * time.Minute) // longer than the longest time between two tries
		if now := m.connected(all); !slices.Equal(now, before) {
			t.Errorf("%v are connected when all are well, want %v as before", now, before)
		}
		for _, n := range before[1:] {
			if m.connections(n) != 1 {
				t.Errorf("instance %d was connected %d times, want once", n, m.connections(n))
			}
		}
	})
}

// R23: many members that die together are exchanged, but not all at once.
//
// Case R23
func TestDeadMembersAreExchangedAtABoundedRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, all = 40, 120
		m := newMesh(t)
		for n := range all {
			m.start(n + 1)
		}
		conn := m.reaching(m.directory(), size)
		defer conn.Close()
		mustCall(t, conn, 1)
		synctest.Wait()
		before := m.connected(all)
		for _, n := range before[:20] {
			m.stop(n)
		}
		time.Sleep(10 * time.Second)
		for seconds := range 10 {
			if n := len(without(m.connected(all), before)); n > (seconds+1)*size/10 {
				t.Errorf("%d members were exchanged within %d s, want %d at most", n, seconds, (seconds+1)*size/10)
			}
			time.Sleep(time.Second)
		}
		if n := len(m.connected(all)); n != size {
			t.Errorf("%d instances are connected, want %d", n, size)
		}
	})
}

// R23: instances that are reachable again are found wherever they are in the list.
//
// Case R23
func TestASubsetFindsWhatComesBack(t *testing.T) {
	racetest.Skip(t)
	for name, fail := range map[string]func(context.Context) error{"refused": refused, "swallowed": swallowed} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(t)
				m.addDead(1, 100, fail)
				var back []func()
				for n := range 3 {
					m.start(n + 1)
					back = append(back, m.stop(n+1))
				}
				conn := m.reaching(m.directory(), 5)
				defer conn.Close()
				if err := hurriedly(conn); err == nil {
					t.Fatal("a call was answered though all are dead")
				}
				time.Sleep(10 * time.Minute)
				for _, start := range back {
					start()
				}
				time.Sleep(7 * time.Minute) // longer than the longest time between two tries
				mustCall(t, conn, 10)
				if now := m.connected(3); len(now) != 3 {
					t.Errorf("%v are connected, want all three that can be reached", now)
				}
				if n := m.dialed(); n > 10000 {
					t.Errorf("%d connections were tried in 17 minutes, to 103 instances", n)
				}
			})
		})
	}
}

// R23, P14: which members are dead survives an idle cycle, too.
//
// Case R23
func TestASubsetRemembersTheDeadOverAnIdleCycle(t *testing.T) {
	racetest.Skip(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		for n := range 3 {
			m.start(n + 1)
		}
		m.addDead(1, 100, swallowed)
		conn := m.reaching(m.directory(), 5)
		defer conn.Close()
		outage(conn, 20*time.Second)
		time.Sleep(40 * time.Minute)
		if err := hurriedly(conn); err != nil {
			t.Errorf("the first call after idleness: %v", err)
		}
	})
}

// R23: policies of gRPC's own, which say nothing of connections, keep their subset.
//
// Case R23
func TestASubsetForAForeignPolicyStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, "consul:///catalog?policy=grpc:round_robin", resolver.WithSubset(5))
		s.answer(upTo(50)...)
		before := s.channel.updates()
		time.Sleep(time.Hour)
		if n := s.channel.updates() - before; n != 0 {
			t.Errorf("%d updates though nothing has changed", n)
		}
	})
}

// without is what of list is not in others.
func without(list, others []int) []int {
	return slices.DeleteFunc(slices.Clone(list), func(n int) bool { return slices.Contains(others, n) })
}
