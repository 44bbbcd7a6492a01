package consul

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

const (
	minBackoff = 500 * time.Millisecond
	maxBackoff = 15 * time.Second
)

// watch is one loop of blocking queries.
type watch struct {
	*Directory
	query catalog.Query
	index uint64 // to wait beyond; 0 asks for an answer at once

	hint     string    // why the last answer was empty
	failures int       // since the last answer
	repeated bool      // the last answer did not move the index
	asked    time.Time // when the last query was sent
	reset    time.Time // when the index last went backwards
}

// Watch follows q with blocking queries until ctx ends. It reports every answer
// that Consul gives, also one that is like the last.
func (d *Directory) Watch(ctx context.Context, q catalog.Query, report func(catalog.Snapshot, error)) {
	defer d.Close() // nobody else may ask for long
	w := &watch{Directory: d, query: q}
	for ctx.Err() == nil {
		snapshot, err := w.next(ctx)
		if ctx.Err() != nil {
			return
		}
		report(snapshot, err)
		pause(ctx, w.pace(snapshot, err))
	}
}

// next waits for an answer. Consul adds up to a sixteenth to the wait, and an
// agent that has hung must not hold the watch for ever.
func (w *watch) next(ctx context.Context) (catalog.Snapshot, error) {
	w.asked = time.Now()
	ctx, cancel := context.WithTimeout(ctx, w.wait+w.wait/16+requestTimeout)
	defer cancel()
	options := (&api.QueryOptions{
		Datacenter: w.query.Datacenter,
		Near:       w.query.Near,
		WaitIndex:  w.index,
		WaitTime:   w.wait,
		AllowStale: true,
	}).WithContext(ctx)
	entries, meta, err := w.client.Health().ServiceMultipleTags(w.query.Service, w.query.Tags, !w.query.Warning, options)
	if err != nil {
		return catalog.Snapshot{}, w.explain(err, fmt.Sprintf("service:read on %q and node:read", w.query.Service))
	}
	if len(entries) == 0 && meta.ResultsFilteredByACLs {
		return catalog.Snapshot{}, fmt.Errorf("%s hid the instances of %q: the token needs service:read on it and node:read", w.Name(), w.query.Service)
	}
	snapshot := catalog.Snapshot{
		Instances: instances(entries, w.query),
		Index:     meta.LastIndex,
		Time:      time.Now(),
	}
	if len(snapshot.Instances) == 0 && meta.LastIndex > 0 {
		if w.hint == "" {
			w.hint = w.whyEmpty(ctx)
		}
		snapshot.Hint = w.hint
	} else {
		w.hint = ""
	}
	return snapshot, nil
}

// whyEmpty asks, once for each time that the service becomes empty, whether it is
// unhealthy or unknown.
func (w *watch) whyEmpty(ctx context.Context) string {
	options := (&api.QueryOptions{Datacenter: w.query.Datacenter, AllowStale: true}).WithContext(ctx)
	checks, _, err := w.client.Health().Checks(w.query.Service, options)
	registered := map[string]bool{}
	for _, check := range checks {
		registered[check.Node+"/"+check.ServiceID] = true
	}
	switch {
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
func (w *watch) pace(snapshot catalog.Snapshot, err error) time.Duration {
	if err != nil {
		// The agent may come back with another history: ask afresh.
		w.index = 0
		w.failures++
		return backoff(w.failures)
	}
	w.failures = 0
	before := w.index
	// "An index of 0 means that the query does not block": wait beyond 1 instead.
	w.index = max(snapshot.Index, 1)
	switch {
	case w.index > before:
		w.repeated = false
		return 0
	case w.index == before && snapshot.Index > 0 && !w.repeated:
		w.repeated = true // Consul may answer early once
		return 0
	case w.index == before:
		return w.stuckPeriod() - time.Since(w.asked)
	default:
		// "Reset the index to 0 if it goes backwards", at once unless it keeps on.
		w.index = 0
		last := w.reset
		w.reset = time.Now()
		return w.stuckPeriod() - time.Since(last)
	}
}

// stuckPeriod is the pace of answers that come at once and do not move the index
// forward, which is a fault: index 0 for ever, an index to and fro.
func (w *watch) stuckPeriod() time.Duration { return min(15*time.Second, w.wait) }

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
