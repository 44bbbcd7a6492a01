package balancer_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	grpcbalancer "google.golang.org/grpc/balancer"
	_ "google.golang.org/grpc/balancer/leastrequest" // to compare with
	_ "google.golang.org/grpc/balancer/roundrobin"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/balancer/leastrequest"
	"github.com/meshlite-go/meshlite/balancer/peakewma"
	"github.com/meshlite-go/meshlite/balancer/roundrobin"
	"github.com/meshlite-go/meshlite/internal/balancertest"
	"github.com/meshlite-go/meshlite/internal/racetest"
)

var policies = []string{roundrobin.Name, leastrequest.Name, peakewma.Name}

// onEveryPolicy runs test with each policy, over few and over many endpoints.
func onEveryPolicy(t *testing.T, test func(t *testing.T, c *balancertest.Channel, endpoints int)) {
	for _, policy := range policies {
		for _, n := range []int{1, 2, 3, 100} {
			t.Run(fmt.Sprintf("%s/%d", policy, n), func(t *testing.T) {
				c := balancertest.New(t, policy)
				c.Ready("{}", balancertest.Equal(n)...)
				test(t, c, n)
			})
		}
	}
}

var call = grpcbalancer.PickInfo{FullMethodName: unaryMethod, Ctx: context.Background()}

// P1: Done with no error and no bytes sent changes no latency or success figure,
// but frees the slot.
//
// Case P1: Done with no error and no bytes changes no figure, but frees the slot.
func TestDoneFreesTheSlotWhateverItSays(t *testing.T) {
	for name, info := range map[string]grpcbalancer.DoneInfo{
		"zero": {}, "success": success, "failure": {Err: status.Error(codes.Unavailable, ""), BytesSent: true},
	} {
		t.Run(name, func(t *testing.T) {
			onEveryPolicy(t, func(t *testing.T, c *balancertest.Channel, n int) {
				for range 40 {
					result, err := c.Picker().Pick(call)
					if err != nil {
						t.Fatal(err)
					}
					result.Done(info)
				}
				measured, failing := false, false
				for _, e := range c.Table.Stats().Endpoints {
					measured = measured || e.Latency > 0
					failing = failing || e.Failing > 0
					if e.InFlight != 0 {
						t.Errorf("%s has %d in flight", e.Address, e.InFlight)
					}
				}
				if want := name == "failure"; failing != want {
					t.Errorf("failing: %v, want %v", failing, want)
				}
				if want := name == "success"; measured != want && n < 3 { // one in sixteen is measured
					t.Errorf("latency is known: %v, want %v", measured, want)
				}
			})
		})
	}
}

// P8, the rest of it: n = 1 and n = 0 do not panic.
//
// Case P8
func TestAFewEndpointsDoNotPanic(t *testing.T) {
	for _, policy := range policies {
		t.Run(policy, func(t *testing.T) {
			c := balancertest.New(t, policy)
			if err := c.Update("{}"); !errors.Is(err, grpcbalancer.ErrBadResolverState) {
				t.Errorf("an update without endpoints answers %v, want ErrBadResolverState", err)
			}
			if _, err := c.Picker().Pick(call); err == nil || c.State() != connectivity.TransientFailure {
				t.Errorf("without endpoints a pick answers %v in state %v", err, c.State())
			}
			c.Ready("{}", 1)
			pick(t, c)
		})
	}
}

// P10: a picker's error reaches the caller as Unavailable, never Internal: it is
// no status error, which gRPC would pass on.
//
// Case P10: A picker's error is Unavailable.
func TestAPickersErrorIsNoStatus(t *testing.T) {
	for _, policy := range policies {
		t.Run(policy, func(t *testing.T) {
			c := balancertest.New(t, policy)
			c.Policy.ResolverError(status.Error(codes.NotFound, "consul is away"))
			_, err := c.Picker().Pick(call)
			if err == nil || !strings.Contains(err.Error(), "consul is away") {
				t.Fatalf("error is %v, want the resolver's", err)
			}
			if _, ok := status.FromError(err); ok {
				t.Error("the error is a status")
			}
		})
	}
}

// P12: on the picker that gRPC received, over READY subchannels: 0 allocations, Done
// included, with and without measuring. (No lock but for a probe: see the code.)
//
// Case P12: 0 allocations per pick and done, and no lock that picks wait for.
func TestPickAndDoneAllocateNothing(t *testing.T) {
	racetest.Skip(t)
	sizes := []int{2, 3, 10, 100, 1000, 10_000}
	if testing.Short() {
		sizes = sizes[:5]
	}
	for _, policy := range policies {
		for _, n := range sizes {
			t.Run(fmt.Sprintf("%s/%d", policy, n), func(t *testing.T) {
				c := balancertest.New(t, policy)
				c.ReadyMany("{}", n)
				picker := c.Picker()
				if n := testing.AllocsPerRun(1000, func() {
					result, _ := picker.Pick(call)
					result.Done(success)
				}); n != 0 {
					t.Errorf("%v allocations per pick and done, want 0", n)
				}
			})
		}
	}
}

func TestThePickIsTold(t *testing.T) {
	onEveryPolicy(t, func(t *testing.T, c *balancertest.Channel, _ int) {
		record := attempt.New()
		result, err := c.Picker().Pick(grpcbalancer.PickInfo{Ctx: attempt.NewContext(context.Background(), record)})
		if err != nil {
			t.Fatal(err)
		}
		if got := record.Picked(); got == nil || got.Address != balancertest.AddressOf(result) {
			t.Errorf("the record says %v, the pick went to %s", got, balancertest.AddressOf(result))
		}
	})
}

