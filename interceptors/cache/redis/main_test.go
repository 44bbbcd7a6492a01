package redis_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/rueidis"
	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/interceptors/cache/redis"
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
	await(t, "connection", func() bool { return r.Stats().Connected })
	return r
}

func await(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within 30 s", what)
		}
	}
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

// server is a redis-server of the machine.
type server struct {
	t    testing.TB
	path string
	args []string
	addr string
	cmd  *exec.Cmd
}

// startServer runs redis-server on a free port of loopback until the test ends. Where
// there is none the test is skipped, or fails if CI is set.
func startServer(t testing.TB, args ...string) *server {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	switch {
	case err == nil:
	case os.Getenv("CI") != "":
		t.Fatal("no redis-server on PATH: install one, such as by `apt-get install redis-server`")
	default:
		t.Skip("SKIPPED, NOT TESTED: no redis-server on PATH: install one, such as by `apt-get install redis-server`")
	}
	s := &server{t: t, path: path, args: args, addr: freeAddress(t)}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *server) url() string { return "redis://" + s.addr }

func (s *server) start() {
	s.t.Helper()
	_, port, _ := net.SplitHostPort(s.addr)
	s.cmd = exec.Command(s.path, append([]string{
		"--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", s.t.TempDir(), "--loglevel", "warning",
	}, s.args...)...)
	// It must not outlive a test that is killed.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	await(s.t, "redis-server at "+s.addr, func() bool {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
}

func (s *server) kill() {
	if s.cmd.ProcessState == nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	}
}

func (s *server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// do runs a command as an operator would.
func (s *server) do(args ...string) rueidis.RedisMessage {
	s.t.Helper()
	return command(s.t, s.addr, args...)
}

func command(t testing.TB, addr string, args ...string) rueidis.RedisMessage {
	t.Helper()
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}, ForceSingleClient: true, DisableCache: true})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	message, err := client.Do(t.Context(), client.B().Arbitrary(args...).Build()).ToMessage()
	if err != nil && !rueidis.IsRedisNil(err) {
		t.Fatalf("%v: %v", args, err)
	}
	return message
}

// keys are the keys in Redis that begin with prefix.
func (s *server) keys(prefix string) []string {
	s.t.Helper()
	message := s.do("KEYS", prefix+"*")
	keys, err := message.AsStrSlice()
	if err != nil {
		s.t.Fatal(err)
	}
	return keys
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// backends run a test with each kind of Redis.
func backends(t *testing.T, test func(t *testing.T, url string)) {
	t.Run("miniredis", func(t *testing.T) { test(t, "redis://"+miniredis.RunT(t).Addr()) })
	t.Run("redis-server", func(t *testing.T) { test(t, startServer(t).url()) })
	t.Run("RESP2", func(t *testing.T) { test(t, startServer(t).url()+"?protocol=2") })
	t.Run("unix", func(t *testing.T) {
		dir, err := os.MkdirTemp("", "") // the path of a socket must be short
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		path := filepath.Join(dir, "s")
		startServer(t, "--unixsocket", path)
		await(t, "socket", func() bool { _, err := os.Stat(path); return err == nil })
		test(t, "unix://"+path)
	})
	t.Run("cluster", func(t *testing.T) { test(t, startCluster(t, 2)[0].url()) })
}

// startCluster joins nodes that share the slots.
func startCluster(t testing.TB, nodes int) []*server {
	t.Helper()
	all := make([]*server, nodes)
	for i := range all {
		_, bus, _ := net.SplitHostPort(freeAddress(t))
		all[i] = startServer(t, "--cluster-enabled", "yes", "--cluster-port", bus)
		per := 16384 / nodes
		all[i].do("CLUSTER", "ADDSLOTSRANGE", fmt.Sprint(i*per), fmt.Sprint((i+1)*per-1))
		all[i].do("CLUSTER", "SET-CONFIG-EPOCH", fmt.Sprint(i+1))
		if i > 0 {
			host, port, _ := net.SplitHostPort(all[0].addr)
			all[i].do("CLUSTER", "MEET", host, port, all[0].args[3])
		}
	}
	for _, node := range all {
		await(t, "cluster", func() bool {
			message := node.do("CLUSTER", "INFO")
			info, _ := message.ToString()
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", nodes))
		})
	}
	return all
}

// heard are the messages that a subscriber got; "nil" is everything.
type heard struct {
	mu  sync.Mutex
	all []string
}

func (h *heard) invalidated(subjects []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if subjects == nil {
		h.all = append(h.all, "nil")
		return
	}
	h.all = append(h.all, strings.Join(subjects, ","))
}

func (h *heard) list() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.all)
}

func (h *heard) count(message string) (n int) {
	for _, m := range h.list() {
		if m == message {
			n++
		}
	}
	return n
}

// subscribe waits until r has its subscription and forgets what came of that.
func subscribe(t testing.TB, r *redis.Redis) *heard {
	t.Helper()
	h := &heard{}
	t.Cleanup(r.Subscribe(h.invalidated))
	await(t, "subscription", func() bool { return r.Stats().Subscribed && h.count("nil") > 0 })
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
