package resolver_test

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	_ "google.golang.org/grpc/balancer/ringhash"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	grpcresolver "google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/serviceconfig"

	"github.com/meshlite-go/meshlite/balancer"
	_ "github.com/meshlite-go/meshlite/balancer/peakewma"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// A service config or a policy change at run time swaps policies without dropping a
// call, and what was measured stays.
//
// Case swap: Another policy or config at run time drops no call.
func TestAPolicySwapDropsNoCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		var state grpcresolver.State
		for n := range 3 {
			m.start(n + 1)
			endpoint := grpcresolver.Endpoint{Addresses: []grpcresolver.Address{{Addr: fmt.Sprintf("10.0.0.%d:80", n+1)}}}
			state.Endpoints = append(state.Endpoints, endpoint)
			state.Addresses = append(state.Addresses, endpoint.Addresses...)
		}
		table := balancer.NewTable()
		state = balancer.WithTable(state, table)
		r := manual.NewBuilderWithScheme("swap")
		r.InitialState(state)
		conn, err := grpc.NewClient("swap:///catalog", grpc.WithResolvers(r), grpc.WithContextDialer(m.dial),
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(), grpc.WithDefaultServiceConfig(resolver.DefaultServiceConfig))
		if err != nil {
			t.Fatal(err)
		}
		mustCall(t, conn, 10)
		stop := make(chan struct{})
		var callers sync.WaitGroup
		for range 4 {
			callers.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(time.Millisecond):
						if err := call(conn); err != nil {
							t.Error(err)
							return
						}
					}
				}
			})
		}
		for range 10 {
			for _, policy := range []string{
				`{"meshlite_round_robin": {}}`, `{"meshlite_peak_ewma": {}}`, `{"round_robin": {}}`, `{"pick_first": {}}`, `{"meshlite_least_request": {}}`,
				`{"meshlite_least_request": {"fullScan": 1, "choiceCount": 2, "slowStart": {"window": "0s"}}}`,
			} {
				state.ServiceConfig = parsed(r, policy)
				r.UpdateState(state)
				time.Sleep(20 * time.Millisecond)
				if state.ServiceConfig.Err != nil {
					t.Fatal(state.ServiceConfig.Err)
				}
			}
		}
		close(stop)
		callers.Wait()
		var picks uint64
		for _, e := range table.Stats().Endpoints {
			picks += e.Picks
		}
		if picks < 2000 { // of 4,800 calls, those of the policies that use the table
			t.Errorf("the policies share a table with %d picks", picks)
		}
		_ = conn.Close()
		if left := table.Stats().Endpoints; len(left) > 0 {
			t.Errorf("a closed channel still uses %v", left)
		}
	})
}

// parsed parses a policy as a resolver has it parsed.
func parsed(r *manual.Resolver, policy string) *serviceconfig.ParseResult {
	return r.CC().ParseServiceConfig(`{"loadBalancingConfig": [` + policy + `]}`)
}

// customers are who is asked for by a key in the metadata, and where their calls go.
func customers(t *testing.T, conn *grpc.ClientConn, n int) map[string]string {
	t.Helper()
	at := map[string]string{}
	for i := range n {
		customer := "customer-" + strconv.Itoa(i)
		var p peer.Peer
		ctx := metadata.AppendToOutgoingContext(context.Background(), "customer-id", customer)
		if _, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}, grpc.Peer(&p), grpc.WaitForReady(true)); err != nil {
			t.Fatal(err)
		}
		at[customer] = p.Addr.String()
	}
	return at
}

