package balancer_test

import (
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/internal/balancertest"
)

// P11: A retry or hedge does not go to a backend already tried while another READY one
// exists.
//
// Case P11: A retry goes where its call has not been.
func TestARetryGoesWhereTheCallHasNotBeen(t *testing.T) {
	onEveryPolicy(t, func(t *testing.T, c *balancertest.Channel, n int) {
		for range 200 {
			tried := map[string]bool{}
			record := attempt.New()
			for range min(n, 5) {
				result, err := c.Picker().Pick(attemptOf(record, unaryMethod))
				if err != nil {
					t.Fatal(err)
				}
				if address := balancertest.AddressOf(result); tried[address] {
					t.Fatalf("attempt %d went to %s again, of %d", record.Number(), address, n)
				} else {
					tried[address] = true
				}
				result.Done(success)
				record = record.Next()
			}
		}
		if n > 5 {
			return
		}
		record := attempt.New() // where all were tried, any will do
		for range n + 3 {
			if _, err := c.Picker().Pick(attemptOf(record, unaryMethod)); err != nil {
				t.Fatal(err)
			}
			record = record.Next()
		}
	})
}

// First others in rotation, then those of other zones, then the ejected ones.
//
// Case P11
func TestARetryPrefersWhoIsWell(t *testing.T) {
	inTime(t, "{}", 0, func(t *testing.T, c *balancertest.Channel) {
		c.Zone = "a"
		c.ReadyInstances("{}", in("a", "a", "a", "b")...)
		fail(t, c, 1, 5, codes.Unavailable)
		settle()
		for range 100 {
			var order []int
			record := attempt.New()
			for range 4 {
				result, err := c.Picker().Pick(attemptOf(record, unaryMethod))
				if err != nil {
					t.Fatal(err)
				}
				order = append(order, balancertest.IndexOf(result))
				result.Done(success)
				record = record.Next()
			}
			well := map[int]bool{0: true, 2: true}
			if here := order[0] != 3; here && !(well[order[0]] && well[order[1]] && order[2] == 3 && order[3] == 1) {
				t.Fatalf("attempts went to %v; 3 is of another zone, 1 is ejected", order)
			}
		}
	})
}

// Of those not tried a retry takes the least loaded.
//
// Case P11
func TestARetryTakesTheLeastLoaded(t *testing.T) {
	inTime(t, "{}", 4, func(t *testing.T, c *balancertest.Channel) {
		var idle, first int
		busy := map[int]bool{}
		for len(busy) < 3 {
			result := pick(t, c) // stays in flight
			busy[balancertest.IndexOf(result)] = true
			first = balancertest.IndexOf(result)
		}
		for busy[idle] {
			idle++
		}
		record := attempt.New()
		record.SetPicked(&attempt.Instance{Address: balancertest.Address(first)})
		for range 50 {
			result, err := c.Picker().Pick(attemptOf(record.Next(), unaryMethod))
			if err != nil {
				t.Fatal(err)
			}
			if got := balancertest.IndexOf(result); got != idle {
				t.Fatalf("the retry went to %d, which is busy; %d is idle", got, idle)
			}
			result.Done(success)
		}
	})
}

// Retries that leave the zone are spread over who is there.
//
// Case P11
func TestRetriesSpreadOverOtherZones(t *testing.T) {
	inTime(t, "{}", 0, func(t *testing.T, c *balancertest.Channel) {
		c.Zone = "a"
		c.ReadyInstances(`{"zone": {"callers": 0.1}}`, in("a", "b", "b", "b")...)
		counts := map[int]int{}
		for range 300 {
			record := attempt.New()
			first, err := c.Picker().Pick(attemptOf(record, unaryMethod))
			if err != nil {
				t.Fatal(err)
			}
			first.Done(success)
			second, err := c.Picker().Pick(attemptOf(record.Next(), unaryMethod))
			if err != nil {
				t.Fatal(err)
			}
			counts[balancertest.IndexOf(second)]++ // and stays in flight
		}
		if min(counts[1], counts[2], counts[3]) < 90 {
			t.Errorf("retries went to %v", counts)
		}
	})
}
