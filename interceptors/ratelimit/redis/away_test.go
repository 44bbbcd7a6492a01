package redis_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/rueidis"

	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit/redis"
	"github.com/meshlite-go/meshlite/internal/child"
	"github.com/meshlite-go/meshlite/internal/freeport"
	"github.com/meshlite-go/meshlite/internal/redistest"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// hour is a backoff within which nothing comes back.
var hour = redis.WithBackoff(time.Hour, time.Hour)

func share() float64 { return 0.25 }

// L7: Redis is killed under load and started again. Each limit does what it says
// meanwhile, nobody waits for longer than five operations do, and counting goes on.
//
// Case L7
func TestRedisKilledUnderLoad(t *testing.T) {
	for _, test := range []struct {
		failure  policyv1.StoreFailure
		admitted int64 // of each key, while Redis is away
		counted  func(ratelimit.Stats) uint64
	}{
		{policyv1.StoreFailure_STORE_FAILURE_OPEN, 100, func(s ratelimit.Stats) uint64 { return s.FallbackOpen }},
		{policyv1.StoreFailure_STORE_FAILURE_CLOSED, 0, func(s ratelimit.Stats) uint64 { return s.FallbackClosed }},
		{policyv1.StoreFailure_STORE_FAILURE_PER_REPLICA, 5, func(s ratelimit.Stats) uint64 { return s.FallbackPerReplica }},
	} {
		t.Run(test.failure.String(), func(t *testing.T) {
			s := redistest.Start(t)
			store := connected(t, s.URL())
			r := newReplica(t, store, []*policyv1.RateLimitRule{shared(20, "1000h", test.failure)}, ratelimit.WithShare(share))
			var calls, next atomic.Int64
			var wg sync.WaitGroup
			stop := make(chan struct{})
			for range 8 {
				wg.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
							_ = r.call("load " + strconv.FormatInt(next.Add(1)/40, 10))
							calls.Add(1)
						}
					}
				})
			}
			redistest.Await(t, "load", func() bool { return calls.Load() > 400 })
			s.Kill()
			redistest.Await(t, "open circuit", func() bool { return !store.Stats().Connected })
			// An answer that was on its way when Redis was killed begins the count of failures anew.
			if failed, most := store.Stats().Errors, uint64(2*redis.MaxFailures+8); failed > most {
				t.Errorf("%d operations have waited for a server that is down, want at most %d", failed, most)
			}
			count := func(id string) (n int64) {
				for range 100 {
					if r.call(id) == nil {
						n++
					}
				}
				return n
			}
			want(t, "admitted while it is away", count("a"), test.admitted)
			close(stop)
			wg.Wait()
			want(t, "errors and fall-backs", r.Stats().StoreErrors, test.counted(r.Stats()))
			s.Run()
			redistest.Await(t, "connection", func() bool { return store.Stats().Connected })
			want(t, "admitted when it is back", count("b"), 20)
			want(t, "admitted of those from before", count("a"), 20)
		})
	}
}

// Case L7
func TestAProgramStartsWithoutRedis(t *testing.T) {
	addr := freeport.For(t)
	store := newStore(t, "redis://"+addr)
	if _, err := store.Take(t.Context(), []ratelimit.Charge{charge(1, 1, 1)}); !errors.Is(err, redis.ErrAway) {
		t.Errorf("error is %v, want ErrAway", err)
	}
	if _, err := store.Give(t.Context(), []ratelimit.Taken{{}}); !errors.Is(err, redis.ErrAway) {
		t.Errorf("error is %v, want ErrAway", err)
	}
	mini := miniredis.NewMiniRedis()
	if err := mini.StartAddr(addr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mini.Close)
	redistest.Await(t, "connection", func() bool { return store.Stats().Connected })
	want(t, "admitted", take(t, store, charge(1, 1, 1))[0].Admitted, true)
}

