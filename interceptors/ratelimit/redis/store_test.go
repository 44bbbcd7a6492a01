package redis_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit/redis"
	"github.com/meshlite-go/meshlite/internal/redistest"
)

// L8, L13: from several connections at once, exactly the burst is admitted of each key.
//
// Case L8
// Case L13: The script works on a cluster and goes by the server's clock.
func TestConcurrentTakesAreExact(t *testing.T) {
	redistest.Each(t, func(t *testing.T, url string) {
		stores := []*redis.Redis{connected(t, url), connected(t, url), connected(t, url)}
		const keys, burst = 4, 100
		var taken [keys]atomic.Int64
		var wg sync.WaitGroup
		for n := range 12 {
			wg.Go(func() {
				for i := range 40 * keys {
					key := byte(i % keys)
					if take(t, stores[n%len(stores)], charge(key, 1, burst))[0].Admitted {
						taken[key].Add(1)
					}
				}
			})
		}
		wg.Wait()
		for key := range taken {
			want(t, fmt.Sprint("admitted of key ", key), taken[key].Load(), burst)
		}
		want(t, "errors", stores[0].Stats().Errors, 0)
	})
}

// L13, L14: whatever time it is elsewhere, and whichever way the server's clock is set.
//
// Case L13
// Case L14
func TestOnlyTheClockOfTheServerCounts(t *testing.T) {
	mini := miniredis.RunT(t)
	r := connected(t, "redis://"+mini.Addr())
	now := time.Date(2001, 2, 3, 4, 5, 6, 789_000, time.UTC) // far from ours
	mini.SetTime(now)
	for i := range 10 {
		got := take(t, r, charge(1, 1, 10))[0]
		want(t, "admitted", got.Admitted, true)
		want(t, "used", got.Used, time.Duration(i+1)*time.Hour)
		want(t, "full at", got.FullAt, now.Add(time.Duration(i+1)*time.Hour).UnixNano())
	}
	got := take(t, r, charge(1, 1, 10))[0]
	want(t, "one more", got.Admitted, false)
	want(t, "wait", got.RetryAfter, time.Hour)
	mini.SetTime(now.Add(2*time.Hour - time.Microsecond))
	got = take(t, r, charge(1, 2, 10))[0]
	want(t, "a moment too early", got.Admitted, false)
	want(t, "wait", got.RetryAfter, time.Microsecond)
	mini.SetTime(now.Add(2 * time.Hour))
	want(t, "in time", take(t, r, charge(1, 2, 10))[0].Admitted, true)
	mini.SetTime(now.Add(-1000 * time.Hour))
	got = take(t, r, charge(1, 1, 10))[0]
	want(t, "wait after the clock was set back", got.RetryAfter, time.Hour)
}

// To the nanosecond, also where none of the numbers is round.
//
// Case L13
func TestTakesAreExact(t *testing.T) {
	mini := miniredis.RunT(t)
	r := connected(t, "redis://"+mini.Addr())
	now := time.Unix(1_700_000_000, 123_456_000)
	mini.SetTime(now)
	for i, c := range []ratelimit.Charge{
		{Cost: 1, Burst: 3}, {Cost: 333_333_334, Burst: 1_000_000_001}, {Cost: 999_999_999, Burst: 999_999_999},
		{Cost: 25 * 24 * time.Hour, Burst: 100 * 24 * time.Hour},
	} {
		c.Key = [16]byte{byte(i), 'x'}
		used := time.Duration(0)
		for used+c.Cost <= c.Burst {
			used += c.Cost
			got := take(t, r, c)[0]
			want(t, "used", got.Used, used)
			want(t, "full at", got.FullAt, now.UnixNano()+int64(used))
		}
		got := take(t, r, c)[0]
		want(t, "wait", got.RetryAfter, used+c.Cost-c.Burst)
		c.Patience = got.RetryAfter - 1
		want(t, "less patience", take(t, r, c)[0].Admitted, false)
		c.Patience++
		want(t, "patience", take(t, r, c)[0].Admitted, true)
	}
}

