package ratelimit_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/internal/racetest"
)

func newTable(t testing.TB, maxKeys int) *ratelimit.Table {
	t.Helper()
	table, err := ratelimit.NewTable(maxKeys)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// A key may make its burst at once, and then what comes back of it.
func TestBurstThenRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, limit := newTable(t, 1000), ratelimit.Limit{Calls: 10, Period: time.Second, Burst: 3}
		for range 3 {
			want(t, "in the burst", table.Allow("k", limit, 1).Admitted, true)
		}
		want(t, "beyond it", table.Allow("k", limit, 1), ratelimit.Decision{RetryAfter: 100 * time.Millisecond})
		want(t, "another key", table.Allow("l", limit, 3).Admitted, true)
		time.Sleep(100 * time.Millisecond)
		want(t, "peek", table.Peek("k", limit, 1).Admitted, true)
		want(t, "peek for two", table.Peek("k", limit, 2), ratelimit.Decision{RetryAfter: 100 * time.Millisecond})
		want(t, "after the retry delay", table.Allow("k", limit, 1).Admitted, true)
		want(t, "at once again", table.Allow("k", limit, 1).Admitted, false)
		time.Sleep(time.Hour)
		want(t, "no more than the burst", table.Allow("k", limit, 4), ratelimit.Decision{RetryAfter: ratelimit.Never})
		want(t, "the burst", table.Allow("k", limit, 3).Admitted, true)
	})
}

// L1: Clock readings out of order admit nothing extra (x/time/rate v0.16.0 admits 100,000 of 100,000 at 100/s, burst 10, with two instants 50 ms apart).
//
// Case L1: Clock readings out of order admit nothing extra.
func TestClockReadingsOutOfOrderAdmitNothingExtra(t *testing.T) {
	table, limit := newTable(t, 1000), ratelimit.Limit{Calls: 100, Period: time.Second, Burst: 10}
	now := time.Now()
	count := 0
	for i := range 100_000 {
		at := now.Add(time.Duration(i%2) * 50 * time.Millisecond)
		if table.AllowAt(at, "k", limit, 1).Admitted {
			count++
		}
	}
	// One at the first instant, and the burst once the bucket is full again.
	want(t, "admitted", count, 11)
}

// L1, in general: whatever the order of the readings, a key is admitted no more
// than its burst and what comes back between the first reading and the last.
// L2: Never more than limit + burst in any interval of one window (fixed windows give twice the limit).
//
// Case L2: Never more than limit and burst.
func TestNeverMoreThanBurstAndRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := ratelimit.Limit{
			Calls:  rapid.Uint64Range(1, 1000).Draw(t, "calls"),
			Period: time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "period")),
			Burst:  rapid.Uint64Range(1, 1000).Draw(t, "burst"),
		}
		table, err := ratelimit.NewTable(64)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		ordered := rapid.Bool().Draw(t, "ordered")
		type charge struct {
			at   time.Duration
			cost uint64
		}
		var charges []charge
		at := time.Duration(0)
		for range rapid.IntRange(1, 200).Draw(t, "calls made") {
			step := time.Duration(rapid.Int64Range(0, int64(limit.Period)).Draw(t, "step"))
			if ordered {
				at += step / 16
			} else {
				at = step
			}
			cost := rapid.Uint64Range(1, 20).Draw(t, "cost")
			if table.AllowAt(start.Add(at), "k", limit, cost).Admitted {
				charges = append(charges, charge{at, cost})
			}
		}
		for i, first := range charges { // every interval of one period
			var sum uint64
			for _, c := range charges[i:] {
				if c.at >= first.at && c.at < first.at+limit.Period {
					sum += c.cost
				}
			}
			if sum > limit.Calls+limit.Burst {
				t.Fatalf("%d admitted in one period by %v", sum, limit)
			}
		}
	})
}

