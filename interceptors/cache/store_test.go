package cache_test

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/interceptors/cache"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// shelf is a store in memory, with faults to order.
type shelf struct {
	mu          sync.Mutex
	generations map[string]int
	values      map[string][]byte // by ticket
	ends        map[string]time.Time
	ttls        []time.Duration
	subscribers map[int]func([]string)
	loads       int
	away        bool
	mute        bool                        // it takes invalidations and never answers
	slow        time.Duration               // to answer; who asks waits as long as its store's timeout
	saving      func(context.Context) error // what Save does instead
}

func newShelf() *shelf {
	return &shelf{generations: map[string]int{}, values: map[string][]byte{}, ends: map[string]time.Time{}, subscribers: map[int]func([]string){}}
}

var errAway = errors.New("the store is away")

func (s *shelf) Load(_ context.Context, key string, subjects []string) ([]byte, time.Duration, string, error) {
	time.Sleep(s.slow)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loads++
	if s.away {
		return nil, 0, "", errAway
	}
	ticket := key
	for _, subject := range subjects {
		ticket += "\x00" + subject + strings.Repeat("+", s.generations[subject])
	}
	left := time.Until(s.ends[ticket])
	if left <= 0 {
		return nil, 0, ticket, nil
	}
	return s.values[ticket], left, ticket, nil
}

func (s *shelf) Save(ctx context.Context, ticket string, value []byte, ttl time.Duration) error {
	if s.saving != nil {
		return s.saving(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return errAway
	}
	s.values[ticket], s.ends[ticket], s.ttls = value, time.Now().Add(ttl), append(s.ttls, ttl)
	return nil
}

func (s *shelf) Invalidate(ctx context.Context, subjects []string) error {
	if s.mute {
		<-ctx.Done()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return errAway
	}
	for _, subject := range subjects {
		s.generations[subject]++
	}
	for _, tell := range s.subscribers {
		tell(subjects)
	}
	return nil
}

func (s *shelf) Subscribe(invalidated func([]string)) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.subscribers)
	s.subscribers[n] = invalidated
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.subscribers, n)
	}
}

func (s *shelf) set(away bool, slow time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away, s.slow = away, slow
}

// lose makes all subscribers think that they may have missed something.
func (s *shelf) lose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, tell := range s.subscribers {
		tell(nil)
	}
}

// corrupt changes one bit of each value, at a part of its length.
func (s *shelf) corrupt(part float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ticket, value := range maps.Clone(s.values) {
		value = append([]byte(nil), value...)
		value[int(part*float64(len(value)-1))] ^= 4
		s.values[ticket] = value
	}
}

// replicas runs test in virtual time with two processes that share a store, on either side.
func replicas(t *testing.T, rule func() *policyv1.CacheRule, answer func(context.Context, *exchange) error, test func(t *testing.T, one, two callFunc, b *backend, s *shelf, caches [2]*cache.Cache)) {
	for side, connect := range map[string]connecting{"client": clientOf, "server": serverOf} {
		t.Run(side, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, b := newShelf(), &backend{answer: answer}
				var calls [2]callFunc
				var caches [2]*cache.Cache
				for i := range caches {
					c, err := cache.New(cache.WithStore(s), ops)
					if err != nil {
						t.Fatal(err)
					}
					defer c.Close()
					caches[i], calls[i] = c, connect(t, c, rule(), b)
				}
				test(t, calls[0], calls[1], b, s, caches)
			})
		})
	}
}

// What one process has loaded, the other need not: with its header, age and failures.
func TestReplicasShareAnswers(t *testing.T) {
	answer := func(_ context.Context, e *exchange) error {
		e.header.Set("made-by", "the kitchen")
		if e.id == "none" {
			return status.Error(codes.NotFound, "no such sweet")
		}
		return nil
	}
	replicas(t, forgetful, answer, func(t *testing.T, one, two callFunc, b *backend, s *shelf, caches [2]*cache.Cache) {
		one(t.Context(), "fudge").is(t, "one", "answer 1")
		one(t.Context(), "none")
		synctest.Wait() // it is written in the background
		time.Sleep(5 * time.Second)
		two(t.Context(), "fudge", "x-cache", "?").is(t, "two", "answer 1", "made-by", "[the kitchen]", "age", "[5]", "x-cache", "[hit]")
		if got := two(t.Context(), "none"); status.Code(got.err) != codes.NotFound || !strings.Contains(got.err.Error(), "no such sweet") {
			t.Errorf("%v", got.err)
		}
		want(t, "calls", b.count(), 2)
		want(t, "hits of the store", caches[1].Stats().StoreHits, 2)
		time.Sleep(55 * time.Second)
		two(t.Context(), "fudge").is(t, "when its time is over", "answer 3")
		synctest.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, ttl := range s.ttls {
			if ttl != time.Minute && ttl != 10*time.Second {
				t.Errorf("kept for %v", ttl)
			}
		}
	})
}

