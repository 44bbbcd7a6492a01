package redis_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/interceptors/cache/redis"
	"github.com/meshlite-go/meshlite/internal/redistest"
)

var _ cache.Store = (*redis.Redis)(nil)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// rueidis looks at the topology up to a second after a lost connection, and does
		// not end that early.
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"))
}

var silent = slog.New(slog.NewTextHandler(io.Discard, nil))

// newStore reaches Redis at url, with a timeout that a loaded machine keeps.
func newStore(t testing.TB, url string, opts ...redis.Option) *redis.Redis {
	t.Helper()
	r, err := redis.New(append([]redis.Option{
		redis.WithURL(url), redis.WithTimeout(2 * time.Second), redis.WithLogger(silent),
		redis.WithBackoff(10*time.Millisecond, 40*time.Millisecond),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// connected is newStore, once it has found Redis.
func connected(t testing.TB, url string, opts ...redis.Option) *redis.Redis {
	t.Helper()
	r := newStore(t, url, opts...)
	redistest.Await(t, "connection", func() bool { return r.Stats().Connected })
	return r
}

// load is what a store finds, and the ticket.
func load(t testing.TB, r *redis.Redis, key string, subjects ...string) (value, ticket string) {
	t.Helper()
	b, _, ticket, err := r.Load(t.Context(), key, subjects)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), ticket
}

func save(t testing.TB, r *redis.Redis, ticket, value string) {
	t.Helper()
	if err := r.Save(t.Context(), ticket, []byte(value), time.Minute); err != nil {
		t.Fatal(err)
	}
}

func invalidate(t testing.TB, r *redis.Redis, subjects ...string) {
	t.Helper()
	if err := r.Invalidate(t.Context(), subjects); err != nil {
		t.Fatal(err)
	}
}

// keep loads nothing and saves value.
func keep(t testing.TB, r *redis.Redis, key, value string, subjects ...string) {
	t.Helper()
	found, ticket := load(t, r, key, subjects...)
	want(t, "value before it was saved", found, "")
	save(t, r, ticket, value)
}

func want[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// received are the messages that a subscriber got; "nil" is everything.
type received struct {
	mu  sync.Mutex
	all []string
}

func (h *received) invalidated(subjects []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if subjects == nil {
		h.all = append(h.all, "nil")
		return
	}
	h.all = append(h.all, strings.Join(subjects, ","))
}

func (h *received) list() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.all)
}

func (h *received) count(message string) (n int) {
	for _, m := range h.list() {
		if m == message {
			n++
		}
	}
	return n
}

// subscribe waits until r has its subscription and forgets what came of that.
func subscribe(t testing.TB, r *redis.Redis) *received {
	t.Helper()
	h := &received{}
	t.Cleanup(r.Subscribe(h.invalidated))
	redistest.Await(t, "subscription", func() bool { return r.Stats().Subscribed && h.count("nil") > 0 })
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = nil
	return h
}

// logged is what a logger wrote.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func ctx(t testing.TB, timeout time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	t.Cleanup(cancel)
	return ctx
}