// L7: a server that takes connections and does not answer costs each of the first calls
// the timeout, and those after them nothing.
//
// Case L7
func TestAStalledRedisCostsTheTimeout(t *testing.T) {
	s := redistest.Start(t)
	store := connected(t, s.URL(), redis.WithTimeout(20*time.Millisecond), hour)
	r := newReplica(t, store, []*policyv1.RateLimitRule{shared(20, "1000h", policyv1.StoreFailure_STORE_FAILURE_PER_REPLICA)}, ratelimit.WithShare(share))
	s.Signal(child.Freeze)
	t.Cleanup(func() { s.Signal(child.Thaw) })
	var wg sync.WaitGroup
	var admitted atomic.Int64
	for range 1000 {
		wg.Go(func() {
			if r.call("a") == nil {
				admitted.Add(1)
			}
		})
	}
	wg.Wait() // or the test hangs
	want(t, "admitted", admitted.Load(), 5)
	want(t, "connected", store.Stats().Connected, false)
	errs := store.Stats().Errors
	for range 10_000 {
		_ = r.call("a")
	}
	want(t, "operations that waited after that", store.Stats().Errors-errs, 0)
	want(t, "counted", r.Stats().FallbackPerReplica, 11_000)
}

// What the nodes that are well have taken of a call is given back.
func TestANodeOfTheClusterIsKilled(t *testing.T) {
	nodes := redistest.Cluster(t, 2)
	store := connected(t, nodes[0].URL(), hour)
	var charges []ratelimit.Charge
	for key := range byte(20) { // on both of them
		charges = append(charges, charge(key, 1, 1))
	}
	nodes[1].Kill()
	if _, err := store.Take(t.Context(), charges); err == nil {
		t.Fatal("a node that is down has taken a charge")
	}
	redistest.Await(t, "refund", func() bool { return len(nodes[0].Keys("meshlite:limit:")) == 0 })
}

// A caller keeps half of its time, and who gives up says nothing about Redis.
func TestTheDeadlineOfTheCaller(t *testing.T) {
	s := redistest.Start(t)
	store := connected(t, s.URL(), redis.WithTimeout(10*time.Second), hour)
	s.Signal(child.Freeze)
	t.Cleanup(func() { s.Signal(child.Thaw) })
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	if _, err := store.Take(ctx, []ratelimit.Charge{charge(1, 1, 1)}); !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
		t.Errorf("error is %v, and that of the caller %v", err, ctx.Err())
	}
	want(t, "errors", store.Stats().Errors, 1)
	cancel()
	if _, err := store.Take(ctx, []ratelimit.Charge{charge(1, 1, 1)}); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	want(t, "errors", store.Stats().Errors, 1)
}

// Callers who leave no time do not open the circuit for others.
func TestHastyCallersOpenNoCircuit(t *testing.T) {
	s := redistest.Start(t)
	store := connected(t, s.URL(), hour)
	s.Signal(child.Freeze)
	for range 4 * redis.MaxFailures {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if _, err := store.Take(ctx, []ratelimit.Charge{charge(1, 1, 100)}); err == nil {
			t.Error("a stalled server has answered")
		}
		cancel()
	}
	s.Signal(child.Thaw)
	want(t, "connected", store.Stats().Connected, true)
	want(t, "admitted", take(t, store, charge(2, 1, 1))[0].Admitted, true)
}

// A caller who is over the limit costs Redis nothing until the retry delay.
//
// Case abuse
func TestAbuseCostsRedisNothing(t *testing.T) {
	s := redistest.Start(t)
	r := newReplica(t, connected(t, s.URL()), []*policyv1.RateLimitRule{shared(20, "1000h", 0)})
	for range 21 {
		_ = r.call("abuser")
	}
	before := scripts(t, s)
	for range 10_000 {
		if r.call("abuser") == nil {
			t.Fatal("admitted")
		}
	}
	want(t, "scripts run for 10,000 calls", scripts(t, s)-before, 0)
	want(t, "remembered", r.Stats().Remembered, 10_000)
	want(t, "another caller", r.call("other"), nil)
	want(t, "scripts run for another", scripts(t, s)-before, 1)
}

// scripts is how many the server has run.
func scripts(t *testing.T, s *redistest.Server) (n int) {
	t.Helper()
	message := s.Do("INFO", "commandstats")
	text, _ := message.ToString()
	for _, line := range strings.Split(text, "\n") {
		if rest, ok := strings.CutPrefix(line, "cmdstat_eval"); ok {
			_, rest, _ = strings.Cut(rest, "calls=")
			rest, _, _ = strings.Cut(rest, ",")
			calls, err := strconv.Atoi(rest)
			if err != nil {
				t.Fatal(err)
			}
			n += calls
		}
	}
	return n
}