// C1 through a store: private answers stay private.
func TestReplicasShareNoPrivateAnswers(t *testing.T) {
	replicas(t, private, nil, func(t *testing.T, one, two callFunc, _ *backend, s *shelf, _ [2]*cache.Cache) {
		one(t.Context(), "fudge", "customer", "ada").is(t, "ada", "answer 1")
		synctest.Wait()
		two(t.Context(), "fudge", "customer", "bob").is(t, "bob", "answer 2")
		two(t.Context(), "fudge", "customer", "ada", "authorization", "another").is(t, "ada with another token", "answer 3")
		two(t.Context(), "fudge", "customer", "ada").is(t, "ada elsewhere", "answer 1")
	})
}

// C12 and C19: replicas follow an invalidation, and drop what they keep when they may have
// missed one.
//
// Case C19: A lost channel of invalidations drops the local copies.
func TestReplicasShareInvalidations(t *testing.T) {
	replicas(t, tagged, nil, func(t *testing.T, one, two callFunc, b *backend, s *shelf, caches [2]*cache.Cache) {
		one(t.Context(), "fudge").is(t, "one", "answer 1")
		synctest.Wait()
		two(t.Context(), "fudge").is(t, "two", "answer 1")
		if err := caches[0].Invalidate(t.Context(), cache.Tag("sweet:fudge")); err != nil {
			t.Fatal(err)
		}
		two(t.Context(), "fudge").is(t, "two, afterwards", "answer 2")
		synctest.Wait()
		one(t.Context(), "fudge").is(t, "one, afterwards", "answer 2")
		want(t, "kept", caches[0].Stats().Entries, 1)

		s.lose()
		want(t, "kept after a loss", caches[0].Stats().Entries+caches[1].Stats().Entries, 0)
		want(t, "losses", caches[0].Stats().StoreLosses, 1)
		one(t.Context(), "fudge").is(t, "from the store", "answer 2")
		want(t, "calls", b.count(), 2)
	})
}

// C12 through a store: a load that began before an invalidation is found by nobody.
//
// Case C12
func TestAnInvalidationDuringALoadWinsInTheStore(t *testing.T) {
	slow := func(ctx context.Context, e *exchange) error { return after(time.Second, nil)(ctx, e.number) }
	replicas(t, tagged, slow, func(t *testing.T, one, two callFunc, _ *backend, _ *shelf, caches [2]*cache.Cache) {
		told := make(chan said)
		go func() { told <- one(t.Context(), "fudge") }()
		time.Sleep(500 * time.Millisecond)
		if err := caches[1].Invalidate(t.Context(), cache.Tag("sweets")); err != nil {
			t.Fatal(err)
		}
		(<-told).is(t, "who made the call", "answer 1")
		synctest.Wait()
		two(t.Context(), "fudge").is(t, "the other", "answer 2")
		synctest.Wait()
		one(t.Context(), "fudge").is(t, "who made the call, later", "answer 2")
	})
}

// C17: when the store is away all works without it, and a hit never asks it. An
// invalidation that does not reach it returns an error.
//
// Case C17: Without Redis all works and a call waits for its timeout at most, a hit never asks
// it, a corrupt value is a miss.
func TestTheStoreIsAway(t *testing.T) {
	replicas(t, anybody, nil, func(t *testing.T, one, _ callFunc, b *backend, s *shelf, caches [2]*cache.Cache) {
		s.set(true, 50*time.Millisecond)
		start := time.Now()
		one(t.Context(), "fudge").is(t, "a miss", "answer 1")
		want(t, "added by the store", time.Since(start), 50*time.Millisecond)
		for range 100 {
			one(t.Context(), "fudge").is(t, "a hit", "answer 1")
		}
		want(t, "added to hits", time.Since(start), 50*time.Millisecond)
		want(t, "loads", s.loads, 1)
		want(t, "errors", caches[0].Stats().StoreErrors, 1)
		if err := caches[0].Invalidate(t.Context(), cache.Everything()); !errors.Is(err, errAway) {
			t.Errorf("%v", err)
		}
		one(t.Context(), "fudge").is(t, "it is invalid here all the same", "answer 2")
	})
}

// C17: a value that is not as it was written is a miss.
//
// Case C17
func TestACorruptValueIsAMiss(t *testing.T) {
	for part := 0.0; part <= 1; part += 0.05 {
		replicas(t, anybody, nil, func(t *testing.T, one, two callFunc, _ *backend, s *shelf, caches [2]*cache.Cache) {
			one(t.Context(), "fudge")
			synctest.Wait()
			s.corrupt(part)
			two(t.Context(), "fudge").is(t, "two", "answer 2")
			want(t, "errors", caches[1].Stats().StoreErrors, 1)
		})
	}
}

// What varies by metadata that only the answer names has no one place in the store.
func TestVaryingAnswersStayHere(t *testing.T) {
	answer := func(_ context.Context, e *exchange) error {
		e.header.Set("vary", "accept-language")
		return nil
	}
	replicas(t, anybody, answer, func(t *testing.T, one, two callFunc, _ *backend, s *shelf, _ [2]*cache.Cache) {
		one(t.Context(), "fudge", "accept-language", "en").is(t, "en", "answer 1")
		synctest.Wait()
		two(t.Context(), "fudge", "accept-language", "de").is(t, "de", "answer 2")
		synctest.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		want(t, "kept in the store", len(s.values), 0)
	})
}
