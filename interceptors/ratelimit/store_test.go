package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/internal/racetest"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// memory is a store in this process, on a clock that is hours away from others.
type memory struct {
	mu    sync.Mutex
	full  map[[16]byte]int64
	away  bool
	asked int // charges
	given int
}

const skew = 7 * time.Hour

func newMemory() *memory { return &memory{full: map[[16]byte]int64{}} }

var errAway = errors.New("the store is away")

func (m *memory) now() int64 { return time.Now().Add(skew).UnixNano() }

func (m *memory) Take(ctx context.Context, charges []ratelimit.Charge) ([]ratelimit.Taken, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away || ctx.Err() != nil {
		return nil, errAway
	}
	all, refused := make([]ratelimit.Taken, len(charges)), false
	for i, c := range charges {
		m.asked++
		all[i] = m.level(c)
		wait := max(all[i].Used+c.Cost-c.Burst, 0)
		all[i].RetryAfter, all[i].Admitted = wait, wait <= c.Patience
		refused = refused || !all[i].Admitted && !c.Shadow
	}
	for i, c := range charges {
		if all[i].Admitted && !refused {
			m.full[c.Key] = m.now() + int64(all[i].Used+c.Cost)
			all[i].Used, all[i].FullAt = all[i].Used+c.Cost, m.full[c.Key]
		}
	}
	return all, nil
}

func (m *memory) level(c ratelimit.Charge) ratelimit.Taken {
	return ratelimit.Taken{Charge: c, Used: time.Duration(max(m.full[c.Key]-m.now(), 0))}
}

func (m *memory) Give(ctx context.Context, taken []ratelimit.Taken) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.given
	if m.away || ctx.Err() != nil {
		return 0, errAway
	}
	for _, t := range taken {
		left := t.FullAt - m.now()
		back := min(int64(t.Charge.Cost), left)
		if left > int64(t.Charge.Burst) && m.full[t.Charge.Key] != t.FullAt {
			back = 0
		}
		if back > 0 {
			m.full[t.Charge.Key] -= back
			m.given++
		}
	}
	return m.given - before, nil
}

func (m *memory) Standing(_ context.Context, c ratelimit.Charge) (ratelimit.Taken, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return ratelimit.Taken{}, errAway
	}
	return m.level(c), nil
}

func (m *memory) Reset(_ context.Context, c ratelimit.Charge) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.full, c.Key)
	return nil
}

func shared(name string, n uint64, key *policyv1.RateLimitKey) *policyv1.RateLimitRule {
	rule := limit(name, n, key)
	rule.Store = policyv1.RateLimitStore_RATE_LIMIT_STORE_EXTERNAL
	return rule
}

// Replicas admit the limit together, of each caller, and one says what all have used.
//
// Case replicas
func TestReplicasCountTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		p := policies(t, shared("one", 60, byMetadata("id")))
		replicas := make([]*ratelimit.Limiter, 3)
		for i := range replicas {
			replicas[i] = newLimiter(t, ratelimit.WithStore(m), ratelimit.WithSecret("0123456789abcdef"))
		}
		count := func(id string) (n int) {
			for range 100 {
				for _, l := range replicas {
					n += admitted(t, l, p, from("id", id), nil, 1)
				}
			}
			return n
		}
		want(t, "of one caller", count("a"), 60)
		want(t, "of another", count("b"), 60)
		time.Sleep(10 * time.Second)
		want(t, "10 s later", count("a"), 10)
		for _, l := range replicas {
			s, err := l.Standing(browse, "one", "a")
			want(t, "standing", s.Remaining == 0 && s.Reset == time.Minute && err == nil, true)
		}
		want(t, "reset", replicas[0].Reset(browse, "one", "a"), nil)
		time.Sleep(time.Second) // the others remember until when the caller was refused
		want(t, "after a reset", count("a"), 60)
	})
}

