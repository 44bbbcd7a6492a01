package concurrency_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/internal/racetest"
)

const (
	us = time.Microsecond
	ms = time.Millisecond
)

// Twice of what a backend can do is offered, and its limit is found, from below and
// from above, for many workers and few, for quick handlers and slow ones.
//
// Case adaptive limit: Near the capacity from below and above; no drift in an overload that
// lasts, no collapse by a latency that is not load; floor, ceiling, idleness.
func TestTheLimitFindsTheCapacity(t *testing.T) {
	racetest.Skip(t)
	for _, tt := range []struct {
		name    string
		workers int
		service time.Duration
		misses  bool
		most    int64 // a limit above it is too much
		length  time.Duration
	}{
		{"16 workers", 16, 50 * ms, false, 32, 40 * time.Second},
		{"100 workers", 100, 100 * ms, false, 150, 40 * time.Second},
		{"4 workers", 4, 10 * ms, false, 12, 20 * time.Second},
		{"one worker", 1, 5 * ms, false, 10, 20 * time.Second},
		{"microseconds", 8, 200 * us, false, 18, time.Second},
		{"seconds", 50, time.Second, false, 85, 5 * time.Minute},
		{"a few take long", 100, 100 * ms, true, 200, 40 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBackend(1, tt.workers, tt.service)
				if tt.misses {
					b.misses()
				}
				s := newScene(t, adaptive(3, 1000), b)
				capacity := float64(tt.workers) / tt.service.Seconds()
				s.load(2*capacity, tt.length)
				before := b.finished()
				within(t, "limit", s.load(2*capacity, tt.length), int64(tt.workers), tt.most)
				share := float64(b.finished()-before) / tt.length.Seconds() / capacity
				if t.Logf("%.1f%% of the capacity is used", 100*share); share < 0.85 {
					t.Error("that is too little")
				}
				s.running.Wait()
			})
		})
	}
}

// When the workers become fewer, the limit is far above what it should be, and the base
// was measured in better times.
//
// Case adaptive limit
func TestTheLimitFollowsTheCapacityDownAndUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, adaptive(3, 1000), newBackend(1, 32, 50*ms))
		const flood = 2 * 32 / 0.050
		within(t, "32 workers", s.load(flood, 30*time.Second)[150:], 32, 55)
		s.backend.resize(4)
		s.load(flood, 45*time.Second)
		within(t, "4 workers", s.load(flood, 20*time.Second), 3, 16)
		s.backend.resize(32)
		s.load(flood, 10*time.Second)
		within(t, "32 again", s.load(flood, 20*time.Second), 32, 55)
		s.running.Wait()
	})
}

// A database is four times as slow for a while.
//
// Case adaptive limit
func TestTheLimitRecoversAfterASlowPhase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, adaptive(1, 1000), newBackend(2, 32, 50*ms))
		const flood = 1.5 * 32 / 0.050
		within(t, "before", s.load(flood, 30*time.Second)[150:], 32, 55)
		s.backend.set(200 * ms)
		slow := s.load(flood, 40*time.Second)
		within(t, "slow", slow, 32, 60)
		if low := slices.Min(slow); low < 6 {
			t.Errorf("the slow phase brings the limit down to %d", low)
		}
		s.backend.set(50 * ms)
		s.load(flood, 10*time.Second)
		within(t, "after", s.load(flood, 15*time.Second), 32, 70)
		s.running.Wait()
	})
}

// The known fault of a long-term average as the base: in an overload that does not
// pass, it becomes the average of the overload, and the limit rises with it.
//
// Case adaptive limit
func TestTheLimitDoesNotDriftUnderPermanentOverload(t *testing.T) {
	racetest.Skip(t)
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, adaptive(1, 1000), newBackend(3, 8, 50*ms))
		const flood = 3 * 8 / 0.050
		s.load(flood, time.Minute)
		within(t, "in the second minute", s.load(flood, time.Minute), 8, 20)
		s.load(flood, 8*time.Minute)
		within(t, "in the 11th minute", s.load(flood, time.Minute), 8, 20)
		s.running.Wait()
	})
}

