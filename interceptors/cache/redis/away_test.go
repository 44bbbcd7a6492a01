package redis_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/rueidis"

	"github.com/meshlite-go/meshlite/interceptors/cache/redis"
	"github.com/meshlite-go/meshlite/internal/child"
	"github.com/meshlite-go/meshlite/internal/freeport"
	"github.com/meshlite-go/meshlite/internal/redistest"
)

// hour is a backoff within which nothing comes back.
var hour = redis.WithBackoff(time.Hour, time.Hour)

func TestAProgramStartsWithoutRedis(t *testing.T) {
	addr := freeport.For(t)
	r := newStore(t, "redis://"+addr)
	if _, _, _, err := r.Load(t.Context(), "key", sweet); !errors.Is(err, redis.ErrAway) {
		t.Errorf("error is %v, want ErrAway", err)
	}
	if err := r.Invalidate(t.Context(), sweet[:2]); !errors.Is(err, redis.ErrAway) {
		t.Errorf("error is %v, want ErrAway", err)
	}
	want(t, "pending", r.Stats().Pending, 2)
	mini := miniredis.NewMiniRedis()
	if err := mini.StartAddr(addr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mini.Close)
	redistest.Await(t, "connection", func() bool { return r.Stats().Connected })
	want(t, "pending", r.Stats().Pending, 0)
	keep(t, r, "key", "fudge", sweet...)
}

// C17: five calls wait, none the others.
//
// Case C17
func TestRedisKilledUnderLoad(t *testing.T) {
	s := redistest.Start(t)
	log := &logged{}
	one, other := connected(t, s.URL(), redis.WithLogger(log.logger())), connected(t, s.URL())
	keep(t, one, "key", "fudge", sweet...)
	h := subscribe(t, other)

	var wg sync.WaitGroup
	var loads, wrong atomic.Int64
	stop := make(chan struct{})
	for range 16 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				// A call that outlives the deadline of its caller would fail the test by a hang.
				value, _, _, err := one.Load(t.Context(), "key", sweet)
				loads.Add(1)
				if err == nil && string(value) != "fudge" && value != nil {
					wrong.Add(1)
				}
			}
		})
	}
	redistest.Await(t, "load", func() bool { return loads.Load() > 100 })
	s.Kill()
	redistest.Await(t, "open circuit", func() bool { return !one.Stats().Connected })
	failed := one.Stats().Errors
	if most := uint64(redis.MaxFailures + 16); failed > most {
		t.Errorf("%d operations have waited for a server that is down, want at most %d", failed, most)
	}
	redistest.Await(t, "refusal", func() bool { return one.Stats().Refused > 1000 })
	close(stop)
	wg.Wait()
	want(t, "wrong answers", wrong.Load(), 0)

	if err := one.Invalidate(t.Context(), []string{sweet[2]}); !errors.Is(err, redis.ErrAway) {
		t.Errorf("error is %v, want ErrAway", err)
	}
	want(t, "pending", one.Stats().Pending, 1)
	s.Run()
	redistest.Await(t, "connection", func() bool { return one.Stats().Connected && other.Stats().Connected })
	want(t, "pending", one.Stats().Pending, 0)
	redistest.Await(t, "lost subscription", func() bool { return other.Stats().LostSubscriptions == 1 && h.count("nil") >= 2 })
	keep(t, one, "key", "toffee", sweet...)
	value, _ := load(t, other, "key", sweet...)
	want(t, "value", value, "toffee")
	for what, n := range map[string]int{"redis is away": 1, "is back": 1} {
		want(t, "lines that say "+what, strings.Count(log.String(), what), n)
	}
}

