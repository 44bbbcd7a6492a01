package cache_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
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

	"github.com/meshlite-go/meshlite/interceptors/cache"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// history is a backend that remembers what it has answered, and when something
// was invalidated.
type history struct {
	mu      sync.Mutex
	random  *rand.Rand
	made    map[string]made // by answer
	invalid map[string]time.Time
}

type made struct {
	id, customer string
	begun, done  time.Time
}

func (h *history) draw(n int) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.random.IntN(n)
}

// answer takes up to 100 ms, and fails one time in ten.
func (h *history) answer(ctx context.Context, e *exchange) error {
	m := made{id: e.id, customer: strings.Join(e.asked.Get("customer"), ""), begun: time.Now()}
	if err := after(time.Duration(h.draw(100))*time.Millisecond, nil)(ctx, e.number); err != nil {
		return err
	}
	if h.draw(10) == 0 {
		return status.Error(codes.Unavailable, "away")
	}
	m.done = time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.made["answer "+strconv.FormatInt(e.number, 10)] = m
	return nil
}

const (
	historyTTL    = time.Second
	historyWindow = 2 * time.Second
)

// check holds what was served at now, to a call that began then, to what must hold.
func (h *history) check(t *testing.T, got said, id, customer string, began, now time.Time, limit time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.made[got.name]
	switch {
	case m.id != id || m.customer != customer:
		t.Errorf("%s asked for %s and received the answer of %s for %s", customer, id, m.customer, m.id)
	case now.Sub(m.done) > limit:
		t.Errorf("%s is served %v after it was made, more than %v", got.name, now.Sub(m.done), limit)
	case m.begun.Before(h.invalid[id]) && h.invalid[id].Before(began):
		t.Errorf("%s, begun %v before what it tells became invalid, is served to a call %v after that", got.name, h.invalid[id].Sub(m.begun), began.Sub(h.invalid[id]))
	}
}

// Whatever many callers, invalidations and failures do at once: nobody is given another's
// answer, one past its time, or one from before an invalidation; and the figures add up.
//
// Case C12
func TestInvariantsAfterRandomHistories(t *testing.T) {
	rule := func() *policyv1.CacheRule {
		return &policyv1.CacheRule{
			Scope: policyv1.CacheScope_CACHE_SCOPE_PRIVATE,
			Ttl:   proto.String(historyTTL.String()), StaleWhileRevalidate: proto.String(historyWindow.String()), StaleIfError: proto.String(historyWindow.String()),
			EarlyRefresh: proto.Float64(1), MaxShare: proto.Float64(0.05), Tags: []string{"sweet:{id}"},
		}
	}
	for seed := range uint64(8) {
		h := &history{random: rand.New(rand.NewPCG(seed, 1)), made: map[string]made{}, invalid: map[string]time.Time{}}
		both(t, rule, h.answer, func(t *testing.T, call callFunc, b *backend, c *cache.Cache) {
			h.made, h.invalid = map[string]made{}, map[string]time.Time{}
			var asked, failed int
			var mu sync.Mutex
			var work sync.WaitGroup
			for range 16 {
				work.Go(func() {
					for range 100 {
						time.Sleep(time.Duration(h.draw(200)) * time.Millisecond)
						id, customer := fmt.Sprint("sweet", h.draw(4)), fmt.Sprint("customer", h.draw(2))
						if h.draw(20) == 0 {
							if err := c.Invalidate(t.Context(), cache.Tag("sweet:"+id)); err != nil {
								t.Error(err)
							}
							h.mu.Lock()
							h.invalid[id] = time.Now()
							h.mu.Unlock()
							continue
						}
						ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+h.draw(200))*time.Millisecond)
						began, kv := time.Now(), []string{"customer", customer}
						limit := historyTTL + historyWindow
						if h.draw(4) == 0 {
							kv, limit = append(kv, "cache-control", "max-age=1", "who", "ops"), time.Second
						}
						got := call(ctx, id, kv...)
						cancel()
						mu.Lock()
						asked++
						if got.err != nil {
							failed++
						}
						mu.Unlock()
						if got.err == nil {
							h.check(t, got, id, customer, began, time.Now(), limit)
						}
					}
				})
			}
			work.Wait()
			s := c.Stats()
			want(t, "calls by their result", int(s.Hits+s.Misses+s.Coalesced+s.Stale+s.Bypassed), asked)
			if failed > asked/2 || s.Hits == 0 || s.Stale == 0 || s.Coalesced == 0 || s.Refreshed == 0 {
				t.Errorf("%d of %d failed, %+v: too little has happened", failed, asked, s)
			}
			time.Sleep(time.Minute)
			m := c.Methods()[0]
			want(t, "entries of the method", int(m.Entries), c.Stats().Entries)
			want(t, "bytes of the method", uint64(m.Bytes), c.Stats().Bytes)
			c.Close()
			want(t, "entries after closing", int(c.Methods()[0].Entries), 0)
			want(t, "bytes after closing", c.Methods()[0].Bytes, 0)
		}, ops)
	}
}