// A deploy makes every call three times as slow for good, without a queue: what was
// right is right still, or too little.
//
// Case adaptive limit
func TestAShiftThatIsNotLoadIsNoOverload(t *testing.T) {
	racetest.Skip(t)
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, adaptive(3, 1000), newBackend(4, 200, 50*ms))
		s.load(600, 30*time.Second)
		before := s.stats()
		s.backend.slower(100 * ms)
		shifted := s.load(600, 20*time.Second) // 90 at once, where it was 30
		if low := slices.Min(shifted); float64(low) < float64(before.Limit)/3 {
			t.Errorf("the limit falls from %d to %d", before.Limit, low)
		}
		settled := s.stats().Refused
		s.load(600, time.Minute)
		after := s.stats()
		t.Logf("limit %d, then at least %d, then %d; %d refused", before.Limit, slices.Min(shifted), after.Limit, settled)
		if refused := after.Refused - settled; refused > 600*60/100 {
			t.Errorf("%d of %d calls are refused in the minute after", refused, 600*60)
		}
		s.running.Wait()
	})
}

// Case adaptive limit
func TestFloorAndCeilingHold(t *testing.T) {
	for name, rule := range map[string][2]uint32{"floor": {12, 500}, "ceiling": {1, 5}, "both": {9, 9}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				workers := map[string]int{"floor": 1, "ceiling": 100, "both": 20}[name]
				s := newScene(t, adaptive(rule[0], rule[1]), newBackend(5, workers, 10*ms))
				for _, limit := range s.load(2000, 10*time.Second) {
					if limit < int64(rule[0]) || limit > int64(rule[1]) {
						t.Fatalf("the limit is %d, want %d to %d", limit, rule[0], rule[1])
					}
				}
				s.running.Wait()
			})
		})
	}
}

// A limit that is not used does not change, and neither does one that is idle for an hour.
//
// Case adaptive limit
func TestIdlenessChangesNothing(t *testing.T) {
	racetest.Skip(t)
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, adaptive(1, 1000), newBackend(6, 32, 50*ms))
		s.load(1.5*32/0.050, 30*time.Second)
		s.running.Wait()
		steady := func() int64 { // past a probe
			s.load(60, 3*time.Second)
			return slices.Max(s.load(60, time.Second))
		}
		before := steady()
		time.Sleep(time.Hour)
		want(t, "limit after an hour", steady(), before)
		s.load(60, 5*time.Minute)
		want(t, "limit after light use", steady(), before)
		refused := s.stats().Refused
		s.load(60, 5*time.Minute)
		want(t, "refused in light use", s.stats().Refused-refused, 0)
		s.running.Wait()
	})
}

// X5: failures that are the callers' fault say nothing of the capacity, quick or slow.
//
// Case X5 (limit): Callers' faults lower no adaptive limit.
func TestAFloodOfCallersFaultsLowersNothing(t *testing.T) {
	racetest.Skip(t)
	for _, code := range []codes.Code{codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.Unavailable, codes.Internal, codes.Canceled} {
		for _, takes := range []time.Duration{0, 200 * ms} {
			t.Run(code.String()+" in "+takes.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newScene(t, adaptive(1, 1000), newBackend(7, 16, 50*ms))
					s.load(1.2*16/0.050, 30*time.Second)
					before := s.stats()
					flood := s.flood(500, 20*time.Second, func(context.Context) error {
						time.Sleep(takes)
						return status.Error(code, "no")
					})
					s.running.Wait()
					after := s.stats()
					if low := slices.Min(flood[len(flood)/2:]); low < before.Limit/2 {
						t.Errorf("the limit falls from %d to %d", before.Limit, low)
					}
					want(t, "base", after.BaseLatency, before.BaseLatency)
				})
			})
		}
	}
}

// Callers lose patience before an overloaded backend is through its queue. Their calls
// are samples of the overload, although none of them shows how long it would have taken,
// whether the client or the server ends them.
//
// Case adaptive limit
func TestTimeoutsAreSamples(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, adaptive(1, 1000), newBackend(8, 10, 90*ms))
		const flood = 3 * 10 / 0.090
		s.load(flood, 30*time.Second, 300*ms)
		before, start := s.backend.finished(), time.Now()
		within(t, "limit", s.load(flood, time.Minute, 300*ms), 8, 25)
		capacity := 10 / 0.090 * time.Since(start).Seconds()
		if share := float64(s.backend.finished()-before) / capacity; share < 0.8 {
			t.Errorf("%.0f%% of the capacity is used", 100*share)
		}
		s.running.Wait()
	})
}

