package routes_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/connectivity"

	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/internal/racetest"
	"github.com/meshlite-go/meshlite/resolver/route"
)

func even(n int, weight float64) []float64 {
	return slices.Repeat([]float64{weight}, n)
}

// Case T2: Shares within 0.1 % of weights over 100,000 calls, also for 99.9/0.1 and nested splitters.
func TestSharesAreTheWeights(t *testing.T) {
	racetest.Skip(t)
	groups := []group{v1, v2, other, {id: "v3", first: 300, listed: 4}}
	for name, weights := range map[string][]float64{
		"90/10":                       {90, 10},
		"99.9/0.1":                    {99.9, 0.1},
		"nested":                      {90, 5, 3.75, 1.25},
		"rounded to less":             {33.33, 33.33, 33.33},
		"nearly alike":                {45.05, 45.05, 9.9},
		"with arms of nothing":        {0, 60, 0, 40},
		"a hundred":                   even(100, 1),
		"the least weight":            {0.01, 99.99},
		"the least weight, many arms": append(even(100, 0.01), 99),
	} {
		t.Run(name, func(t *testing.T) {
			var sum float64
			for _, w := range weights {
				sum += w
			}
			var arms []*route.Arm
			want := map[int]float64{}
			for i, w := range weights {
				g := groups[i%len(groups)]
				arms = append(arms, &route.Arm{Name: fmt.Sprint("arm ", i), Weight: w, Target: g.id})
				want[g.first] += w / sum
			}
			f := newFleet(t)
			f.set(chainOf(arms...), groups[:min(len(weights), len(groups))]...)
			for _, g := range groups {
				if want[g.first] > 0 {
					f.ready(g)
				}
			}
			f.wantShares(100_000, 0.001, want)
			// Each thousand has the shares, too.
			f.wantShares(1000, 0.005, want)
		})
	}
}

// The picker draws for calls without an interceptor.
func TestCallsWithoutAnInterceptorAreRouted(t *testing.T) {
	f := newFleet(t)
	f.set(chainOf(arm("v1", 75), arm("v2", 25)), v1, v2)
	f.ready(v1, v2)
	counts := map[int]int{}
	for range 1000 {
		result, err := f.Picker().Pick(pickInfo(context.Background()))
		if err != nil {
			t.Fatal(err)
		}
		counts[indexOf(result)/100]++
	}
	if counts[1] < 245 || counts[1] > 255 {
		t.Errorf("%d of 1000 calls take the arm with a quarter", counts[1])
	}
}

// Case T3: An arm without a healthy instance gets 0 calls; its share goes to the others in proportion; when it is back, so is its share.
func TestAnEmptyArmGetsNoCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		f.set(chainOf(arm("v1", 60), arm("v2", 10), arm("other", 30)), v1, v2, other)
		f.ready(v1, v2, other)
		f.wantShares(10_000, 0.001, map[int]float64{0: 0.6, 100: 0.1, 200: 0.3})

		without := map[int]float64{0: 6.0 / 7, 100: 1.0 / 7}
		f.down(200, 201, 202, 203)
		settle()
		f.wantShares(10_000, 0.001, without)
		f.back(201)
		f.wantShares(10_000, 0.001, map[int]float64{0: 0.6, 100: 0.1, 200: 0.3})

		// As the directory says it: none is healthy.
		f.set(f.router.Chain(), v1, v2, other.of(0))
		settle()
		f.wantShares(10_000, 0.001, without)
		stats := f.router.Stats().Routes[0].Arms[2]
		if !stats.Empty || stats.Share != 0 || stats.Targets[0].Known != 4 {
			t.Errorf("stats of the empty arm are %+v", stats)
		}
		f.up = map[int]bool{}
		f.set(f.router.Chain(), v1, v2, other)
		for i := 200; i < 204; i++ {
			f.Connect(i, connectivity.Ready)
		}
		f.wantShares(10_000, 0.001, map[int]float64{0: 0.6, 100: 0.1, 200: 0.3})
	})
}