// RetryAfter is true: not a nanosecond earlier, and then at once.
//
// Case L6
func TestRetryAfterIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := ratelimit.Limit{
			Calls:  rapid.Uint64Range(1, 1e6).Draw(t, "calls"),
			Period: time.Duration(rapid.Int64Range(1, int64(24*time.Hour)).Draw(t, "period")),
			Burst:  rapid.Uint64Range(1, 100).Draw(t, "burst"),
		}
		table, err := ratelimit.NewTable(64)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		for range limit.Burst {
			table.AllowAt(now, "k", limit, 1)
		}
		cost := rapid.Uint64Range(1, limit.Burst).Draw(t, "cost")
		d := table.PeekAt(now, "k", limit, cost)
		if d.Admitted {
			t.Fatal("an empty bucket admitted a call")
		}
		if table.AllowAt(now.Add(d.RetryAfter-1), "k", limit, cost).Admitted {
			t.Fatalf("admitted before %v were over", d.RetryAfter)
		}
		if !table.AllowAt(now.Add(d.RetryAfter), "k", limit, cost).Admitted {
			t.Fatalf("refused after %v", d.RetryAfter)
		}
	})
}

// L9: A denied call allocates nothing in the limiter and does not push the reset time.
//
// Case L9: A denied call costs nothing.
func TestDeniedCallCostsNothing(t *testing.T) {
	table, limit := newTable(t, 1000), ratelimit.Limit{Calls: 1, Period: time.Hour}
	now := time.Now()
	want(t, "first", table.AllowAt(now, "k", limit, 1).Admitted, true)
	for range 1000 {
		want(t, "denied", table.AllowAt(now, "k", limit, 1), ratelimit.Decision{RetryAfter: time.Hour})
	}
	if n := testing.AllocsPerRun(1000, func() { table.Allow("k", limit, 1) }); n != 0 {
		t.Errorf("a denied call allocates %v times", n)
	}
	generous := ratelimit.Limit{Calls: 1e9, Period: time.Second}
	if n := testing.AllocsPerRun(1000, func() { table.Allow("l", generous, 1) }); n != 0 {
		t.Errorf("an admitted call allocates %v times", n)
	}
}

// L3, in part: many keys leave memory at the cap; a new key neither resets a live
// over-limit key nor is locked out for ever.
//
// Case L3
func TestFullTableKeepsKeysThatAreOverTheirLimit(t *testing.T) {
	table, limit := newTable(t, 1024), ratelimit.Limit{Calls: 10, Period: time.Hour}
	now := time.Now()
	for i := range 500 { // abusers
		want(t, "abuser's burst", table.AllowAt(now, fmt.Sprint("abuser", i), limit, 10).Admitted, true)
	}
	for i := range 20_000 {
		want(t, "new key", table.AllowAt(now, fmt.Sprint("new", i), limit, 1).Admitted, true)
	}
	for i := range 500 {
		want(t, "abuser again", table.AllowAt(now, fmt.Sprint("abuser", i), limit, 1).Admitted, false)
	}
}

// A table that holds nothing but keys over their limit gives all others one
// bucket, and room when the first of them may call again.
//
// Case L3
func TestFullTableSharesOneBucketAmongNewKeys(t *testing.T) {
	table, limit := newTable(t, 64), ratelimit.Limit{Calls: 10, Period: time.Hour}
	now := time.Now()
	kept := 0
	for i := range 1000 {
		if table.AllowAt(now, fmt.Sprint("abuser", i), limit, 10).Admitted {
			kept++
		}
	}
	if kept < 56 || kept > 65 { // 64 places, few of which hashing may leave empty, and the shared bucket
		t.Errorf("%d keys had their burst, want 64 and one for those that found no room", kept)
	}
	later := now.Add(time.Hour)
	for i := range 1000 {
		want(t, "new key after the period", table.AllowAt(later, fmt.Sprint("new", i), limit, 1).Admitted, true)
	}
}

// L8: Concurrent use of one key never fails for contention. Nor does it admit
// more than the burst, also while the table forgets and adds keys.
func TestConcurrentUse(t *testing.T) {
	table, limit := newTable(t, 64), ratelimit.Limit{Calls: 500, Period: time.Hour}
	var count atomic.Int64
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for range 500 {
				if table.Allow("k", limit, 1).Admitted {
					count.Add(1)
				}
				table.Allow(fmt.Sprint(rand.Uint64()), limit, 1)
			}
		})
	}
	running.Wait()
	// The key itself may be forgotten only before it has used most of its limit.
	if n := count.Load(); n < 500 || n > 1000 {
		t.Errorf("%d of 4000 calls admitted, want 500 and little more", n)
	}
}