// gRPC's own ring_hash works on our endpoints: a customer stays at an instance, as many
// as its weight says, wherever the instance listens.
//
// Case affinity: Grpc's ring_hash keeps customers at their instance.
func TestRingHashKeepsCustomersAtTheirInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		for n := range 3 {
			m.start(n + 1)
		}
		m.register(3, consultest.Service{Weights: consultest.Weights{Passing: 3, Warning: 1}})
		m.start(9) // where the first one will move to
		if err := m.agent.Deregister("catalog-9"); err != nil {
			t.Fatal(err)
		}
		const config = `{"loadBalancingConfig": [{"ring_hash_experimental": {"requestHashHeader": "customer-id"}}]}`
		conn, err := grpc.NewClient("consul:///catalog", append(m.options(m.directory(), resolver.WithSubset(0)),
			grpc.WithDefaultServiceConfig(config), grpc.WithContextDialer(named(m)))...)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		const n = 500
		customers(t, conn, n)
		synctest.Wait()
		before := customers(t, conn, n) // now that all are connected
		counts := map[string]int{}
		for _, address := range before {
			counts[address]++
		}
		if c := counts["10.0.0.3:80"]; c < n/2 || c > n*7/10 {
			t.Errorf("customers are at %v, want three of five at the third", counts)
		}
		for customer, address := range customers(t, conn, n) {
			if address != before[customer] {
				t.Fatalf("%s was at %s and is at %s", customer, before[customer], address)
			}
		}
		if err := m.agent.Register(consultest.Service{ID: "catalog-1", Name: "catalog", Address: "10.0.0.9", Port: 80}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		customers(t, conn, n)
		synctest.Wait()
		for customer, address := range customers(t, conn, n) {
			if was := strings.Replace(before[customer], "10.0.0.1:", "10.0.0.9:", 1); address != was {
				t.Errorf("%s is at %s, want %s after the first instance has moved", customer, address, was)
			}
		}
	})
}

// named connects so that the peer's address is the one that was dialed.
func named(m *mesh) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := m.dial(ctx, address)
		if err != nil {
			return nil, err
		}
		return namedConn{conn, address}, nil
	}
}

type namedConn struct {
	net.Conn
	address string
}

func (c namedConn) RemoteAddr() net.Addr { return name(c.address) }

type name string

func (n name) Network() string { return "bufconn" }
func (n name) String() string  { return string(n) }

// The zone of a channel, and those of instances from Consul's locality or metadata,
// reach the policy.
//
// Case zones
func TestAChannelKnowsItsZone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		for n := range 4 {
			m.start(n + 1)
		}
		m.register(1, consultest.Service{Meta: map[string]string{"zone": "eu-1a"}})
		m.register(2, consultest.Service{Locality: &consultest.Locality{Region: "eu-1", Zone: "eu-1a"}})
		m.register(3, consultest.Service{Meta: map[string]string{"zone": "eu-1b"}})
		m.register(4, consultest.Service{Meta: map[string]string{"zone": "eu-1b"}})
		conn := m.connect(resolver.WithLocality("eu-1", "eu-1a"))
		defer conn.Close()
		mustCall(t, conn, 1)
		synctest.Wait()
		before := m.count(4)
		mustCall(t, conn, 200)
		for i, n := range m.count(4) {
			if n -= before[i]; (i < 2) != (n > 50) || i >= 2 && n > 0 {
				t.Errorf("instance %d has %d of 200 calls; the first two are in the zone", i+1, n)
			}
		}
	})
}

// R21, as far as the picker: an instance that comes has a call, and one that goes has
// none more, before any time has gone by, with the default policy and a real connection.
//
// Case R21
func TestAChangeReachesThePickerAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		for n := range 3 {
			m.start(n + 1)
		}
		conn := m.connect()
		defer conn.Close()
		mustCall(t, conn, 30)
		time.Sleep(time.Minute)
		mustCall(t, conn, 30)
		before := time.Now()
		m.start(4)
		synctest.Wait()
		mustCall(t, conn, 100)
		if counts := m.count(4); counts[3] == 0 {
			t.Errorf("calls went to %v, none to the instance that has come", counts)
		}
		if err := m.agent.Deregister("catalog-1"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		gone := m.count(4)[0]
		mustCall(t, conn, 100)
		if n := m.count(4)[0] - gone; n != 0 {
			t.Errorf("%d of 100 calls went to the instance that has gone", n)
		}
		if took := time.Since(before); took != 0 {
			t.Errorf("it took %v", took)
		}
	})
}
