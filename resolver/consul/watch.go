package consul

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/consul/api"
	"golang.org/x/time/rate"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

const (
	minBackoff = 500 * time.Millisecond
	maxBackoff = 15 * time.Second
	// stuckPeriod is the interval between queries whose answers return at once without moving
	// the index forward, which is a fault: index 0 for ever, or an index to and fro.
	stuckPeriod = 15 * time.Second

	// A service that changes all the time is read twice a second. After a quiet time the
	// first ten changes are read at once, each with a confirmation.
	queryRate  = 2 // per second
	queryBurst = 20
)

// watch is one loop of blocking queries.
type watch struct {
	directory *Directory
	query     catalog.Query
	limiter   *rate.Limiter
	index     uint64             // to wait beyond; 0 does not block
	inStep    bool               // the last answer came when other clients were answered, too
	last      []catalog.Instance // of the last answer

	empty       bool      // the last answer was
	hint        string    // why
	failures    int       // since the last answer
	unconfirmed bool      // the confirmation of the last answer failed and is to be repeated
	repeated    bool      // the last answer did not move the index, and came early
	resetAt     time.Time // when the last answer with a lower index was followed up
	large       episode   // of more instances than maxInstances
}

// answer is the result of one blocking query.
type answer struct {
	catalog.Snapshot
	early     bool // before the end of its wait
	regressed bool // with a lower index than the query's
	confirmed bool // by another read
}

func newWatch(d *Directory, q catalog.Query) *watch {
	return &watch{directory: d, query: q, limiter: rate.NewLimiter(queryRate, queryBurst), large: episode{
		log:    d.log.With("service", q.Service, "limit", maxInstances),
		begins: "the service has more instances than the limit: the rest gets no calls",
		ends:   "the service has no more instances than the limit: all get calls again",
	}}
}

func (w *watch) run(ctx context.Context, report func(catalog.Snapshot, error)) {
	for w.limiter.Wait(ctx) == nil {
		answer, err := w.next(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errTakeTurns):
			continue
		}
		report(answer.Snapshot, err)
		pause(ctx, w.pace(answer, err))
	}
}

// next waits for a connection of the pool, and for an answer.
func (w *watch) next(ctx context.Context) (answer, error) {
	slot, err := w.directory.pool.acquire(ctx, w.nextWait(), w.index == 0)
	if err != nil {
		return answer{}, err
	}
	defer slot.release()
	a, err := w.read(ctx, slot)
	if err != nil {
		return answer{}, err
	}
	w.last, w.empty, w.inStep = a.Instances, len(a.Instances) == 0, a.early
	switch {
	case !w.empty:
		w.hint = ""
	case w.hint == "" && a.Index > 0:
		w.hint = w.whyEmpty(ctx)
	}
	a.Hint = w.hint
	return a, nil
}

// nextWait is how long the next query may block. After a start, an outage or a change all
// clients of the service send one at the same time, and would send the next ones in waves of
// a minute, which Consul's own jitter of a sixteenth hardly spreads. So that one wait is drawn.
func (w *watch) nextWait() time.Duration {
	if !w.inStep {
		return w.directory.wait
	}
	return min(w.directory.wait, time.Second+rand.N(w.directory.wait))
}

// read sends a blocking query, and confirms the answer if need be. If the last confirmation
// failed it starts with that: an agent that fails every other query would otherwise never confirm
// anything.
func (w *watch) read(ctx context.Context, slot slot) (answer, error) {
	if w.unconfirmed {
		return w.confirm(ctx)
	}
	sentAt := time.Now()
	a, err := w.send(slot, w.blocking(slot.wait))
	if err != nil {
		return answer{}, err
	}
	a.early = time.Since(sentAt) < slot.wait
	a.regressed = max(a.Index, 1) < w.index
	if !w.needsConfirmation(a) {
		return a, nil
	}
	w.limiter.Reserve() // the confirmation does not wait, the next query does
	confirmed, err := w.confirm(ctx)
	confirmed.regressed = a.regressed
	return confirmed, err
}

// confirm reads from the leader.
func (w *watch) confirm(ctx context.Context) (answer, error) {
	a, err := w.send(ctx, w.fromLeader())
	w.unconfirmed = err != nil && !w.unconfirmed // without a leader, alternate with queries to any server
	a.early, a.confirmed = true, true
	return a, err
}

// needsConfirmation reports whether an answer lacks more than half of the last instances, or
// is an empty one from the agent's cache. Consul has answered an empty list with an old index
// (hashicorp/consul#20790), a server that was restored or lags behind may lack instances, and
// the cache does not distinguish "empty" from "hidden by ACLs" and "not loaded yet".
func (w *watch) needsConfirmation(a answer) bool {
	if w.query.Consistency == catalog.Cached && len(a.Instances) == 0 && !w.empty {
		return true
	}
	present := map[string]bool{}
	for i := range a.Instances {
		present[a.Instances[i].Address] = true
	}
	lost := 0
	for i := range w.last {
		if !present[w.last[i].Address] {
			lost++
		}
	}
	return 2*lost > len(w.last)
}