// Without any usable instance calls fail with the reason of their target.
func TestCallsFailWithTheReasonOfTheirTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		f.set(chainOf(arm("v1", 50), arm("v2", 50)), v1.of(0), v2.of(0))
		settle()
		reasons := map[string]int{}
		for range 100 {
			_, _, err := f.call(context.Background())
			reasons[fmt.Sprint(err)]++
		}
		if one, two := reasons["v1 has no healthy instance"], reasons["v2 has no healthy instance"]; one+two != 100 || one < 45 || two < 45 {
			t.Errorf("calls fail with %v", reasons)
		}
	})
}

// One customer stays at an arm while its weight does not shrink, and when it is empty only its
// own customers move.
func TestStickyArms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		const customers = 2000
		places := func() (at [customers]int) {
			for i := range at {
				first, _, err := f.call(with("x-customer", fmt.Sprint("customer-", i)))
				if err != nil {
					t.Fatal(err)
				}
				at[i] = first / 100
			}
			return at
		}
		chain := func(canary float64) *route.Chain {
			c := chainOf(arm("v1", 100-canary), arm("v2", canary))
			c.Sticky = "x-customer"
			return c
		}
		f.set(chain(10), v1, v2)
		f.ready(v1, v2)
		before := places()
		if before != places() {
			t.Error("customers change their arm without a cause")
		}
		var canary int
		for _, at := range before {
			canary += at
		}
		if canary < 150 || canary > 250 {
			t.Errorf("%d of %d customers have the arm of 10 %%", canary, customers)
		}
		f.set(chain(30), v1, v2)
		for i, at := range places() {
			if before[i] == 1 && at != 1 {
				t.Fatalf("customer %d leaves the arm that has grown", i)
			}
		}
		f.down(100, 101, 102, 103)
		settle()
		for i, at := range places() {
			if at != 0 {
				t.Fatalf("customer %d is at the empty arm", i)
			}
		}
		if got := f.shares(1000); got[100] != 0 {
			t.Errorf("calls without the key go to the empty arm: %v", got)
		}
	})
}

// Case T4
func TestFailoverIsInProportion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		ten, standby, last := group{id: "v1", first: 0, listed: 10}, group{id: "v2", first: 100, listed: 2}, other
		f.set(chainOf(arm("v1", 100, "v2", "other")), ten, standby, last)
		f.ready(ten)
		for i := range 5 {
			f.down(i)
			settle()
			f.wantShares(1000, 0.002, map[int]float64{0: 1})
		}
		if opened, _ := f.Connections(); opened != 10 {
			t.Errorf("%d connections without a need for failover, want 10", opened)
		}
		f.down(5) // 4 of 10, half are needed
		settle()
		f.wantShares(1000, 0.002, map[int]float64{0: 1}) // the standby is not connected yet
		f.ready(standby)
		f.wantShares(1000, 0.002, map[int]float64{0: 0.8, 100: 0.2})
		f.down(6, 7)
		settle()
		f.wantShares(1000, 0.002, map[int]float64{0: 0.4, 100: 0.6})
		f.down(8, 9)
		settle()
		f.wantShares(1000, 0.002, map[int]float64{100: 1})
		f.down(100, 101)
		settle()
		record, queued := f.queue()
		if !queued {
			t.Error("the first call after both are lost does not wait for the last one")
		}
		f.ready(last)
		if i, err := f.try(context.Background(), record); err != nil || i < 200 {
			t.Errorf("the first call goes to %d: %v", i, err)
		}
		f.wantShares(1000, 0.002, map[int]float64{200: 1})

		f.back(0, 1, 2, 3, 4, 5)
		f.wantShares(1000, 0.002, map[int]float64{200: 1})
		time.Sleep(routes.DefaultFailbackDelay - time.Second)
		settle()
		f.wantShares(1000, 0.002, map[int]float64{200: 1})
		time.Sleep(2 * routes.DefaultFailbackDelay)
		settle()
		f.wantShares(1000, 0.002, map[int]float64{0: 1})
		if _, closed := f.Connections(); closed != 2+4 {
			t.Errorf("%d connections are closed, want those of both failover targets", closed)
		}
	})
}

