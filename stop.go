package meshlite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/meshlite-go/meshlite/internal/guard"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

const (
	deregisterTime = 3 * time.Second
	// cutOffTime is what handlers have to return after their calls were cut off.
	cutOffTime = time.Second
	// closeTime bounds what is closed beside the gRPC server.
	closeTime = time.Second
	// maxUnfinished bounds the methods that are logged with handlers that do not end.
	maxUnfinished = 10
)

// stop leaves Consul first, so that no new client comes, then waits the drain time for
// clients that are not notified yet. It ends in time whatever handlers do.
func (r *run) stop(ctx context.Context) {
	if r.listener == nil {
		r.GRPC().Stop()
		return
	}
	log := r.config.log.With("service", r.config.registrations[0].Service)
	r.health.Shutdown()
	if len(r.leases) > 0 {
		log.Info("leaving Consul, and still accepting calls", "for", r.config.drain)
		r.deregister(ctx)
		time.Sleep(r.config.drain)
	}
	r.streams.end()
	log.Info("draining: no new calls", "calls", r.calls.count(), "for", r.config.stopTimeout)
	r.drain(log)
	for _, stop := range r.follows {
		r.within(closeTime, "following the replicas", stop)
	}
	if r.healthOnly != nil {
		r.within(closeTime, "the health listener", r.healthOnly.Stop)
	}
	if r.admin != nil {
		r.within(closeTime, "the admin server", func() { r.admin.Close() })
	}
	log.Info("stopped")
}

// drain lets calls end, cuts off those that take longer than the stop timeout, and leaves
// handlers running that ignore even that.
func (r *run) drain(log *slog.Logger) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.GRPC().GracefulStop() // it waits for handlers, also after Stop
	}()
	if before(ended, r.config.stopTimeout) {
		return
	}
	log.Warn("cutting off the calls that have not ended", "calls", r.calls.count(), "after", r.config.stopTimeout)
	// Stop waits for connections, which may wait for a handler.
	go r.GRPC().Stop()
	if before(ended, cutOffTime) {
		return
	}
	left := r.calls.byMethod()
	for _, h := range left[:min(len(left), maxUnfinished)] {
		log.Error("a handler does not end although its call was cut off: it is left running", "method", h.method, "calls", h.calls, "since", h.since)
	}
	switch {
	case len(left) == 0:
		log.Error("the gRPC server does not end: an interceptor or a stats handler of WithServerOptions does not return")
	case len(left) > maxUnfinished:
		log.Error("handlers of further methods do not end", "methods", len(left)-maxUnfinished)
	}
}

// within runs what others have made, at most for d, and logs if it panics or does not end.
func (r *run) within(d time.Duration, what string, run func()) {
	begun := time.Now()
	logPanic := func(err error) {
		if p, ok := err.(*guard.Panic); ok {
			r.config.log.Error("a panic while stopping", "in", what, "panic", p.Value)
		}
	}
	err := guard.Within(d, run, logPanic)
	logPanic(err)
	if errors.Is(err, guard.ErrLeft) {
		r.logLeft(what, begun)
	}
}

func (r *run) logLeft(what string, begun time.Time) {
	r.config.log.Error("does not end: it is left running", "what", what, "since", begun)
}

// giveUp gives back a lease that came when the start had failed.
func (r *run) giveUp(late catalog.Lease) {
	ctx, cancel := context.WithTimeout(context.Background(), deregisterTime)
	defer cancel()
	if err := late.Deregister(ctx); err != nil {
		r.config.log.Warn("could not leave Consul: its check will fail instead", "service", r.config.registrations[0].Service, "error", err)
	}
}

// inTime asks the directory until the time to start is over, or a second longer than ctx
// lasts. What has not returned by then is left running, and what it returns later is passed
// to late.
func inTime[T any](ctx context.Context, r *run, what string, ask func(context.Context) (T, error), late func(T)) (T, error) {
	over, cancel := context.WithCancel(context.Background())
	defer cancel()
	timer := time.AfterFunc(time.Until(r.deadline)+closeTime, cancel)
	defer timer.Stop()
	defer context.AfterFunc(ctx, func() { timer.Reset(closeTime) })()
	begun := time.Now()
	value, err := guard.Until(over.Done(), func() (T, error) { return ask(ctx) }, func(value T, err error) {
		if err == nil {
			late(value)
		}
	})
	if errors.Is(err, guard.ErrLeft) {
		r.logLeft(what, begun)
		return value, fmt.Errorf("%s does not return", what)
	}
	if p, ok := err.(*guard.Panic); ok {
		return value, fmt.Errorf("%s %w", what, p)
	}
	return value, err
}

// before reports whether ended is closed within d.
func before(ended <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ended:
		return true
	case <-timer.C:
		return false
	}
}

func (r *run) deregister(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, deregisterTime)
	defer cancel()
	var leases sync.WaitGroup
	for _, lease := range r.leases {
		leases.Go(func() {
			r.within(deregisterTime+closeTime, "the deregistration", func() {
				if err := lease.Deregister(ctx); err != nil {
					r.config.log.Warn("could not leave Consul: its check will fail instead", "service", r.config.registrations[0].Service, "error", err)
				}
			})
		})
	}
	leases.Wait()
}

// unfinished counts the calls of a method that do not end.
type unfinished struct {
	method string
	calls  int
	since  time.Time // of the first
}

// byMethod counts the running calls of each method, oldest first.
func (c *calls) byMethod() []unfinished {
	methods := map[string]*unfinished{}
	for running := range c.all() {
		h := methods[running.method]
		if h == nil {
			h = &unfinished{method: running.method, since: running.start}
			methods[running.method] = h
		}
		h.calls++
		if running.start.Before(h.since) {
			h.since = running.start
		}
	}
	var all []unfinished
	for _, h := range methods {
		all = append(all, *h)
	}
	slices.SortFunc(all, func(a, b unfinished) int { return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.method, b.method)) })
	return all
}
