package random_test

import (
	"context"
	"fmt"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	grpcbalancer "google.golang.org/grpc/balancer"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshlite-go/meshlite/balancer/random"
	"github.com/meshlite-go/meshlite/internal/balancertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Endpoints are drawn as often as their weights say, and none in turn.
func TestEndpointsAreDrawnByWeight(t *testing.T) {
	c := balancertest.New(t, random.Name)
	c.Ready("{}", 1, 2, 5)
	const picks = 16_000
	counts, same, last := map[int]int{}, 0, -1
	for range picks {
		result, err := c.Picker().Pick(grpcbalancer.PickInfo{Ctx: context.Background()})
		if err != nil {
			t.Fatal(err)
		}
		i := balancertest.IndexOf(result)
		if counts[i]++; i == last {
			same++
		}
		last = i
	}
	var chi float64
	for i, weight := range []float64{1, 2, 5} {
		expected := picks * weight / 8
		chi += (float64(counts[i]) - expected) * (float64(counts[i]) - expected) / expected
	}
	if chi > 18 { // of two degrees of freedom at 0.0001
		t.Errorf("%d picks are spread %v by weights 1, 2, 5: chi-square is %.1f", picks, counts, chi)
	}
	// (1 + 4 + 25) / 64 of all follow one of their own.
	if part := float64(same) / picks; part < 0.44 || part > 0.5 {
		t.Errorf("%.3f of the picks repeat the one before, want 0.469", part)
	}
}

func TestConfigIsChecked(t *testing.T) {
	balancertest.RefusesConfigs(t, random.Name, map[string]string{`[`: "JSON", `[]`: "cannot unmarshal"})
}

func Example() {
	conn, err := grpc.NewClient("dns:///catalog.internal:8080",
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"`+random.Name+`": {}}]}`),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	fmt.Println(conn.Target())
	// Output: dns:///catalog.internal:8080
}