// C17: a server that takes connections and does not answer.
//
// Case C17
func TestAStalledRedisCostsTheTimeout(t *testing.T) {
	s := redistest.Start(t)
	r := connected(t, s.URL(), redis.WithTimeout(20*time.Millisecond), hour)
	s.Signal(child.Freeze)
	t.Cleanup(func() { s.Signal(child.Thaw) })
	var wg sync.WaitGroup
	var late, away, other atomic.Int64
	for range 3000 { // more than a connection of rueidis queues
		wg.Go(func() {
			// Ten seconds are what the client itself would wait.
			ctx := ctx(t, 8*time.Second)
			_, _, _, err := r.Load(ctx, "key", sweet)
			switch {
			case ctx.Err() != nil:
				other.Add(1) // it was the caller's own deadline that has ended it
			case errors.Is(err, redis.ErrAway):
				away.Add(1)
			case errors.Is(err, context.DeadlineExceeded):
				late.Add(1)
			default:
				other.Add(1)
			}
		})
	}
	wg.Wait()
	want(t, "other results", other.Load(), 0)
	want(t, "operations", late.Load()+away.Load(), 3000)
	if late.Load() < redis.MaxFailures {
		t.Errorf("%d operations were late, want at least %d", late.Load(), redis.MaxFailures)
	}
	want(t, "connected", r.Stats().Connected, false)
	// From now on nobody waits.
	for range 10_000 {
		if _, _, _, err := r.Load(t.Context(), "key", sweet); !errors.Is(err, redis.ErrAway) {
			t.Fatalf("error is %v, want ErrAway", err)
		}
	}
	want(t, "errors", r.Stats().Errors, uint64(late.Load()))
}

func TestAStalledRedisComesBack(t *testing.T) {
	s := redistest.Start(t)
	one, other := connected(t, s.URL(), redis.WithTimeout(20*time.Millisecond)), connected(t, s.URL())
	h := subscribe(t, other)
	redistest.Await(t, "value", func() bool {
		_, _, ticket, err := one.Load(t.Context(), "key", sweet)
		return err == nil && one.Save(t.Context(), ticket, []byte("fudge"), time.Minute) == nil
	})
	s.Signal(child.Freeze)
	err := one.Invalidate(t.Context(), []string{sweet[3]})
	s.Signal(child.Thaw)
	if err == nil {
		t.Fatal("a stalled server accepted an invalidation")
	}
	redistest.Await(t, "connection", func() bool { return one.Stats().Connected && one.Stats().Pending == 0 })
	value, _ := load(t, other, "key", sweet...)
	want(t, "value after the invalidation was published", value, "")
	redistest.Await(t, "message", func() bool { return h.count(sweet[3]) > 0 || h.count("nil") > 0 })
}

// An invalidation that may not have arrived is published before anything is loaded.
func TestPendingInvalidationsArePublishedBeforeLoads(t *testing.T) {
	mini := miniredis.RunT(t)
	one, other := connected(t, "redis://"+mini.Addr()), connected(t, "redis://"+mini.Addr())
	for round := range 20 {
		key := fmt.Sprint(round)
		keep(t, one, key, "fudge", sweet...)
		mini.SetError("LOADING for a moment")
		if err := one.Invalidate(t.Context(), []string{sweet[2]}); err == nil {
			t.Fatal("the invalidation was published")
		}
		if _, _, _, err := one.Load(t.Context(), key, sweet); err == nil {
			t.Fatal("loaded before the invalidation was published")
		}
		mini.SetError("")
		for {
			value, _, _, err := one.Load(t.Context(), key, sweet)
			if err != nil {
				continue
			}
			want(t, "first value that was loaded again", string(value), "")
			break
		}
		value, _ := load(t, other, key, sweet...)
		want(t, "value that another loads", value, "")
	}
}

func TestTooManyPendingInvalidationsAreEverything(t *testing.T) {
	mini := miniredis.RunT(t)
	r := connected(t, "redis://"+mini.Addr())
	other := connected(t, "redis://"+mini.Addr())
	keep(t, other, "key", "fudge", sweet...)
	h := subscribe(t, other)
	mini.SetError("LOADING for a moment")
	for i := range 10_000 {
		if err := r.Invalidate(t.Context(), []string{fmt.Sprint("tag ", i)}); err == nil {
			t.Fatal("the invalidation was published")
		}
		if n := r.Stats().Pending; n > 4096 {
			t.Fatalf("%d subjects are remembered", n)
		}
	}
	want(t, "pending", r.Stats().Pending, -1)
	mini.SetError("")
	redistest.Await(t, "connection", func() bool { return r.Stats().Connected && other.Stats().Connected })
	value, _ := load(t, other, "key", sweet...)
	want(t, "value", value, "")
	redistest.Await(t, "message for everything", func() bool { return h.count("nil") > 0 })
}