// Other secrets are other keys, and no key shows who it is.
func TestKeysInTheStoreAreDigests(t *testing.T) {
	m := newMemory()
	p := policies(t, shared("one", 1, byMetadata("id")))
	for _, secret := range []string{"0123456789abcdef", "0123456789abcdeg"} {
		want(t, "admitted", admitted(t, newLimiter(t, ratelimit.WithStore(m), ratelimit.WithSecret(secret)), p, from("id", "hunter2"), nil, 2), 1)
	}
	l := newLimiter(t, ratelimit.WithStore(m))
	want(t, "without a secret", admitted(t, l, p, from("id", "hunter2"), nil, 2), 1)
	want(t, "keys", len(m.full), 3)
	for key := range m.full {
		want(t, "shows the caller", strings.Contains(string(key[:]), "hunter2"), false)
	}
	near := l.Stats().HotKeys
	want(t, "near the limit", len(near) == 1 && near[0].Used > 0.9 && near[0].Remaining == 0, true)
	for key := range m.full {
		want(t, "shows a key of the store", strings.Contains(fmt.Sprintf("%x", key), strings.TrimPrefix(near[0].Key, "#")), false)
	}
	_, err := ratelimit.New(ratelimit.WithStore(m), ratelimit.WithSecret("short"))
	if err == nil || !strings.Contains(err.Error(), "WithSecret: 5 bytes: give 16 or more") || strings.Contains(err.Error(), "short") {
		t.Errorf("error is %v", err)
	}
}

// Until the retry delay a caller who is over the limit costs the store nothing, whatever
// it costs, and a call that costs less is asked for when it may be admitted.
//
// Case abuse: Who is over the limit costs the store nothing.
func TestRefusedCallersCostTheStoreNothing(t *testing.T) {
	racetest.Skip(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		rule := shared("one", 60, byMetadata("id"))
		rule.CostMetadata = proto.String("cost")
		l, p := newLimiter(t, ratelimit.WithStore(m), callers(caller.WithTrustedPrefixes(prefix("10.0.0.0/8")))), policies(t, rule)
		call := func(cost string) bool {
			ctx := metadata.NewIncomingContext(tcp("10.0.0.1:1"), metadata.Pairs("id", "a", "cost", cost))
			return handle(l, p, ctx, nil) == nil
		}
		want(t, "most", call("55"), true)
		want(t, "too much", call("20"), false)
		asked := m.asked
		for range 10_000 {
			want(t, "still too much", call("20"), false)
		}
		want(t, "asked for what was refused", m.asked-asked, 0)
		want(t, "remembered", l.Stats().Remembered, 10_000)
		want(t, "less", call("5"), true)
		want(t, "one more", call("1"), false)
		asked = m.asked
		for range 10 {
			time.Sleep(time.Second - time.Nanosecond)
			want(t, "just before its time", call("1"), false)
			time.Sleep(time.Nanosecond)
			want(t, "at its time", call("1"), true)
			want(t, "and at once", call("1"), false)
		}
		want(t, "asked", m.asked-asked, 20) // once for what is admitted, once for what is not
	})
}

// L7: the store is away: open, closed or the share, as the rule says, and counted.
//
// Case L7: The store is away: open, closed or the share, within its timeout, and counted.
func TestTheSharedStoreIsAway(t *testing.T) {
	for _, test := range []struct {
		failure policyv1.StoreFailure
		want    int // admitted of 100
		counted func(ratelimit.Stats) uint64
	}{
		{policyv1.StoreFailure_STORE_FAILURE_OPEN, 100, func(s ratelimit.Stats) uint64 { return s.FallbackOpen }},
		{policyv1.StoreFailure_STORE_FAILURE_CLOSED, 0, func(s ratelimit.Stats) uint64 { return s.FallbackClosed }},
		{policyv1.StoreFailure_STORE_FAILURE_PER_REPLICA, 15, func(s ratelimit.Stats) uint64 { return s.FallbackPerReplica }},
		{policyv1.StoreFailure_STORE_FAILURE_UNSPECIFIED, 15, func(s ratelimit.Stats) uint64 { return s.FallbackPerReplica }},
	} {
		t.Run(test.failure.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory()
				rule := shared("one", 60, nil)
				rule.OnStoreFailure = test.failure
				l := newLimiter(t, ratelimit.WithStore(m), ratelimit.WithShare(func() float64 { return 0.25 }))
				p := policies(t, rule)
				want(t, "with the store", admitted(t, l, p, context.Background(), nil, 30), 30)
				m.away = true
				want(t, "without", admitted(t, l, p, context.Background(), nil, 100), test.want)
				s := l.Stats()
				want(t, "errors", s.StoreErrors, 100)
				want(t, "counted", test.counted(s), 100)
				want(t, "in all", s.FallbackOpen+s.FallbackClosed+s.FallbackPerReplica, 100)
				m.away = false
				want(t, "with the store again", admitted(t, l, p, context.Background(), nil, 100), 30)
			})
		})
	}
}