// Case T4
func TestInstancesThatReturnOneByOneGetTheirPartAfterTheDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		ten := group{id: "v1", first: 0, listed: 10}
		f.set(chainOf(arm("v1", 100, "other")), ten, other)
		f.ready(ten)
		f.down(0, 1, 2, 3, 4, 5, 6, 7)
		settle()
		f.ready(other)
		f.wantShares(1000, 0.002, map[int]float64{0: 0.4, 200: 0.6})
		for i := range 3 { // one a second, up to half of them
			f.back(i)
			settle()
			time.Sleep(time.Second)
		}
		f.wantShares(1000, 0.002, map[int]float64{0: 0.4, 200: 0.6})
		time.Sleep(routes.DefaultFailbackDelay - 3*time.Second)
		for _, home := range []float64{0.6, 0.8, 1} {
			settle()
			f.wantShares(1000, 0.002, map[int]float64{0: home, 200: 1 - home})
			time.Sleep(time.Second)
		}
	})
}

// The threshold bounds what failing instances cost the others: while instances are lost, no other
// one gets more than 1/threshold times its calls before, and none below the threshold is kept from
// what it can take. A service that runs at 60 % of its capacity needs at least 0.6.
func TestTheThresholdBoundsTheLoadOfTheRest(t *testing.T) {
	const calls = 2000
	for _, threshold := range []float64{0.3, 0.5, 0.7} {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(t, routes.WithFailoverThreshold(threshold))
			ten := group{id: "v1", first: 0, listed: 10}
			f.set(chainOf(arm("v1", 100, "other")), ten, other)
			f.ready(ten)
			connected := false
			for lost := 1; lost < 10; lost++ {
				f.down(lost - 1)
				settle()
				if opened, _ := f.Connections(); opened > 10 && !connected {
					connected = true
					f.ready(other)
				}
				usable := float64(10-lost) / 10
				if connected != (usable < threshold-1e-9) {
					t.Fatalf("threshold %v, %d of 10 lost: failover is %v", threshold, lost, connected)
				}
				local := f.shares(calls)[0]
				load := local / usable // 1 is that of an instance before
				t.Logf("threshold %.0f %%, %d of 10 lost: %3.0f %% of the calls stay, an instance has %.2f times its calls", threshold*100, lost, local*100, load)
				if load > 1/threshold*1.02 {
					t.Errorf("threshold %v, %d of 10 lost: an instance has %.2f times its calls, want %.2f at most", threshold, lost, load, 1/threshold)
				}
				if want := min(1, usable/threshold); local < want-0.01 {
					t.Errorf("threshold %v, %d of 10 lost: %.2f of the calls stay, want %.2f", threshold, lost, local, want)
				}
			}
		})
	}
}

// Case T4
func TestAnInstanceThatComesAndGoesMovesCallsOnce(t *testing.T) {
	for _, threshold := range []float64{0.3, 0.5, 0.7, 1} {
		t.Run(fmt.Sprint(threshold), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, routes.WithFailoverThreshold(threshold))
				ten := group{id: "v1", first: 0, listed: 10}
				f.set(chainOf(arm("v1", 100, "other")), ten, other)
				f.ready(ten)
				needed := int(threshold * 10)
				for i := range 10 - needed {
					f.down(i)
				}
				settle()
				f.wantShares(1000, 0.002, map[int]float64{0: 1})
				moves, last := 0, 1.0
				connected := false
				for range 20 {
					f.down(9)
					settle()
					if !connected {
						f.ready(other)
						connected = true
					}
					for range 2 {
						if got := f.shares(400)[0]; got < last-0.02 || got > last+0.02 {
							moves++
							last = got
						}
						if !f.up[9] {
							time.Sleep(time.Second)
							f.back(9)
							settle()
						}
					}
					time.Sleep(time.Second)
				}
				want := float64(needed-1) / float64(needed)
				if moves != 1 || last < want-0.02 || last > want+0.02 {
					t.Errorf("calls moved %d times, at last to %.2f, want once, to %.2f", moves, last, want)
				}
				time.Sleep(routes.DefaultFailbackDelay)
				settle()
				f.wantShares(1000, 0.002, map[int]float64{0: 1})
			})
		})
	}
}
