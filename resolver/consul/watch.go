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
	// stuckPeriod is the pace of answers that come at once and do not move the
	// index forward, which is a fault: index 0 for ever, an index to and fro.
	stuckPeriod = 15 * time.Second

	// A service that changes all the time is read twice a second; the first ten
	// changes after a quiet time, with a second read of each, as they come.
	queryRate  = 2 // each second
	queryBurst = 20
)

// errCrowded ends a query early so that others get their turn.
var errCrowded = errors.New("there are more watches than connections")

// watch is one loop of blocking queries.
type watch struct {
	*Directory
	query  catalog.Query
	bucket *rate.Limiter
	index  uint64             // to wait beyond; 0 asks for an answer at once
	last   []catalog.Instance // of the last answer

	empty       bool      // the last answer was
	hint        string    // and why
	failures    int       // since the last answer
	unconfirmed bool      // the last answer was doubtful, and is to be confirmed
	repeated    bool      // the last answer did not move the index, and came early
	reset       time.Time // when the last answer with a lower index was followed up
	large       trouble   // more instances than are kept
}

// answer is what came of one blocking query.
type answer struct {
	catalog.Snapshot
	early bool // before the end of the time that it might have blocked
	back  bool // with a lower index than asked for
	fresh bool // it was confirmed by another read
}

// Watch follows q with blocking queries until ctx ends. It reports every answer
// that Consul gives, also one that is like the last. An answer that has lost more
// than half of the instances, or all of them, is read again from the leader before
// it is reported. A service that changes all the time is read twice a second. Of more
// than 20,000 instances the first are reported, which is logged.
//
// Up to 60 watches of one agent hear of a change at once. Of more, each takes its
// turn, and hears of it within a second for each 60 watches.
func (d *Directory) Watch(ctx context.Context, q catalog.Query, report func(catalog.Snapshot, error)) {
	if err := checkName("Service", q.Service); err != nil {
		report(catalog.Snapshot{}, err) // whatever the path would name is another service
		<-ctx.Done()
		return
	}
	d.crowd.join()
	defer func() {
		if d.crowd.leave() {
			d.Close() // nobody else may ask for long
		}
	}()
	w := &watch{Directory: d, query: q, bucket: rate.NewLimiter(queryRate, queryBurst)}
	w.large = trouble{log: d.log.With("service", q.Service), begins: "a service has more instances than are kept: the others get no calls", ends: "all instances of the service are kept again"}
	for w.bucket.Wait(ctx) == nil {
		answer, err := w.next(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errCrowded):
			continue
		}
		report(answer.Snapshot, err)
		pause(ctx, w.pace(answer, err))
	}
}

// next waits for an answer, in the watch's turn.
func (w *watch) next(ctx context.Context) (answer, error) {
	place, wait, leave, err := w.crowd.enter(ctx, w.wait)
	if err != nil {
		return answer{}, err
	}
	defer leave()
	a, err := w.read(ctx, place, wait)
	if err != nil {
		return answer{}, err
	}
	w.last, w.empty = a.Instances, len(a.Instances) == 0
	switch {
	case !w.empty:
		w.hint = ""
	case w.hint == "" && a.Index > 0:
		w.hint = w.whyEmpty(ctx)
	}
	a.Hint = w.hint
	return a, nil
}

// read asks in place and, of a doubtful answer, once more. It begins with that where
// it has failed the last time: an agent that fails every other time would never
// confirm anything.
func (w *watch) read(ctx, place context.Context, wait time.Duration) (answer, error) {
	if w.unconfirmed {
		return w.confirm(ctx)
	}
	asked := time.Now()
	a, err := w.ask(place, w.blocking(wait))
	if err != nil {
		return answer{}, err
	}
	a.early = time.Since(asked) < wait
	a.back = max(a.Index, 1) < w.index
	if !w.doubtful(a) {
		return a, nil
	}
	w.bucket.Reserve() // taken off the next query: this one does not wait
	confirmed, err := w.confirm(ctx)
	confirmed.back = a.back
	return confirmed, err
}

// confirm asks the leader.
func (w *watch) confirm(ctx context.Context) (answer, error) {
	a, err := w.ask(ctx, w.leaders())
	w.unconfirmed = err != nil && !w.unconfirmed // without a leader, others are asked in turn
	a.early, a.fresh = true, true
	return a, err
}

