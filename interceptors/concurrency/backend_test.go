package concurrency_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/interceptors/concurrency"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// backend has workers that take one call after the other, for an exponential time
// with the mean service: latency grows with the calls beyond the workers, as where a
// processor or a pool of connections is short. It lives in virtual time.
type backend struct {
	mu      sync.Mutex
	chance  *rand.Rand
	freeAt  []time.Time // by worker
	service time.Duration
	draw    func() float64 // of how many times service a call takes, 1 on average
	always  time.Duration  // on top, without a worker
	done    int
}

func newBackend(seed uint64, workers int, service time.Duration) *backend {
	b := &backend{chance: rand.New(rand.NewPCG(seed, 1)), service: service}
	b.draw = b.chance.ExpFloat64
	b.resize(workers)
	return b
}

// misses makes one call in twenty take a hundred times as long as the others, as with
// a cache before something slow.
func (b *backend) misses() {
	b.draw = func() float64 {
		if b.chance.IntN(20) == 0 {
			return 100.0 / 5.95
		}
		return 1 / 5.95
	}
}

func (b *backend) resize(workers int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.freeAt = append(b.freeAt, make([]time.Time, workers)...)[:workers]
}

func (b *backend) slower(always time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.always = always
}

func (b *backend) set(service time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.service = service
}

// handle is the handler of a call.
func (b *backend) handle(ctx context.Context) error {
	timer := time.NewTimer(b.wait())
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	case <-timer.C:
		b.mu.Lock()
		b.done++
		b.mu.Unlock()
		return nil
	}
}

// wait queues a call at the worker that is free first.
func (b *backend) wait() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	first := 0
	for i, at := range b.freeAt {
		if at.Before(b.freeAt[first]) {
			first = i
		}
	}
	from := b.freeAt[first]
	if from.Before(now) {
		from = now
	}
	b.freeAt[first] = from.Add(time.Duration(b.draw() * float64(b.service)))
	return b.freeAt[first].Sub(now) + b.always
}

func (b *backend) finished() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.done
}

// scene is a limiter before a backend, and a crowd that calls.
type scene struct {
	t       *testing.T
	backend *backend
	limiter *concurrency.Limiter
	call    call
	chance  *rand.Rand
	running sync.WaitGroup
}

func newScene(t *testing.T, rule *policyv1.ConcurrencyRule, b *backend) *scene {
	l := newLimiter(t)
	s := &scene{t: t, backend: b, limiter: l, call: callOf(l, policies(t, rule), getSweet), chance: rand.New(rand.NewPCG(7, 7))}
	t.Cleanup(func() {
		if n := s.stats().InFlight; n != 0 {
			t.Errorf("%d calls are in flight after the last has ended", n)
		}
	})
	return s
}

func (s *scene) stats() concurrency.Stats { return statsOf(s.t, s.limiter, getSweet) }

// load makes a second's calls for so long, as a Poisson process: they come whether or
// not others have ended. It gives the limits at each tenth of a second.
func (s *scene) load(perSecond float64, length time.Duration, patience ...time.Duration) (limits []int64) {
	return s.flood(perSecond, length, s.backend.handle, patience...)
}

func (s *scene) flood(perSecond float64, length time.Duration, handler func(context.Context) error, patience ...time.Duration) (limits []int64) {
	end, look := time.Now().Add(length), time.Now()
	for time.Now().Before(end) {
		s.running.Go(func() {
			ctx := context.Background()
			if len(patience) > 0 {
				timed, cancel := context.WithTimeout(ctx, patience[0])
				defer cancel()
				ctx = timed
			}
			if err := s.call(ctx, handler); err != nil && len(patience) == 0 && status.Code(err) == codes.Unknown {
				s.t.Error(err)
			}
		})
		time.Sleep(time.Duration(s.chance.ExpFloat64() / perSecond * float64(time.Second)))
		for ; len(s.limiter.Stats()) > 0 && time.Now().After(look); look = look.Add(100 * time.Millisecond) {
			limits = append(limits, s.stats().Limit)
		}
	}
	return limits
}

// within wants a limit, by the median so that probes do not matter.
func within(t *testing.T, what string, limits []int64, low, high int64) {
	t.Helper()
	sorted := slices.Sorted(slices.Values(limits))
	if got := sorted[len(sorted)/2]; got < low || got > high {
		t.Errorf("%s: the limit is %d, want %d to %d", what, got, low, high)
	}
	t.Logf("%s: limit %d, from %d to %d", what, sorted[len(sorted)/2], sorted[0], sorted[len(sorted)-1])
}