// Who is refused because the store is away gets that as the reason, and no standing.
//
// Case L7
func TestAClosedLimitSaysWhy(t *testing.T) {
	m := newMemory()
	m.away = true
	rule := shared("one", 60, nil)
	rule.OnStoreFailure = policyv1.StoreFailure_STORE_FAILURE_CLOSED
	l := newLimiter(t, ratelimit.WithStore(m))
	err := handle(l, policies(t, rule), context.Background(), nil)
	s := status.Convert(err)
	want(t, "code", s.Code(), codes.ResourceExhausted)
	if !strings.HasPrefix(s.Message(), `rate limit "one" admits nothing while its external store is unavailable: try again in 1`) {
		t.Errorf("message: %s", s.Message())
	}
	retry, _ := details(t, s)
	want(t, "reported: a wait of a second", retry.GetRetryDelay().AsDuration() >= time.Second, true)
	_, standing := l.Standing(browse, "one", "")
	want(t, "standing", standing, errAway)
	rule.Shadow = proto.Bool(true)
	want(t, "in shadow", handle(l, policies(t, rule), context.Background(), nil), nil)
	want(t, "would refuse", l.Stats().Shadowed, 1)
}

// A call that ends while the store is asked is no failure of the store.
func TestACallerWhoGivesUpSaysNothingAboutTheStore(t *testing.T) {
	l := newLimiter(t, ratelimit.WithStore(newMemory()))
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	want(t, "code", status.Code(handle(l, policies(t, shared("one", 60, nil)), gone, nil)), codes.Canceled)
	want(t, "errors", l.Stats().StoreErrors, 0)
}

// What one limit refuses costs nothing on the others, here and in the store.
func TestRefusedCallCostsNothingInTheStore(t *testing.T) {
	m := newMemory()
	l := newLimiter(t, ratelimit.WithStore(m))
	used := func(name, id string) uint64 {
		s, err := l.Standing(browse, name, id)
		want(t, "error", err, nil)
		return s.Limit.Calls - s.Remaining
	}
	p := policies(t, shared("all", 50, nil), shared("each", 3, byMetadata("id")), limit("here", 5, nil))
	want(t, "refused in the store", admitted(t, l, p, from("id", "a"), nil, 10), 3)
	want(t, "all", used("all", ""), 3)
	want(t, "here", used("here", ""), 3)
	want(t, "refused here", admitted(t, l, p, from("id", "b"), nil, 10), 2)
	want(t, "all", used("all", ""), 5)
	want(t, "customer", used("each", "b"), 2)
}

// Calls that failed are given back, in the store too, and a late refund is none.
//
// Case L10
func TestRefundInTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		rule := shared("one", 10, nil)
		rule.Refund = policyv1.Refund_REFUND_FAILED
		l, p := newLimiter(t, ratelimit.WithStore(m)), policies(t, rule)
		for range 20 {
			want(t, "failing call", refused(run(l, p, context.Background(), errors.New("no"))), false)
		}
		want(t, "refunds", l.Stats().Refunded, 20)
		_, _ = l.UnaryServerInterceptor(p)(context.Background(), nil, &grpc.UnaryServerInfo{FullMethod: browse},
			func(context.Context, any) (any, error) { time.Sleep(time.Minute); return nil, errors.New("too late") })
		want(t, "refunds of late failures", l.Stats().Refunded, 20)
		want(t, "the burst", admitted(t, l, p, context.Background(), nil, 20), 10)
		time.Sleep(time.Minute)
		_, _ = l.UnaryServerInterceptor(p)(context.Background(), nil, &grpc.UnaryServerInfo{FullMethod: browse},
			func(context.Context, any) (any, error) { m.away = true; return nil, errors.New("no") })
		want(t, "refunds that the store has failed", l.Stats().StoreErrors, 1)
		want(t, "refunds", l.Stats().Refunded, 20)
	})
}

