package httpproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/internal/lines"
)

// An instance that cannot be connected to is tried again in the background, at first after
// firstTry. The pause doubles up to maxTry, give or take a quarter.
const (
	firstTry = 50 * time.Millisecond
	maxTry   = 2 * time.Second
	// maxLogRate is how many lines a site logs in a second.
	maxLogRate = 20
)

// connectError is an error before there is a connection: nothing was sent.
type connectError struct {
	err   error
	local bool // this process is the reason
}

func (e *connectError) Error() string { return "httpproxy: cannot connect: " + e.err.Error() }

func (e *connectError) Unwrap() error { return e.err }

// reach makes connections, and takes instances that cannot be connected to out of rotation.
type reach struct {
	config *Config
	set    *routes.Set
	dialer net.Dialer
	limit  *lines.Limit
	ctx    context.Context
	cancel context.CancelFunc
	tries  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	listed map[string]bool
	down   map[string]bool // each has a goroutine that tries it
	backAt map[string]time.Time
}

func newReach(c *Config, set *routes.Set) *reach {
	r := &reach{config: c, set: set, dialer: net.Dialer{Timeout: c.ConnectTimeout}, limit: lines.New(maxLogRate), listed: map[string]bool{}, down: map[string]bool{}, backAt: map[string]time.Time{}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// keep replaces the instances, which are those of all targets.
func (r *reach) keep(targets []routes.Target) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listed = map[string]bool{}
	for _, t := range targets {
		for i := range t.Instances {
			r.listed[t.Instances[i].Address] = true
		}
	}
	maps.DeleteFunc(r.backAt, func(address string, _ time.Time) bool { return !r.listed[address] })
}

// dial is for requests without TLS.
func (r *reach) dial(ctx context.Context, _, address string) (net.Conn, error) {
	return r.connect(ctx, address, false)
}

// dialTLS is for those with TLS.
func (r *reach) dialTLS(ctx context.Context, _, address string) (net.Conn, error) {
	return r.connect(ctx, address, true)
}

func (r *reach) connect(ctx context.Context, address string, secure bool) (net.Conn, error) {
	began := time.Now()
	conn, err := r.open(ctx, address, secure)
	if err == nil {
		return conn, nil
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil, err
	}
	failed := &connectError{err, isLocal(err)}
	if !failed.local {
		r.lost(address, secure, began, err)
	}
	return nil, failed
}

// open makes one connection.
func (r *reach) open(ctx context.Context, address string, secure bool) (net.Conn, error) {
	conn, err := r.dialer.DialContext(ctx, "tcp", address)
	if err != nil || !secure {
		return conn, err
	}
	config := &tls.Config{}
	if r.config.TLS != nil {
		config = r.config.TLS.Clone()
	}
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(address)
	}
	config.NextProtos = []string{"http/1.1"}
	handshake, cancel := context.WithTimeout(ctx, r.config.ConnectTimeout)
	defer cancel()
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(handshake); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return secured, nil
}

// isLocal reports whether a connection failed because this process or host has run out of
// something, which says nothing about the instance.
func isLocal(err error) bool {
	for _, own := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, own) {
			return true
		}
	}
	return false
}

// lost takes an instance out of rotation until it can be connected to. An attempt that began
// before it came back belongs to the outage that is over.
func (r *reach) lost(address string, secure bool, began time.Time, reason error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || !r.listed[address] || began.Before(r.backAt[address]) {
		return
	}
	r.set.SetReachable(address, false) // even if it is tried already: it may have been listed anew
	if r.down[address] {
		return
	}
	r.down[address] = true
	r.log(slog.LevelWarn, "instance cannot be reached", address, "error", reason)
	r.tries.Go(func() { r.retry(address, secure) })
}

// retry tries an instance until it can be connected to, or has left.
func (r *reach) retry(address string, secure bool) {
	since := time.Now()
	timer := time.NewTimer(firstTry)
	defer timer.Stop()
	for pause := firstTry; ; pause = min(2*pause, maxTry) {
		select {
		case <-timer.C:
		case <-r.ctx.Done():
			return
		}
		conn, err := r.open(r.ctx, address, secure)
		if err == nil {
			_ = conn.Close()
		}
		if r.back(address, err == nil, since) {
			return
		}
		timer.Reset(pause*3/4 + rand.N(pause/2))
	}
}

// back ends the retries of an instance that can be reached again, or has left.
func (r *reach) back(address string, reachable bool, since time.Time) (ended bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !reachable && r.listed[address] {
		return false
	}
	delete(r.down, address)
	r.set.SetReachable(address, true)
	if reachable {
		r.backAt[address] = time.Now()
		r.log(slog.LevelInfo, "instance can be reached again", address, "after", time.Since(since))
	}
	return true
}

// log logs within the limit.
func (r *reach) log(level slog.Level, message, address string, more ...any) {
	log, now := r.config.Log.With("site", r.config.Name), time.Now()
	r.limit.Settle(now, func(level slog.Level, n uint64) {
		log.Log(r.ctx, level, "lines about instances left out of the log", "count", n)
	})
	if r.limit.Admit(level, now) {
		log.With("address", address).Log(r.ctx, level, message, more...)
	}
}

func (r *reach) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.tries.Wait()
}