// blocking returns the options of a query for the next change.
func (w *watch) blocking(wait time.Duration) *api.QueryOptions {
	options := optionsOf(w.query)
	options.WaitIndex, options.WaitTime = w.index, wait
	// The agent answers blocking queries from its own stream, even consistent ones, unless
	// this is set, which changes nothing in the fields that are read here.
	options.MergeCentralConfig = options.RequireConsistent
	return options
}

// optionsOf returns the options of a query that does not block.
func optionsOf(q catalog.Query) *api.QueryOptions {
	return &api.QueryOptions{
		Datacenter: q.Datacenter, Near: q.Near, Filter: q.Filter,
		AllowStale:        q.Consistency == catalog.Stale,
		RequireConsistent: q.Consistency == catalog.Consistent,
		UseCache:          q.Consistency == catalog.Cached,
	}
}

// fromLeader returns the options of a query that the leader answers without blocking.
func (w *watch) fromLeader() *api.QueryOptions {
	options := w.blocking(0)
	options.WaitIndex, options.AllowStale, options.UseCache = 0, false, false
	return options
}

// boundQuery gives a query that may block for wait a deadline, so that a stalled agent cannot
// block its watch: Consul adds up to a sixteenth to the wait.
func boundQuery(ctx context.Context, wait time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, wait+wait/16+requestTimeout)
}

// send sends one query.
func (w *watch) send(ctx context.Context, options *api.QueryOptions) (answer, error) {
	bounded, cancel := boundQuery(ctx, options.WaitTime)
	defer cancel()
	found := instances{query: w.query}
	n, meta, err := w.directory.entries(bounded, w.query, options, found.add)
	switch {
	case err != nil && errors.Is(context.Cause(ctx), errTakeTurns):
		return answer{}, errTakeTurns
	case err != nil:
		return answer{}, w.directory.explainQuery(err, w.query)
	case n == 0 && meta.ResultsFilteredByACLs:
		return answer{}, w.directory.filtered(w.query)
	}
	w.large.set(found.tooMany())
	healthy, unhealthy := found.lists()
	return answer{Snapshot: catalog.Snapshot{
		Instances: healthy,
		Unhealthy: unhealthy,
		Index:     meta.LastIndex,
		Time:      time.Now(),
	}}, nil
}

// whyEmpty reads from Consul, each time that the service becomes empty, whether its instances are
// unhealthy or there are none.
func (w *watch) whyEmpty(ctx context.Context) string {
	w.limiter.Reserve()
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	options := &api.QueryOptions{Datacenter: w.query.Datacenter, AllowStale: true}
	registered := map[string]bool{}
	decoded := decoding(ctx, func(body io.Reader) error {
		return eachItem(body, func(c *healthCheck) { registered[c.Node+"/"+c.ServiceID] = true })
	})
	_, _, err := w.directory.api.Health().Checks(w.query.Service, options.WithContext(decoded))
	switch {
	case err == nil && len(registered) > 0 && w.query.Filter != "":
		return fmt.Sprintf("%d are registered: are they passing, and do they match %s?", len(registered), w.query.Filter)
	case err == nil && len(registered) > 0 && len(w.query.Tags) > 0:
		return fmt.Sprintf("%d are registered: are they passing, and do they have the tags?", len(registered))
	case err == nil && len(registered) > 0:
		return fmt.Sprintf("%d are registered, none of them passing: see /v1/health/checks/%s", len(registered), w.query.Service)
	case w.directory.hasToken:
		return "is the name right, and the service running?"
	default:
		return "is the name right, and the service running? If Consul has ACLs, set CONSUL_HTTP_TOKEN"
	}
}

// pace moves the index and returns how long to wait before the next query.
func (w *watch) pace(a answer, err error) time.Duration {
	if err != nil {
		// The agent may come back with other indexes: start over.
		w.index = 0
		w.failures++
		return backoff(w.failures)
	}
	w.failures = 0
	before := w.index
	// "An index of 0 means that the query does not block": wait beyond 1 instead.
	w.index = max(a.Index, 1)
	switch {
	case a.regressed:
		// "Reset the index to 0 if it goes backwards", at once unless it keeps doing so.
		if !a.confirmed {
			w.index = 0
		}
		wait := max(stuckPeriod-time.Since(w.resetAt), 0)
		w.resetAt = time.Now().Add(wait)
		return wait
	case w.index != before || !a.early:
		w.repeated = false
		return 0
	case a.Index > 0 && !w.repeated:
		w.repeated = true // Consul may answer early once
		return 0
	default:
		return stuckPeriod
	}
}

// backoff doubles with each failure up to maxBackoff. Jitter over its upper half keeps
// the clients of one agent from returning in step.
func backoff(failures int) time.Duration {
	d := min(minBackoff<<min(failures-1, 10), maxBackoff)
	return d/2 + rand.N(d/2)
}

func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