func TestACallerWhoGivesUpSaysNothingAboutRedis(t *testing.T) {
	r := connected(t, "redis://"+miniredis.RunT(t).Addr(), hour)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 10 * redis.MaxFailures {
		if _, _, _, err := r.Load(gone, "key", sweet); !errors.Is(err, context.Canceled) {
			t.Errorf("error is %v, want Canceled", err)
		}
	}
	want(t, "errors", r.Stats().Errors, 0)
	keep(t, r, "key", "fudge", sweet...)
}

// It must not be lost, though it is unknown whether it was published.
func TestAnInvalidationIsPublishedThoughItsCallerGivesUp(t *testing.T) {
	mini := miniredis.RunT(t)
	one, other := connected(t, "redis://"+mini.Addr()), connected(t, "redis://"+mini.Addr())
	keep(t, one, "key", "fudge", sweet...)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := one.Invalidate(gone, sweet[:1]); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want Canceled", err)
	}
	redistest.Await(t, "telling", func() bool { return one.Stats().Pending == 0 && one.Stats().Connected })
	value, _ := load(t, other, "key", sweet...)
	want(t, "value", value, "")
}

// A caller keeps half of its time.
func TestRedisTakesHalfOfTheDeadlineAtMost(t *testing.T) {
	s := redistest.Start(t)
	r := connected(t, s.URL(), redis.WithTimeout(10*time.Second), hour)
	s.Signal(child.Freeze)
	t.Cleanup(func() { s.Signal(child.Thaw) })
	ctx := ctx(t, 400*time.Millisecond)
	if _, _, _, err := r.Load(ctx, "key", sweet); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v, want DeadlineExceeded", err)
	}
	if ctx.Err() != nil {
		t.Error("nothing was left of the caller's deadline")
	}
	want(t, "errors", r.Stats().Errors, 1)
}

func TestLooksForRedisBackOff(t *testing.T) {
	// Without a cluster to look for, rueidis gives a client that has no connection.
	base, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{"127.0.0.1:1"}, ForceSingleClient: true, DisableCache: true, DisableRetry: true})
	if base == nil {
		t.Fatal(err)
	}
	defer base.Close()
	synctest.Test(t, func(t *testing.T) {
		client := &failing{Client: base}
		log := &logged{}
		r, err := redis.New(redis.WithClient(client), redis.WithLogger(log.logger()))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		time.Sleep(time.Hour)
		// At 1, 3, 7, 15 s and then every 15 to 30 s.
		if n := client.asked.Load(); n < 100 || n > 260 {
			t.Errorf("looked %d times in an hour, want one time in 30 s, spread", n)
		}
		want(t, "lines in the log", strings.Count(log.String(), "\n"), 1)
	})
}

type failing struct {
	rueidis.Client
	asked atomic.Int64
}

func (f *failing) Do(ctx context.Context, c rueidis.Completed) rueidis.RedisResult {
	f.asked.Add(1)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	return f.Client.Do(gone, c) // fails before it looks for a connection
}

func (f *failing) Close() { panic("closed the client of another") }

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	s := redistest.Start(t)
	r := connected(t, s.URL(), redis.WithTimeout(10*time.Second), hour)
	subscribe(t, r)
	s.Signal(child.Freeze)
	t.Cleanup(func() { s.Signal(child.Thaw) })
	var wg sync.WaitGroup
	for range 2 * redis.MaxRunning {
		wg.Go(func() {
			if _, _, _, err := r.Load(t.Context(), "key", sweet); err == nil {
				t.Error("loaded from a stalled server")
			}
		})
	}
	wg.Go(r.Close)
	r.Close()
	wg.Wait()
	if _, _, _, err := r.Load(t.Context(), "key", sweet); !errors.Is(err, redis.ErrAway) {
		t.Errorf("error is %v, want ErrAway", err)
	}
	r.Subscribe(func([]string) { t.Error("called after Close") })()
}