// A key expires in the millisecond after which it is unused.
func TestKeysExpireWhenTheyAreUnused(t *testing.T) {
	s := redistest.Start(t)
	r := connected(t, s.URL(), redis.WithPrefix("mine:"))
	got := take(t, r, ratelimit.Charge{Key: [16]byte{1}, Cost: 123_456_789_012, Burst: time.Hour})[0]
	check := func(what string, full int64) {
		t.Helper()
		keys := s.Keys("")
		if len(keys) != 1 || !strings.HasPrefix(keys[0], "mine:{") {
			t.Fatalf("keys %q", keys)
		}
		message := s.Do("PEXPIRETIME", keys[0])
		at, _ := message.ToInt64()
		want(t, what, at, (full+999_999)/1e6)
	}
	check("expiry of a charge", got.FullAt)
	second := take(t, r, ratelimit.Charge{Key: [16]byte{1}, Cost: 1, Burst: time.Hour})[0]
	given, err := r.Give(t.Context(), []ratelimit.Taken{second})
	want(t, "given", given == 1 && err == nil, true)
	check("expiry of what is left", got.FullAt)
	given, err = r.Give(t.Context(), []ratelimit.Taken{got})
	want(t, "given", given == 1 && err == nil, true)
	want(t, "keys that are unused", len(s.Keys("")), 0)
}

// All charges of a call are taken, or none, wherever their keys are.
func TestAllChargesOrNone(t *testing.T) {
	redistest.Each(t, func(t *testing.T, url string) {
		r := connected(t, url)
		wide, narrow, shadow := charge(1, 1, 10), charge(2, 1, 2), charge(3, 1, 1)
		shadow.Shadow = true
		admitted := 0
		for range 5 {
			all := take(t, r, wide, shadow, narrow)
			if all[0].Admitted && all[2].Admitted {
				admitted++
			}
		}
		want(t, "admitted", admitted, 2)
		want(t, "used of the wide one", hours(t, r, wide), 2)
		want(t, "used of the narrow one", hours(t, r, narrow), 2)
		want(t, "used of the one in shadow", hours(t, r, shadow), 1)
		want(t, "reset", r.Reset(t.Context(), narrow), nil)
		want(t, "after a reset", take(t, r, narrow)[0].Admitted, true)
	})
}

// L10: a refund is of its own charge, in its own time, and lifts nobody above the burst.
//
// Case L10
func TestGiveBack(t *testing.T) {
	mini := miniredis.RunT(t)
	r := connected(t, "redis://"+mini.Addr())
	now := time.Now()
	mini.SetTime(now)
	give := func(taken ratelimit.Taken) int {
		t.Helper()
		given, err := r.Give(t.Context(), []ratelimit.Taken{taken})
		want(t, "error", err, nil)
		return given
	}
	c := charge(1, 1, 3)
	first, second := take(t, r, c)[0], take(t, r, c)[0]
	want(t, "given", give(first), 1)
	want(t, "used", hours(t, r, c), 1)
	mini.SetTime(now.Add(90 * time.Minute))
	want(t, "given of the rest", give(second), 1)
	mini.SetTime(now.Add(3 * time.Hour))
	for range 3 {
		take(t, r, c)
	}
	want(t, "given too late", give(second), 0)
	want(t, "used", hours(t, r, c), 3)

	c.Patience = 10 * time.Hour // a queue
	waits, next := take(t, r, c)[0], take(t, r, c)[0]
	want(t, "wait", next.RetryAfter, 2*time.Hour)
	want(t, "given of a place that another counts on", give(waits), 0)
	want(t, "given of the last place", give(next), 1)
	want(t, "used", hours(t, r, c), 4)
	c.Burst *= 2
	want(t, "given under another limit", give(ratelimit.Taken{Charge: c, FullAt: waits.FullAt}), 0)
	want(t, "given of a key that is gone", give(ratelimit.Taken{Charge: charge(9, 1, 3), FullAt: now.Add(9 * time.Hour).UnixNano()}), 0)
	want(t, "given in all", r.Stats().Given, 3)
}

