package roundrobin_test

import (
	"context"
	"fmt"
	"math"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	grpcbalancer "google.golang.org/grpc/balancer"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshlite-go/meshlite/balancer/roundrobin"
	"github.com/meshlite-go/meshlite/internal/balancertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// P15: weighted shares match the weights within 2 % over 10,000 picks, smoothly
// (no bursts to one backend).
//
// Case P15: Shares match the weights: in turn within 2 % and smoothly, at random within six
// standard deviations, and above the size that is looked at whole.
func TestSharesMatchTheWeightsSmoothly(t *testing.T) {
	for _, weights := range [][]uint32{
		{1, 1}, {1, 2}, {5, 1, 1}, {10, 20, 30}, {100, 1}, {7, 11, 13, 17}, {60_000, 40_000}, {3, 3, 3, 3, 3},
	} {
		t.Run(fmt.Sprint(weights), func(t *testing.T) {
			c := balancertest.New(t, roundrobin.Name)
			c.Ready("{}", weights...)
			sum := 0.0
			for _, w := range weights {
				sum += float64(w)
			}
			const picks = 10_000
			counts := make([]int, len(weights))
			index := map[string]int{}
			for i := range weights {
				index[balancertest.Address(i)] = i
			}
			run, previous, longest := 0, -1, make([]int, len(weights))
			for range picks {
				result, err := c.Picker().Pick(grpcbalancer.PickInfo{Ctx: context.Background()})
				if err != nil {
					t.Fatal(err)
				}
				i := index[balancertest.AddressOf(result)]
				counts[i]++
				if i != previous {
					run = 0
				}
				run, previous = run+1, i
				longest[i] = max(longest[i], run)
			}
			for i, w := range weights {
				want := picks * float64(w) / sum
				if got := float64(counts[i]); math.Abs(got-want) > max(0.02*want, 1) {
					t.Errorf("weight %d got %v picks, want %.0f within 2 %%", w, got, want)
				}
				// Smooth: never more in a row than its turns between two of the others.
				if limit := int(math.Ceil(float64(w)/(sum-float64(w)))) + 1; longest[i] > limit {
					t.Errorf("weight %d was picked %d times in a row, want at most %d", w, longest[i], limit)
				}
			}
		})
	}
}

func TestPicksAreInTurn(t *testing.T) {
	c := balancertest.New(t, roundrobin.Name)
	c.Ready("{}", 1, 1, 1)
	var last [3]string
	for i := range 30 {
		result, err := c.Picker().Pick(grpcbalancer.PickInfo{Ctx: context.Background()})
		if err != nil {
			t.Fatal(err)
		}
		if address := balancertest.AddressOf(result); i >= 3 && last[i%3] != address {
			t.Fatalf("pick %d went to %s, want %s in turn", i, address, last[i%3])
		} else {
			last[i%3] = address
		}
	}
}

func Example() {
	conn, err := grpc.NewClient("dns:///catalog.internal:8080",
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"`+roundrobin.Name+`": {}}]}`),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	fmt.Println(conn.Target())
	// Output: dns:///catalog.internal:8080
}

// Case X10 (chain, balancer)
func FuzzConfig(f *testing.F) {
	for _, seed := range []string{`{}`, `null`, `[`, `{"weights": 1}`, `""`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, config string) { balancertest.PicksIfAccepted(t, roundrobin.Name, config) })
}