// Where callers wait hardly longer than a call takes, every latency is theirs as soon as
// calls queue, at the limit and at half of it: nothing follows from comparing them, and a
// limit that rises would have all calls fail for ever.
func TestTheLimitFallsWhenMostCallsRunOutOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(13, 10, 90*ms)
		b.draw = func() float64 { return 1 }
		s := newScene(t, adaptive(1, 1000), b)
		const flood = 3 * 10 / 0.090
		s.load(flood, 10*time.Second, 100*ms)
		before := b.finished()
		s.load(flood, time.Minute, 100*ms)
		share := float64(b.finished()-before) / (60 * 10 / 0.090)
		if t.Logf("%.0f%% of the capacity is used", 100*share); share < 0.3 {
			t.Error("that is too little")
		}
		s.running.Wait()
	})
}

// X11: callers whose deadlines nobody could meet teach the limiter nothing.
//
// Case X11 (limit)
func TestHopelessDeadlinesAreNoSamples(t *testing.T) {
	racetest.Skip(t)
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, adaptive(1, 1000), newBackend(9, 16, 50*ms))
		s.load(1.2*16/0.050, 30*time.Second)
		before := s.stats()
		s.running.Go(func() {
			for range 30_000 {
				s.running.Go(func() {
					ctx, cancel := context.WithTimeout(context.Background(), ms)
					defer cancel()
					_ = s.call(ctx, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
				})
				time.Sleep(ms)
			}
		})
		s.load(1.2*16/0.050, 30*time.Second)
		after := s.stats()
		t.Logf("limit %d and base %v become %d and %v", before.Limit, before.BaseLatency, after.Limit, after.BaseLatency)
		if after.Limit < 8 || after.BaseLatency < 30*ms {
			t.Error("the hopeless have changed that")
		}
		s.running.Wait()
	})
}

// A probe halves the limit until it has measured. Calls that hang keep it from that,
// and it must not last as long as they do.
//
// Case adaptive limit
func TestAProbeIsGivenUpWhenCallsHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, adaptive(4, 20), newBackend(10, 100, 10*ms))
		s.load(1500, 5*time.Second)
		s.running.Wait()
		release := make(chan struct{})
		for range 15 {
			s.running.Go(func() { _ = s.call(t.Context(), func(context.Context) error { <-release; return nil }) })
		}
		before := s.backend.finished()
		s.load(1000, time.Minute)
		const possible = 5 / 0.010 * 60 // with what does not hang
		if done := s.backend.finished() - before; done < possible/2 {
			t.Errorf("%d calls of %v are answered beside those that hang", done, possible)
		}
		close(release)
		s.running.Wait()
	})
}

// A clock that does not move between the begin of a call and its end divides nothing by 0.
func TestCallsThatTakeNoTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, adaptive(1, 1000), newBackend(11, 1, 0))
		s.load(1000, time.Minute)
		s.running.Wait()
		if got := s.stats(); got.Limit < 10 || got.Refused > 0 {
			t.Errorf("%+v", got)
		}
	})
}

// Few calls of a method that hangs run out of time and use little of the limit. When it
// is well again, the limit is what it was.
func TestAnOutageInAQuietTimeChangesNothing(t *testing.T) {
	racetest.Skip(t)
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, adaptive(1, 1000), newBackend(12, 32, 50*ms))
		s.load(1.5*32/0.050, 30*time.Second)
		s.running.Wait()
		s.load(20, time.Minute)
		before := slices.Max(s.load(20, time.Minute))
		s.flood(20, 5*time.Minute, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, 200*ms)
		s.running.Wait()
		after := s.load(20, 5*time.Minute)
		want(t, "limit", slices.Max(after[len(after)/2:]), before)
		s.running.Wait()
	})
}