// A key keeps the share of its limit that it has used.
func TestALimitThatChanges(t *testing.T) {
	r := connected(t, "redis://"+miniredis.RunT(t).Addr())
	take(t, r, charge(1, 5, 10))
	want(t, "half of twenty", hours(t, r, charge(1, 1, 20)), 10)
	want(t, "the rest", take(t, r, charge(1, 10, 20))[0].Admitted, true)
	want(t, "of three", take(t, r, charge(1, 1, 3))[0].Admitted, false)
}

// L13: keys of several nodes in one call, each with one hash tag.
//
// Case L13
func TestKeysSpreadOverTheCluster(t *testing.T) {
	nodes := redistest.Cluster(t, 3)
	r := connected(t, nodes[0].URL())
	var charges []ratelimit.Charge
	for key := range byte(30) {
		charges = append(charges, charge(key, 1, 1))
	}
	for _, taken := range take(t, r, charges...) {
		want(t, "admitted", taken.Admitted, true)
	}
	for _, node := range nodes {
		if n := len(node.Keys("meshlite:limit:{")); n == 0 || n == 30 {
			t.Errorf("%d of 30 keys on a node", n)
		}
	}
	want(t, "again", take(t, r, append(charges, charge(99, 1, 1))...)[0].Admitted, false)
	want(t, "used of the one that was refused with them", hours(t, r, charge(99, 1, 1)), 0)
}

// What is lost is admitted once more, and no script is needed twice.
func TestFlushAndScriptFlush(t *testing.T) {
	s := redistest.Start(t)
	r := connected(t, s.URL())
	c := charge(1, 1, 1)
	for _, lose := range [][]string{{"PING"}, {"FLUSHALL"}, {"SCRIPT", "FLUSH"}, {"FLUSHALL"}} {
		s.Do(lose...)
		want(t, "admitted", take(t, r, c)[0].Admitted, lose[0] != "SCRIPT")
		want(t, "again", take(t, r, c)[0].Admitted, false)
	}
	want(t, "errors", r.Stats().Errors, 0)
}

// Whatever else lies there is an error or an unused key, and never a charge of nothing.
func TestACorruptKey(t *testing.T) {
	mini := miniredis.RunT(t)
	r := connected(t, "redis://"+mini.Addr())
	c := charge(1, 1, 1)
	take(t, r, c)
	key := mini.Keys()[0]
	for _, text := range []string{"", "x", "1 2 3", "-1 0 1 1", "1e9 0 1 1"} {
		_ = mini.Set(key, text)
		want(t, fmt.Sprintf("given of %q", text), given(t, r, c), 0)
		want(t, fmt.Sprintf("after %q", text), take(t, r, c)[0].Admitted, true)
	}
	mini.Del(key)
	_, _ = mini.Lpush(key, "a list")
	if _, err := r.Take(t.Context(), []ratelimit.Charge{c}); err == nil {
		t.Error("a list was charged")
	}
}

func given(t *testing.T, r *redis.Redis, c ratelimit.Charge) int {
	t.Helper()
	n, err := r.Give(t.Context(), []ratelimit.Taken{{Charge: c, FullAt: time.Now().Add(time.Minute).UnixNano()}})
	want(t, "error", err, nil)
	return n
}

func FuzzAnswer(f *testing.F) {
	for _, text := range []string{"", "1 0 3600 1700000000 1", "1 2 3 4 x", "9223372036854775808 0 0 0 0"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if taken, err := redis.Parse(text); err != nil && taken.Admitted {
			t.Errorf("%q is an error and admitted", text)
		}
	})
}