// Three replicas that share 1,000 a second through a real Redis admit it within 3 %, by
// its clock.
//
// Case replicas: Three that share 1,000 a second admit it within 3 %, by a store and by
// shares.
func TestThreeReplicasShareALimit(t *testing.T) {
	s := redistest.Start(t)
	rules := []*policyv1.RateLimitRule{shared(1000, "1s", 0)}
	now := func() time.Duration {
		message := s.Do("TIME")
		parts, _ := message.AsIntSlice()
		return time.Duration(parts[0])*time.Second + time.Duration(parts[1])*time.Microsecond
	}
	// A machine that stalls for a second leaves calls unmade that were due.
	for try := 1; ; try++ {
		admitted, should := admittedByThree(t, s, rules, fmt.Sprint("customer ", try), now)
		t.Logf("%.0f admitted of %.0f", admitted, should)
		if admitted > should+1 {
			t.Fatalf("three replicas have admitted %.0f calls, want %.0f at most", admitted, should)
		}
		if admitted >= 0.97*should {
			return
		}
		if try == 3 {
			t.Fatalf("three replicas have admitted %.0f calls, want %.0f within 3 %%", admitted, should)
		}
	}
}

// admittedByThree is how many calls of a customer three replicas admit in three seconds, and
// how many they should.
func admittedByThree(t *testing.T, s *redistest.Server, rules []*policyv1.RateLimitRule, customer string, now func() time.Duration) (is, should float64) {
	var admitted atomic.Int64
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var replicas []replica
	for range 3 {
		replicas = append(replicas, newReplica(t, connected(t, s.URL()), rules))
	}
	start := now()
	for _, r := range replicas {
		for range 4 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						if r.call(customer) == nil {
							admitted.Add(1)
						}
					}
				}
			})
		}
	}
	redistest.Await(t, "three seconds", func() bool { return now()-start > 3*time.Second })
	close(stop)
	wg.Wait()
	return float64(admitted.Load()), 1000 + 1000*(now()-start).Seconds() // the burst, and what has come back
}

func TestOptionsAreChecked(t *testing.T) {
	url := redis.WithURL("redis://localhost")
	for says, opts := range map[string][]redis.Option{
		"0 of WithURL":           {},
		"WithTimeout: 1µs":       {url, redis.WithTimeout(time.Microsecond)},
		`WithPrefix: ""`:         {url, redis.WithPrefix("")},
		"write redis://user:pas": {redis.WithURL("hunter2")},
		"meshlite:limit:":        {url, redis.WithPrefix("a b")},
	} {
		r, err := redis.New(opts...)
		if err == nil {
			r.Close()
		}
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("error is %v, want one that says %s", err, says)
		}
	}
}

// A client of rueidis may be described, or brought along, and then stays open.
func TestClientsOfOthers(t *testing.T) {
	addr := redistest.Start(t).Addr
	option := rueidis.ClientOption{InitAddress: []string{addr}, DisableCache: true, DisableRetry: true}
	client, err := rueidis.NewClient(option)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for i, opt := range []redis.Option{redis.WithClientOption(option), redis.WithClient(client)} {
		store, err := redis.New(opt, redis.WithLogger(silent), redis.WithTimeout(2*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		redistest.Await(t, "connection", func() bool { return store.Stats().Connected })
		want(t, "admitted", take(t, store, charge(1, 1, 1))[0].Admitted, i == 0)
		store.Close()
		if _, err := store.Take(t.Context(), []ratelimit.Charge{charge(1, 1, 1)}); !errors.Is(err, redis.ErrAway) {
			t.Errorf("error is %v after Close, want ErrAway", err)
		}
	}
	want(t, "error of the client", client.Do(t.Context(), client.B().Ping().Build()).Error(), nil)
}

// What to allow and where it is, and no secret.
func TestErrorsSayWhatToDo(t *testing.T) {
	mini := miniredis.RunT(t)
	store := connected(t, "redis://:hunter2@"+mini.Addr(), hour)
	mini.SetError("NOPERM this user has no permissions for hunter2")
	_, err := store.Take(t.Context(), []ratelimit.Charge{charge(1, 1, 1)})
	if err == nil || !strings.Contains(err.Error(), "allow the user GET, SET, DEL, TIME, EVAL and EVALSHA") || !strings.Contains(err.Error(), mini.Addr()) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error is %v", err)
	}
}