// P13, in part: equal backends get shares within 10 % of the mean (chi-square). In
// virtual time, which stands still: on a machine that stalls they are not equal.
//
// Case P13: Equal endpoints share evenly, within a tenth of the mean also of 100; 50 clients
// do not herd.
func TestEqualEndpointsShareEvenly(t *testing.T) {
	racetest.Skip(t)
	for _, n := range []int{1, 2, 3, 100} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			inTime(t, "{}", n, func(t *testing.T, c *balancertest.Channel) {
				picks := 100_000
				if n == 100 {
					picks = 400_000 // a tenth of the mean is six standard deviations
				}
				counts := map[string]int{}
				for range picks {
					result := pick(t, c)
					counts[balancertest.AddressOf(result)]++
					result.Done(success)
				}
				mean := float64(picks) / float64(n)
				var chi float64
				for i := range n {
					d := float64(counts[balancertest.Address(i)]) - mean
					chi += d * d / mean
					if math.Abs(d) > 0.1*mean {
						t.Errorf("endpoint %d has %.0f picks more than the mean of %.0f", i, d, mean)
					}
				}
				// The mean of chi-square with n-1 degrees of freedom, ten standard deviations, and
				// what its long tail takes where they are few: honest draws fail once in ten million.
				if limit := float64(n-1) + 10*math.Sqrt(2*float64(n-1)) + 16; chi > limit {
					t.Errorf("chi-square is %.1f, want at most %.1f", chi, limit)
				}
			})
		})
	}
}

// P3, in part: what is known of an endpoint outlives its connection.
//
// Case P3
func TestInFlightOutlivesAReconnect(t *testing.T) {
	c := balancertest.New(t, leastrequest.Name)
	c.Ready("{}", 1, 1)
	busy := balancertest.AddressOf(pick(t, c)) // stays in flight
	for _, reconnected := range []int{0, 1} {
		c.Connect(reconnected, connectivity.Idle)
		c.Connect(reconnected, connectivity.Ready)
		for range 100 {
			result := pick(t, c)
			if balancertest.AddressOf(result) == busy {
				t.Fatalf("the call in flight was forgotten when endpoint %d reconnected", reconnected)
			}
			result.Done(grpcbalancer.DoneInfo{})
		}
	}
}

func TestOnlyReadyEndpointsArePicked(t *testing.T) {
	for _, policy := range policies {
		t.Run(policy, func(t *testing.T) {
			c := balancertest.New(t, policy)
			c.Ready("{}", 1, 1, 1)
			c.Connect(1, connectivity.TransientFailure)
			for range 30 {
				if result := pick(t, c); balancertest.AddressOf(result) == balancertest.Address(1) {
					t.Fatal("an endpoint without a connection was picked")
				}
			}
		})
	}
}

func TestPolicyNames(t *testing.T) {
	for _, test := range []struct{ policy, name, err string }{
		{"round_robin", "meshlite_round_robin", ""},
		{"meshlite_least_request", "meshlite_least_request", ""},
		{"grpc:pick_first", "pick_first", ""},
		{"grpc:least_request", "least_request_experimental", ""},
		{"grpc:nonesuch", "", `no policy "nonesuch"`},
		{"fastest", "", "least_request, peak_ewma, round_robin"},
	} {
		name, err := balancer.PolicyName(test.policy)
		if name != test.name || (err != nil) != (test.err != "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("PolicyName(%q) = %q, %v; want %q, error with %q", test.policy, name, err, test.name, test.err)
		}
	}
}

func pick(t *testing.T, c *balancertest.Channel) grpcbalancer.PickResult {
	t.Helper()
	result, err := c.Picker().Pick(call)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// BenchmarkPick compares pick and done with gRPC's own policies in one run: with nothing else
// in flight, and with calls in flight on every endpoint.
func BenchmarkPick(b *testing.B) {
	for _, busy := range []int{0, 4} {
		for _, policy := range append([]string{"round_robin", "least_request_experimental"}, policies...) {
			for _, n := range []int{3, 10, 1000, 10_000} {
				b.Run(fmt.Sprintf("busy=%d/%s/%d", busy, policy, n), func(b *testing.B) {
					c := balancertest.New(b, policy)
					c.ReadyMany("{}", n)
					picker := c.Picker()
					for range busy * n {
						if _, err := picker.Pick(call); err != nil {
							b.Fatal(err)
						}
					}
					pickAndDone(b, picker, call)
				})
			}
		}
	}
}

func pickAndDone(b *testing.B, picker grpcbalancer.Picker, call grpcbalancer.PickInfo) {
	b.ReportAllocs()
	for b.Loop() {
		result, err := picker.Pick(call)
		if err != nil {
			b.Fatal(err)
		}
		if result.Done != nil {
			result.Done(success)
		}
	}
}

// BenchmarkPickWithRecord is the pick of a call whose interceptors have made a record, as the
// retries of this module do.
func BenchmarkPickWithRecord(b *testing.B) {
	for _, policy := range policies {
		b.Run(policy, func(b *testing.B) {
			c := balancertest.New(b, policy)
			c.Ready("{}", balancertest.Equal(10)...)
			call := call
			call.Ctx = attempt.NewContext(context.Background(), attempt.New())
			pickAndDone(b, c.Picker(), call)
		})
	}
}