// One key in a table with room is admitted its burst exactly.
//
// Case L8: Concurrent use is exact.
func TestConcurrentUseOfOneKeyIsExact(t *testing.T) {
	table, limit := newTable(t, 64), ratelimit.Limit{Calls: 500, Period: time.Hour}
	var count atomic.Int64
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for range 500 {
				if table.Allow("k", limit, 1).Admitted {
					count.Add(1)
				}
			}
		})
	}
	running.Wait()
	want(t, "admitted", count.Load(), 500)
}

// A key that meets another limit keeps the share of its burst that it has used.
func TestChangeOfLimitKeepsTheUsedShare(t *testing.T) {
	table := newTable(t, 64)
	now := time.Now()
	slow, fast := ratelimit.Limit{Calls: 10, Period: time.Hour}, ratelimit.Limit{Calls: 1000, Period: time.Second}
	table.AllowAt(now, "k", slow, 10)
	want(t, "faster", table.AllowAt(now, "k", fast, 1), ratelimit.Decision{RetryAfter: time.Millisecond})
	want(t, "faster, later", table.AllowAt(now.Add(500*time.Millisecond), "k", fast, 500).Admitted, true)
	want(t, "slow again", table.AllowAt(now.Add(500*time.Millisecond), "k", slow, 1).Admitted, false)
}

// Numbers at the ends of their ranges neither overflow nor admit too much.
func TestExtremeLimits(t *testing.T) {
	now := time.Now()
	for _, test := range []struct {
		limit ratelimit.Limit
		cost  uint64
		first bool
		then  bool
	}{
		{ratelimit.Limit{}, 1, false, false},
		{ratelimit.Limit{}, 0, true, true},
		{ratelimit.Limit{Calls: 1, Period: math.MaxInt64}, 1, true, false},
		{ratelimit.Limit{Calls: math.MaxUint64, Period: time.Second}, math.MaxUint64, true, false},
		{ratelimit.Limit{Calls: 1, Period: time.Hour, Burst: math.MaxUint64}, 1, true, true},
		{ratelimit.Limit{Calls: 1, Period: 1, Burst: 1}, 1, true, false},
	} {
		for _, at := range []time.Time{now, now.Add(-math.MaxInt64), now.Add(math.MaxInt64)} {
			table := newTable(t, 64)
			what := fmt.Sprintf("%+v, cost %d, at %v", test.limit, test.cost, at)
			want(t, what+": first", table.AllowAt(at, "k", test.limit, test.cost).Admitted, test.first)
			want(t, what+": second", table.AllowAt(at, "k", test.limit, test.cost).Admitted, test.then)
		}
	}
}

func TestNewTableRefusesBadSizes(t *testing.T) {
	for _, n := range []int{-1, 0, 63, 1<<28 + 1} {
		if _, err := ratelimit.NewTable(n); err == nil {
			t.Errorf("a table for %d keys was made", n)
		}
	}
}

// A charge is refunded once the call has failed, and that of a refused call is nothing.
func TestAChargeOfTheTableIsRefunded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newTable(t, 64)
		limit := ratelimit.Limit{Calls: 2, Period: time.Minute}
		_, first := table.Take("a", limit, 1)
		table.Take("a", limit, 1)
		refused, nothing := table.Take("a", limit, 1)
		want(t, "third", refused.Admitted, false)
		nothing.Refund()
		want(t, "left", table.Standing("a", limit).Remaining, 0)
		first.Refund()
		want(t, "left after the refund", table.Standing("a", limit).Remaining, 1)
		ratelimit.TableCharge{}.Refund()
	})
}

// A table of many places takes memory as keys come: each channel and server with a limit has one.
func TestATableTakesMemoryAsItFills(t *testing.T) {
	racetest.Skip(t)
	limit := ratelimit.Limit{Calls: 10, Period: time.Second}
	allocated := func(keys int) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		table, err := ratelimit.NewTable(1 << 17)
		if err != nil {
			t.Fatal(err)
		}
		for i := range keys {
			table.Allow(strconv.Itoa(i), limit, 1)
		}
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(table)
		return after.TotalAlloc - before.TotalAlloc
	}
	if none, one := allocated(0), allocated(1); none > 32<<10 || one > 64<<10 {
		t.Errorf("a table takes %d bytes without keys and %d with one, want at most 32 KiB and 64 KiB", none, one)
	}
	if full := allocated(100_000); full < 1<<20 {
		t.Errorf("a table of 100,000 keys has taken %d bytes: this test measures nothing", full)
	}
}
