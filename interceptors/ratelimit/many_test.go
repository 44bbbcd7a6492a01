package ratelimit_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/internal/racetest"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

const manyKeys = 10_000_000

var someKeys = 10_000

func heap() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// L3: 10,000,000 distinct keys leave memory at the cap; a new key neither resets a
// live over-limit key nor is locked out for ever.
//
// Case L3: Ten million keys stay within the cap, and reset nobody who is over the limit.
func TestManyKeysStayWithinTheCap(t *testing.T) {
	racetest.Skip(t)
	const places = 1 << 17
	before := heap()
	table, limit := newTable(t, places), ratelimit.Limit{Calls: 10, Period: time.Hour}
	now := time.Now()
	abuser := func(i int) bool { return table.AllowAt(now, "abuser"+strconv.Itoa(i), limit, 10).Admitted }
	for i := range 1000 {
		want(t, "abuser's burst", abuser(i), true)
	}
	for i := range manyKeys {
		if !table.AllowAt(now, strconv.Itoa(i), limit, 1).Admitted {
			t.Fatalf("key %d is locked out", i)
		}
	}
	for i := range 1000 {
		want(t, "abuser again", abuser(i), false)
	}
	if took, most := int64(heap()-before), int64(places*(8+48)*5/4); took > most {
		t.Errorf("%d keys take %d bytes, want %d at most", manyKeys, took, most)
	}
	runtime.KeepAlive(table)
}

// L8, with refunds: whatever calls do at the same time, what is left is the burst
// without those that were not given back, to the call.
//
// Case L8
func TestConcurrentRefundsAreExact(t *testing.T) {
	rule := limit("one", 10_000, nil)
	rule.Period, rule.Refund = proto.String("1000 hours"), policyv1.Refund_REFUND_FAILED
	l := newLimiter(t)
	part := l.UnaryServerInterceptor(policies(t, rule))
	failure := errors.New("no")
	var kept atomic.Int64
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for range 500 {
				var result error
				if rand.IntN(2) == 0 {
					result = failure
				}
				_, err := part(context.Background(), nil, &grpc.UnaryServerInfo{FullMethod: browse},
					func(context.Context, any) (any, error) { return nil, result })
				want(t, "call", err, result)
				if result == nil {
					kept.Add(1)
				}
			}
		})
	}
	running.Wait()
	s, err := l.Standing(browse, "one", "")
	want(t, "error", err, nil)
	want(t, "remaining", s.Remaining, uint64(10_000-kept.Load()))
}

// Calls that one limit refuses cost nothing on another, also when they meet there at
// the same time.
//
// Case L8
func TestConcurrentRefusalsCostNothingOnOtherLimits(t *testing.T) {
	wide, narrow := limit("wide", 1_000_000, nil), limit("narrow", 1, byMetadata("id"))
	wide.Period, narrow.Period = proto.String("100000 hours"), proto.String("1000 hours") // nothing comes back in the test
	l := newLimiter(t)
	part := l.UnaryServerInterceptor(policies(t, wide, narrow))
	var admitted atomic.Int64
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for i := range 2000 {
				if _, err := part(from("id", strconv.Itoa(i)), nil, &grpc.UnaryServerInfo{FullMethod: browse},
					func(context.Context, any) (any, error) { return nil, nil }); err == nil {
					admitted.Add(1)
				}
			}
		})
	}
	running.Wait()
	want(t, "admitted", admitted.Load(), 2000)
	s, err := l.Standing(browse, "wide", "")
	want(t, "error", err, nil)
	want(t, "left of the other limit", s.Remaining, 998_000)
}

// stepWall is t as a process reads it after its wall clock was set.
func stepWall(t time.Time, hours int64) time.Time {
	const second = 1 << 30 // of the wall's word, beside the monotonic one
	word := (*uint64)(unsafe.Pointer(&t))
	*word += uint64(hours * 3600 * second)
	return t
}

// L14: Wall clock +-1 h: error of one token at most. The clock that counts is the
// monotonic one, so there is none.
//
// Case L14: The wall clock does not count.
func TestTheWallClockDoesNotCount(t *testing.T) {
	limit := ratelimit.Limit{Calls: 10, Period: time.Hour}
	for _, hours := range []int64{1, -1} {
		table, now := newTable(t, 64), time.Now()
		want(t, "stepped", stepWall(now, hours).Round(0).Sub(now.Round(0)), time.Duration(hours)*time.Hour)
		count := 0
		for i := range 100 {
			at := now
			if i%2 == 1 {
				at = stepWall(now, hours)
			}
			if table.AllowAt(at, "k", limit, 1).Admitted {
				count++
			}
		}
		want(t, "admitted", count, 10)
	}
}
