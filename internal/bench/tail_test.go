package bench

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	_ "google.golang.org/grpc/balancer/leastrequest" // to compare with
	"google.golang.org/grpc/credentials/insecure"
	grpcresolver "google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/meshlite-go/meshlite/balancer/leastrequest"
	"github.com/meshlite-go/meshlite/balancer/peakewma"
	"github.com/meshlite-go/meshlite/balancer/roundrobin"
	"github.com/meshlite-go/meshlite/internal/benchkit"
	"github.com/meshlite-go/meshlite/internal/openloop"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// The experiment of Prequal's demonstration, which internal/simulation simulates, once
// for real: 14 backends that sleep 50 ms and 2 that sleep 800, 500 calls a second.
const (
	tailFast, tailSlow = 50 * time.Millisecond, 800 * time.Millisecond
	tailBackends       = 16
	tailRate           = 500
	tailLasts          = 8 * time.Second
	publishedTail      = 94.0 // ms, p99 of Prequal; round robin has 807 there
)

// sleeper answers after its time.
type sleeper struct {
	catalogv1.UnimplementedCatalogServiceServer
	takes time.Duration
}

func (s sleeper) GetSweet(ctx context.Context, _ *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
	select {
	case <-time.After(s.takes):
		return &catalogv1.GetSweetResponse{}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func TestTailFigures(t *testing.T) {
	onlyForFigures(t)
	state := sleepers(t, tailBackends)
	table := table{
		title: fmt.Sprintf("Tail latency on loopback: 2 of %d backends take %v and not %v, %d calls a second for %v",
			tailBackends, tailSlow, tailFast, tailRate, tailLasts),
		columns: []string{"policy", "p50 ms", "p99 ms", "p99.9 ms", "calls to the slow"},
	}
	for _, policy := range []string{"round_robin", "least_request_experimental", roundrobin.Name, leastrequest.Name, peakewma.Name} {
		took, slow := callSleepers(t, policy, state, tailLasts)
		ms := func(q float64) float64 { return benchkit.Quantile(took, q).Seconds() * 1e3 }
		var aims []aim
		if policy == peakewma.Name {
			aims = append(aims, atMost("%.0f ms", ms(0.99), publishedTail))
		}
		table.add([]string{policy, fmt.Sprintf("%.1f", ms(0.5)), fmt.Sprintf("%.1f", ms(0.99)), fmt.Sprintf("%.1f", ms(0.999)),
			fmt.Sprintf("%.2f %%", 100*slow)}, aims...)
	}
	show(t, table)
}

func TestSleepersAreCalled(t *testing.T) {
	took, slow := callSleepers(t, peakewma.Name, sleepers(t, 3), 300*time.Millisecond)
	if len(took) < 20 || slow == 0 || took[0] < tailFast {
		t.Errorf("%d calls, %.2f of them to the slow ones, the shortest took %v", len(took), slow, took[0])
	}
}

// sleepers runs n backends, the first two of which are slow.
func sleepers(t *testing.T, n int) (state grpcresolver.State) {
	t.Helper()
	for i := range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := sleeper{takes: tailFast}
		if i < 2 {
			s.takes = tailSlow
		}
		server := grpc.NewServer()
		catalogv1.RegisterCatalogServiceServer(server, s)
		go func() { _ = server.Serve(listener) }()
		t.Cleanup(server.Stop)
		state.Endpoints = append(state.Endpoints, grpcresolver.Endpoint{Addresses: []grpcresolver.Address{{Addr: listener.Addr().String()}}})
	}
	return state
}

// callSleepers calls in an open loop, and answers how long the calls took from when they
// were due, sorted, and which part of them were slow.
func callSleepers(t *testing.T, policy string, state grpcresolver.State, lasts time.Duration) (took []time.Duration, slow float64) {
	t.Helper()
	r := manual.NewBuilderWithScheme("sleepers")
	r.InitialState(state)
	conn, err := grpc.NewClient("sleepers:///catalog", grpc.WithResolvers(r), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"`+policy+`": {}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := catalogv1.NewCatalogServiceClient(conn)
	if _, err := client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{}); err != nil { // it connects
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // to all
	var mu sync.Mutex
	loop := openloop.New(2000)
	loop.Go(t.Context(), time.Now(), openloop.Rate(tailRate), func(_ int, due time.Time) func() {
		return func() {
			_, err := client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{})
			mu.Lock()
			defer mu.Unlock()
			if took = append(took, time.Since(due)); err != nil {
				t.Error(err)
			}
		}
	})
	time.Sleep(lasts)
	loop.Finish()
	slices.Sort(took)
	first, _ := slices.BinarySearch(took, tailSlow)
	return took, float64(len(took)-first) / float64(len(took))
}