// doubtful says whether an answer must be confirmed: Consul has been seen to
// answer an empty list with an old index (hashicorp/consul#20790), and a server
// that was restored or lags behind may know too little. A cache does not tell
// emptiness from what ACLs hide and from what it has not heard of yet.
func (w *watch) doubtful(a answer) bool {
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

// blocking asks for what comes after the last answer.
func (w *watch) blocking(wait time.Duration) *api.QueryOptions {
	options := optionsOf(w.query)
	options.WaitIndex, options.WaitTime = w.index, wait
	// An agent answers what blocks from a stream of its own, however consistent it
	// is asked to be, but for this, which changes nothing in what is read here.
	options.MergeCentralConfig = options.RequireConsistent
	return options
}

// optionsOf asks for what q does, at once.
func optionsOf(q catalog.Query) *api.QueryOptions {
	return &api.QueryOptions{
		Datacenter: q.Datacenter, Near: q.Near, Filter: q.Filter,
		AllowStale:        q.Consistency == catalog.Stale,
		RequireConsistent: q.Consistency == catalog.Consistent,
		UseCache:          q.Consistency == catalog.Cached,
	}
}

// leaders asks for an answer at once, and for one that is no older than the
// leader's.
func (w *watch) leaders() *api.QueryOptions {
	options := w.blocking(0)
	options.WaitIndex, options.AllowStale, options.UseCache = 0, false, false
	return options
}

// ask sends one query. Consul adds up to a sixteenth to the wait, and an agent
// that has hung must not hold the watch for ever.
func (w *watch) ask(ctx context.Context, options *api.QueryOptions) (answer, error) {
	bounded, cancel := context.WithTimeout(ctx, options.WaitTime+options.WaitTime/16+requestTimeout)
	defer cancel()
	found := instances{query: w.query}
	n, meta, err := w.entries(bounded, w.query, false, options, found.add)
	switch {
	case err != nil && errors.Is(context.Cause(ctx), errCrowded):
		return answer{}, errCrowded
	case err != nil:
		return answer{}, w.explainQuery(err, w.query)
	case n == 0 && meta.ResultsFilteredByACLs:
		return answer{}, w.hidden(w.query)
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

// whyEmpty asks, once for each time that the service becomes empty, whether it is
// unhealthy or unknown.
func (w *watch) whyEmpty(ctx context.Context) string {
	w.bucket.Reserve()
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	options := &api.QueryOptions{Datacenter: w.query.Datacenter, AllowStale: true}
	registered := map[string]bool{}
	counted := decoding(ctx, func(body io.Reader) error {
		return eachItem(body, func(c *healthCheck) { registered[c.Node+"/"+c.ServiceID] = true })
	})
	_, _, err := w.client.Health().Checks(w.query.Service, options.WithContext(counted))
	switch {
	case err == nil && len(registered) > 0 && w.query.Filter != "":
		return fmt.Sprintf("Consul knows %d: are they passing, and do they match %s?", len(registered), w.query.Filter)
	case err == nil && len(registered) > 0 && len(w.query.Tags) > 0:
		return fmt.Sprintf("Consul knows %d: are they passing, and have they the tags?", len(registered))
	case err == nil && len(registered) > 0:
		return fmt.Sprintf("Consul knows %d, none of them passing: see /v1/health/checks/%s", len(registered), w.query.Service)
	case w.token:
		return "is the name right, and the service running?"
	default:
		return "is the name right, and the service running? If Consul has ACLs, set CONSUL_HTTP_TOKEN"
	}
}

// pace moves the index and says how long to wait before the next query.
func (w *watch) pace(a answer, err error) time.Duration {
	if err != nil {
		// The agent may come back with another history: ask afresh.
		w.index = 0
		w.failures++
		return backoff(w.failures)
	}
	w.failures = 0
	before := w.index
	// "An index of 0 means that the query does not block": wait beyond 1 instead.
	w.index = max(a.Index, 1)
	switch {
	case a.back:
		// "Reset the index to 0 if it goes backwards", at once unless it keeps on.
		if !a.fresh {
			w.index = 0
		}
		wait := max(stuckPeriod-time.Since(w.reset), 0)
		w.reset = time.Now().Add(wait)
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

// backoff doubles with each failure, up to a cap, and is spread over its upper
// half so that the clients of one agent do not come back in step.
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
