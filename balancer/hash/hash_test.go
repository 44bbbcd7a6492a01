package hash_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	grpcbalancer "google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/balancer/hash"
	"github.com/meshlite-go/meshlite/internal/balancertest"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	config    = `{"metadataKey": "X-Customer"}`
	customers = 2000
)

var (
	success = grpcbalancer.DoneInfo{BytesSent: true, BytesReceived: true}
	failure = grpcbalancer.DoneInfo{Err: status.Error(codes.Unavailable, ""), BytesSent: true}
)

func of(customer int) context.Context {
	return metadata.AppendToOutgoingContext(context.Background(), "x-customer", fmt.Sprint("customer-", customer))
}

func pick(t testing.TB, c *balancertest.Channel, ctx context.Context, end grpcbalancer.DoneInfo) int {
	t.Helper()
	result, err := c.Picker().Pick(grpcbalancer.PickInfo{Ctx: ctx, FullMethodName: "/a.B/C"})
	if err != nil {
		t.Fatal(err)
	}
	result.Done(end)
	return balancertest.IndexOf(result)
}

func places(t testing.TB, c *balancertest.Channel) (at [customers]int) {
	t.Helper()
	for i := range at {
		at[i] = pick(t, c, of(i), success)
	}
	return at
}

func counts(at [customers]int) map[int]int {
	counts := map[int]int{}
	for _, i := range at {
		counts[i]++
	}
	return counts
}

// Case T13: Hash policy: one customer stays at one instance while it lives; 1/n move when one leaves.
func TestACustomerStaysWhileItsInstanceLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := balancertest.New(t, hash.Name)
		instances := balancertest.Instances(balancertest.Equal(10)...)
		c.ReadyInstances(config, instances...)
		before := places(t, c)
		for i, n := range counts(before) {
			if n < customers/10-60 || n > customers/10+60 {
				t.Errorf("instance %d has %d of %d customers", i, n, customers)
			}
		}
		if places(t, c) != before {
			t.Error("customers move without a cause")
		}

		c.ReadyInstances(config, instances[:9]...) // the last one leaves
		wantMoved(t, before, places(t, c), func(i int) bool { return i == 9 }, "has left")
		c.ReadyInstances(config, instances...)
		time.Sleep(10 * time.Second) // slow starts do not matter
		if places(t, c) != before {
			t.Error("customers do not come back with their instance")
		}
		c.Break(3)
		wantMoved(t, before, places(t, c), func(i int) bool { return i == 3 }, "cannot be reached")

		// Another client, with the list in another order, sends each customer to the same one.
		other := balancertest.New(t, hash.Name)
		reversed := balancertest.Instances(balancertest.Equal(10)...)
		for i := range 5 {
			reversed[i], reversed[9-i] = reversed[9-i], reversed[i]
		}
		other.ReadyInstances(config, reversed...)
		if places(t, other) != before {
			t.Error("another client sends customers elsewhere")
		}
	})
}

// wantMoved fails unless those customers have moved whose instance is gone, to several others.
func wantMoved(t *testing.T, before, after [customers]int, gone func(int) bool, why string) {
	t.Helper()
	to := map[int]int{}
	for i := range before {
		switch moved := before[i] != after[i]; {
		case moved != gone(before[i]):
			t.Fatalf("of an instance that %s: customer %d of instance %d goes to %d", why, i, before[i], after[i])
		case moved:
			to[after[i]]++
		}
	}
	if len(to) < 9 {
		t.Errorf("customers of an instance that %s go to %v, want all others", why, to)
	}
}

// Instances have customers by their weights. Two with the same ID on different nodes are two.
func TestCustomersAreSpreadByWeight(t *testing.T) {
	c := balancertest.New(t, hash.Name)
	instances := balancertest.Instances(1, 1, 2, 4)
	for i, instance := range instances {
		instance.ID, instance.Node = "catalog", fmt.Sprint("node-", i)
	}
	c.ReadyInstances(config, instances...)
	got, chi := counts(places(t, c)), 0.0
	for i, weight := range []float64{1, 1, 2, 4} {
		expected := customers * weight / 8
		chi += (float64(got[i]) - expected) * (float64(got[i]) - expected) / expected
	}
	if chi > 16.3 { // of three degrees of freedom at 0.001
		t.Errorf("customers are spread %v by weights 1, 1, 2, 4: chi-square is %.1f", got, chi)
	}
}