// Whatever is under way when the caches on both ends of a channel are closed, nothing is kept
// afterwards, and the metadata of one caller is never another's.
func TestNothingIsKeptAfterClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rule := func() *policyv1.CacheRule {
			return &policyv1.CacheRule{
				Scope: policyv1.CacheScope_CACHE_SCOPE_PUBLIC, Ttl: proto.String("3ms"), StaleWhileRevalidate: proto.String("5ms"), StaleIfError: proto.String("5ms"),
				EarlyRefresh: proto.Float64(5), MaxShare: proto.Float64(0.5), Tags: []string{"sweets", "sweet:{id}"},
				Negative: []*policyv1.NegativeRule{{Code: "NOT_FOUND", Ttl: "2ms"}},
			}
		}
		shop := &shop{answer: func(ctx context.Context, _ *catalogv1.GetSweetRequest) error {
			time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
			if code := [5]codes.Code{codes.NotFound, codes.Unavailable}[rand.IntN(5)]; code != codes.OK {
				return status.Error(code, "not now")
			}
			return grpc.SetHeader(ctx, metadata.Pairs("vary", "lang", "x", "y"))
		}}
		s := newShelf()
		far, near := newCache(t, cache.WithMaxBytes(64<<10), cache.WithStore(s)), newCache(t, cache.WithMaxBytes(64<<10), cache.WithStore(s))
		sweets := dial(t, shop,
			[]grpc.ServerOption{grpc.UnaryInterceptor(far.UnaryServerInterceptor(policies(t, onServer(rule()))))},
			[]grpc.DialOption{grpc.WithUnaryInterceptor(near.UnaryClientInterceptor(policies(t, rule())))})
		var work sync.WaitGroup
		for range 8 {
			work.Go(func() {
				for range 100 {
					ctx, cancel := context.WithTimeout(as("lang", fmt.Sprint(rand.IntN(3))), time.Duration(rand.IntN(5000))*time.Microsecond)
					id, header := fmt.Sprint(rand.IntN(20)), metadata.MD{}
					reply, err := sweets.GetSweet(ctx, &catalogv1.GetSweetRequest{Id: id}, grpc.Header(&header))
					if err == nil && (reply.GetSweet().GetId() != id || fmt.Sprint(header["x"]) != "[y]") {
						t.Errorf("asked for %q: %v, %v", id, reply, header["x"])
					}
					for _, values := range header {
						values[0] = "mine"
					}
					cancel()
				}
			})
		}
		work.Go(func() {
			for range 100 {
				if err := near.Invalidate(t.Context(), []cache.Subject{cache.Everything(), cache.Tag("sweets"), cache.Tag("sweet:1")}[rand.IntN(3)]); err != nil {
					t.Error(err)
				}
				far.Index(10)
				time.Sleep(time.Millisecond)
			}
		})
		time.Sleep(50 * time.Millisecond)
		far.Close()
		near.Close()
		work.Wait()
		time.Sleep(time.Second) // for handlers whose callers have given up
		for _, c := range []*cache.Cache{far, near} {
			m := c.Methods()[0]
			want(t, "kept", c.Stats().Entries, 0)
			want(t, "entries of the method", m.Entries, 0)
			want(t, "bytes of the method", m.Bytes, 0)
		}
	})
}
