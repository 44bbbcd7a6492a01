package consultest

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// Limits of a blocking query, and the part of its wait that is added at random.
// https://developer.hashicorp.com/consul/api-docs/features/blocking
const (
	defaultWait    = 5 * time.Minute
	maxWait        = 10 * time.Minute
	jitterFraction = 16
)

// queryOptions are what every read of the catalog, health and KV accepts.
type queryOptions struct {
	index       uint64
	wait        time.Duration
	consistency string
	cached      bool
}

func parseQuery(r *http.Request) (queryOptions, error) {
	q := r.URL.Query()
	opts := queryOptions{consistency: "leader", cached: q.Has("cached")}
	if maxStale := q.Get("max_stale"); maxStale != "" {
		if d, err := time.ParseDuration(maxStale); err != nil {
			return opts, badRequest("Invalid max_stale value %q", maxStale)
		} else if d > 0 {
			opts.consistency = "stale"
		}
	}
	if q.Has("stale") {
		opts.consistency = "stale"
	}
	if q.Has("consistent") {
		if opts.consistency == "stale" {
			return opts, badRequest("Cannot specify ?stale with ?consistent, conflicting semantics.")
		}
		if opts.cached {
			return opts, badRequest("Cannot specify ?cached with ?consistent, conflicting semantics.")
		}
		opts.consistency = "consistent"
	}
	if wait := q.Get("wait"); wait != "" {
		d, err := time.ParseDuration(wait)
		if err != nil {
			return opts, badRequest("Invalid wait time")
		}
		opts.wait = d
	}
	if index := q.Get("index"); index != "" {
		n, err := strconv.ParseUint(index, 10, 64)
		if err != nil {
			return opts, badRequest("Invalid index")
		}
		opts.index = n
	}
	return opts, nil
}

// timeout is how long the query may block, with the jitter that spreads clients.
func (o queryOptions) timeout() time.Duration {
	wait := min(o.wait, maxWait)
	if wait <= 0 {
		wait = defaultWait
	}
	return wait + rand.N(wait/jitterFraction+1)
}

// block calls look, with the state locked, until it reports that it has seen
// enough, the timeout passes, or ctx ends. The first call decides at once if
// timeout is zero. The error is errAgain.
func (s *Server) block(ctx context.Context, timeout time.Duration, look func(*state) bool) error {
	v := s.visitOf(ctx)
	expired, stop := v.timer(timeout)
	defer stop()
	for {
		s.mu.Lock()
		enough, changed := look(s.st), s.st.changed
		s.mu.Unlock()
		if v.turned() { // comes first: what was seen may be what a fault has stirred
			return errAgain
		}
		if enough || expired == nil {
			return nil
		}
		select {
		case <-changed:
		case <-v.changed.Done():
		case <-expired:
			return nil
		case <-ctx.Done():
			panic(http.ErrAbortHandler) // nobody is left to answer, or the agent died
		}
	}
}

// read answers a query: it calls look until the index it returns has passed the
// one in the request, then writes the headers that belong to it. An index that
// went backwards keeps blocking, as Consul does; recovering is up to the client.
func (s *Server) read(w http.ResponseWriter, r *http.Request, look func(*state) (index uint64)) error {
	return s.readFound(w, r, func(st *state) (uint64, bool) { return look(st), true })
}

// readFound is read for things that may be missing: a query for one keeps
// blocking while it stays missing, whatever else changes.
func (s *Server) readFound(w http.ResponseWriter, r *http.Request, look func(*state) (uint64, bool)) error {
	opts, err := parseQuery(r)
	if err != nil {
		return err
	}
	if err := s.checkDatacenter(r); err != nil {
		return err
	}
	var timeout time.Duration
	if opts.index > 0 {
		timeout = opts.timeout()
	}
	var index uint64
	var missed bool
	after, v := opts.index, s.visitOf(r.Context())
	err = s.block(r.Context(), timeout, func(st *state) bool {
		var found bool
		index, found = look(st)
		index = v.index(index)
		if !found && missed {
			after = index
		}
		missed = !found
		return v.isNews(index, after)
	})
	if err != nil {
		return err
	}
	s.writeMeta(w, r, index, opts)
	return nil
}

func (s *Server) checkDatacenter(r *http.Request) error {
	if dc := datacenterOf(r.URL.Query()); dc != "" && dc != s.datacenter {
		return httpError{http.StatusInternalServerError, "No path to datacenter"}
	}
	return nil
}