// A retry goes to the second choice, which is the same every time, and then to the third.
func TestARetryGoesToTheNextChoice(t *testing.T) {
	c := balancertest.New(t, hash.Name)
	c.Ready(config, balancertest.Equal(5)...)
	for customer := range 100 {
		var first []int
		for range 3 {
			var path []int
			seen := map[int]bool{}
			for record := attempt.New(); ; record = record.Next() {
				i := pick(t, c, attempt.NewContext(of(customer), record), success)
				if seen[i] {
					t.Fatalf("an attempt goes to %d again: %v", i, path)
				}
				seen[i] = true
				if path = append(path, i); !record.HasUntried() {
					break
				}
			}
			if first == nil {
				first = path
			}
			if len(path) != 5 || fmt.Sprint(path) != fmt.Sprint(first) {
				t.Fatalf("attempts go to %v, and before to %v", path, first)
			}
		}
	}
}

// An ejected instance is probed by its own customers, and has them back.
func TestAnEjectedInstanceIsProbedByItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := balancertest.New(t, hash.Name)
		c.Ready(config, balancertest.Equal(5)...)
		before := places(t, c)
		failures := 0
		for i := range before {
			if before[i] == 2 && failures < 5 {
				pick(t, c, of(i), failure)
				failures++
			}
		}
		time.Sleep(time.Millisecond)
		wantEjected := func(want bool) {
			t.Helper()
			for _, e := range c.Table.Stats().Endpoints {
				if e.Address == balancertest.Address(2) && (e.State == balancer.Ejected) != want {
					t.Fatalf("the instance is %s", e.State)
				}
			}
		}
		wantEjected(true)
		for i, at := range places(t, c) {
			if at == 2 || before[i] != 2 && at != before[i] {
				t.Fatalf("customer %d of instance %d goes to %d", i, before[i], at)
			}
		}
		time.Sleep(11 * time.Second)
		probes := 0
		for i, at := range places(t, c) {
			if at == 2 {
				probes++
			}
			if before[i] != 2 && at != before[i] {
				t.Fatalf("a customer of instance %d goes to %d", before[i], at)
			}
		}
		if probes == 0 {
			t.Error("nobody probes the ejected instance")
		}
		time.Sleep(20 * time.Second)
		wantEjected(false)
		if places(t, c) != before {
			t.Error("its customers do not come back")
		}
	})
}

// Calls without the key are spread.
func TestCallsWithoutTheKeyAreSpread(t *testing.T) {
	c := balancertest.New(t, hash.Name)
	c.Ready(config, balancertest.Equal(4)...)
	counts := map[int]int{}
	for range 4000 {
		counts[pick(t, c, context.Background(), success)]++
	}
	for i := range 4 {
		if counts[i] < 800 || counts[i] > 1200 {
			t.Errorf("4000 calls are spread %v", counts)
		}
	}
}

// An attempt that avoids an instance goes to its second choice.
func TestAvoidedInstances(t *testing.T) {
	c := balancertest.New(t, hash.Name)
	instances := make([]*catalog.Instance, 2)
	copy(instances, balancertest.Instances(1, 1))
	c.ReadyInstances(config, instances...)
	for customer := range 20 {
		home := pick(t, c, of(customer), success)
		record := attempt.New()
		record.SetAvoid(&attempt.Avoid{
			For: func(i *attempt.Instance) time.Duration {
				if i.Address == balancertest.Address(home) {
					return time.Second
				}
				return 0
			},
			Err: func(time.Duration) error { return status.Error(codes.ResourceExhausted, "") },
		})
		if got := pick(t, c, attempt.NewContext(of(customer), record), success); got == home {
			t.Errorf("customer %d goes to the instance that it avoids", customer)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	balancertest.RefusesConfigs(t, hash.Name, map[string]string{
		`{}`:                              `metadataKey ""`,
		`{"metadataKey": ""}`:             `metadataKey ""`,
		`{"metadataKey": "grpc-timeout"}`: `metadataKey "grpc-timeout"`,
		`{"metadataKey": ":path"}`:        `metadataKey ":path"`,
		`{"metadataKey": 5}`:              "metadataKey",
	})
}

// A transport without metadata cannot have the policy.
func TestASetHasNoMetadata(t *testing.T) {
	if _, err := balancer.NewSet(balancer.NewTable(), "hash", []byte(config)); err == nil || !strings.Contains(err.Error(), "metadata") {
		t.Errorf("the error is %v", err)
	}
}

func BenchmarkPick(b *testing.B) {
	for _, n := range []int{3, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c := balancertest.New(b, hash.Name)
			c.Ready(config, balancertest.Equal(n)...)
			info := grpcbalancer.PickInfo{Ctx: of(1)}
			picker := c.Picker()
			b.ReportAllocs()
			for b.Loop() {
				result, err := picker.Pick(info)
				if err != nil {
					b.Fatal(err)
				}
				result.Done(success)
			}
		})
	}
}

func Example() {
	conn, err := grpc.NewClient("dns:///catalog.internal:8080",
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"`+hash.Name+`": {"metadataKey": "x-customer"}}]}`),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	fmt.Println(conn.Target())
	// Output: dns:///catalog.internal:8080
}