// Calls wait for the store's limit, in order; who gives up leaves the place.
func TestWaitForTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		rule := shared("queue", 60, nil) // one a second
		rule.Burst, rule.Wait = proto.Uint64(1), proto.Bool(true)
		replicas := [2]*ratelimit.Limiter{newLimiter(t, ratelimit.WithStore(m)), newLimiter(t, ratelimit.WithStore(m))}
		p := policies(t, rule)
		start := time.Now()
		call := func(i int, ctx context.Context) chan time.Duration {
			done := make(chan time.Duration, 1)
			go func() {
				if err := run(replicas[i%2], p, ctx, nil); err == nil {
					done <- time.Since(start)
				} else {
					done <- -1
				}
			}()
			synctest.Wait()
			return done
		}
		var served []chan time.Duration
		for i := range 5 {
			served = append(served, call(i, context.Background()))
		}
		canceled, cancel := context.WithCancel(context.Background())
		last := call(1, canceled)
		cancel()
		want(t, "given up", <-last, -1)
		served = append(served, call(0, context.Background()))
		soon, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		want(t, "whose deadline is too soon", <-call(0, soon), -1)
		for i, done := range served {
			want(t, "served", <-done, time.Duration(i)*time.Second)
		}
	})
}

// A limit in shadow is counted in the store and refuses nothing.
func TestShadowInTheStore(t *testing.T) {
	m := newMemory()
	shadow := shared("shadow", 1, nil)
	shadow.Shadow = proto.Bool(true)
	l, p := newLimiter(t, ratelimit.WithStore(m)), policies(t, shadow, shared("real", 5, nil))
	want(t, "admitted", admitted(t, l, p, context.Background(), nil, 10), 5)
	want(t, "would refuse", l.Stats().Shadowed, 4)
}

// The handler has the standing of its caller in the store.
func TestStandingInTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, p := newLimiter(t, ratelimit.WithStore(newMemory())), policies(t, shared("one", 60, nil), limit("two", 6, nil))
		_, err := l.UnaryServer(p.Call(interceptors.Server, browse))(context.Background(), nil, nil, func(ctx context.Context, _ any) (any, error) {
			all, ok := ratelimit.FromContext(ctx)
			want(t, "reported", ok && len(all) == 2, true)
			want(t, "in the store", all[0].Remaining, 59)
			want(t, "reset", all[0].Reset, time.Second)
			want(t, "here", all[1].Remaining, 5)
			return nil, nil
		})
		want(t, "error", err, nil)
		want(t, "rules", l.Stats().Limits[0].Rules, "external")
		admitted(t, l, p, context.Background(), nil, 2)
	})
}

// Who was refused while a call was in flight is not refused once more when that call is
// given back: because it failed, or because its caller has given up waiting.
func TestARefundEndsWhatWasRefused(t *testing.T) {
	failure := errors.New("no")
	t.Run("failed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			rule := shared("one", 1, nil)
			rule.Refund = policyv1.Refund_REFUND_FAILED
			l, p := newLimiter(t, ratelimit.WithStore(newMemory())), policies(t, rule)
			_, err := l.UnaryServerInterceptor(p)(context.Background(), nil, &grpc.UnaryServerInfo{FullMethod: browse},
				func(context.Context, any) (any, error) {
					want(t, "while it is in flight", admitted(t, l, p, context.Background(), nil, 2), 0)
					return nil, failure
				})
			want(t, "the call that failed", err, failure)
			want(t, "after it was given back", admitted(t, l, p, context.Background(), nil, 2), 1)
		})
	})
	t.Run("gave up waiting", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newMemory()
			queue := shared("queue", 60, nil) // one a second
			queue.Burst, queue.Wait = proto.Uint64(1), proto.Bool(true)
			impatient := shared("queue", 60, nil)
			impatient.Burst = proto.Uint64(1)
			l := newLimiter(t, ratelimit.WithStore(m))
			patient := policies(t, queue)
			want(t, "first", admitted(t, l, patient, context.Background(), nil, 1), 1)
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- handle(l, patient, ctx, nil) }()
			synctest.Wait()
			want(t, "without waiting", admitted(t, l, policies(t, impatient), context.Background(), nil, 1), 0)
			cancel()
			want(t, "given up", status.Code(<-done), codes.Canceled)
			time.Sleep(time.Second)
			want(t, "in the place that was given up", admitted(t, l, policies(t, impatient), context.Background(), nil, 2), 1)
			want(t, "errors of the store", l.Stats().StoreErrors, 0)
		})
	})
}
