package resolver

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// consulResolver is the resolver of one channel. One goroutine, run, publishes to gRPC.
type consulResolver struct {
	builder       *Builder
	target        Target
	cc            resolver.ClientConn
	serviceConfig *serviceconfig.ParseResult // nil unless the target names a policy
	directory     string                     // its name, for messages
	serverName    string                     // that the credentials pin; empty is the channel's authority

	sources      []*subscription                   // one for each datacenter, in the order of failover
	datacenters  map[string]*attributes.Attributes // of the addresses, by those that the target names
	table        *balancer.Table
	releaseTable func()
	subset       subset
	wake         chan struct{}
	cancel       context.CancelFunc
	done         chan struct{}

	published []*catalog.Instance // in the last state
	hasState  bool                // a state was published
	logged    logged
}

// logged is what the last line of the log said of discovery.
type logged struct {
	problem         string // empty is none
	held, panicking bool
}

// ResolveNow does nothing: a blocking query returns by itself, and a failed one is sent
// again after its back-off.
func (r *consulResolver) ResolveNow(resolver.ResolveNowOptions) {}

// Close ends the watches that no other channel shares, and waits.
func (r *consulResolver) Close() {
	r.cancel()
	<-r.done
	var sources sync.WaitGroup
	for _, s := range r.sources {
		sources.Go(s.close)
	}
	sources.Wait()
	r.subset.close()
	r.releaseTable()
}

func (r *consulResolver) run(ctx context.Context) {
	defer close(r.done)
	started := time.Now()
	timer := time.NewTimer(r.builder.startTimeout)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-timer.C:
		}
		if again := r.update(r.builder.startTimeout - time.Since(started)); again > 0 {
			timer.Reset(again)
		}
	}
}

// update publishes what is believed now; starting is what is left of the start timeout. It
// returns when to update again without being woken; 0 is never.
func (r *consulResolver) update(starting time.Duration) time.Duration {
	c := r.choose(starting)
	if c.pending {
		return c.again
	}
	r.log(c)
	switch {
	case len(c.list) > 0:
		list, again := r.subset.choose(c.list)
		r.publish(list, nil)
		c.again = soonest(c.again, again)
	case c.err == nil:
		r.publish(nil, r.noInstance(c.hint))
	case r.hasState:
		r.publish(nil, c.err) // the published instances were removed
	default:
		r.cc.ReportError(c.err)
	}
	return c.again
}

// soonest is the shorter of two durations of which 0 is none.
func soonest(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// choice is the list of the datacenter that serves.
type choice struct {
	list       []catalog.Instance
	err        error         // of a datacenter that fails
	hint       string        // why an empty list may be empty
	answeredAt time.Time     // of a list that is used in spite of err
	held       int           // instances of the list that are missing from the last answer
	panicking  int           // unhealthy instances of the list
	pending    bool          // a first answer is awaited, and no earlier list serves
	again      time.Duration // until a grace time or the start timeout ends; 0 is none
}

// choose takes the first datacenter that has a list. One that fails keeps its last list for
// the grace time. After that the next one is taken; if none has a list, the last or earlier
// list of one that fails or has not answered; and without any, the unhealthy instances of the
// first that has some.
func (r *consulResolver) choose(starting time.Duration) choice {
	var fallback choice
	var lastResort []catalog.Instance
	for _, s := range r.sources {
		v := s.view()
		left := r.builder.grace - time.Since(v.failingSince)
		switch {
		case len(v.list) > 0 && v.err == nil:
			return choice{list: v.list, panicking: v.panicking, held: v.held, again: v.again}
		case len(v.list) > 0 && v.answered && left > 0:
			return choice{list: v.list, panicking: v.panicking, err: v.err, answeredAt: v.answeredAt, again: left}
		case v.err != nil:
			fallback.err = v.err
			if fallback.list == nil {
				fallback.list, fallback.answeredAt = v.list, v.answeredAt
			}
		case v.believed:
			fallback.hint = v.hint
		case starting > 0: // a later datacenter must not serve before this one has had its time
			v = r.earlier()
			return choice{list: v.list, answeredAt: v.answeredAt, pending: len(v.list) == 0, again: starting}
		default:
			fallback.err = fmt.Errorf("%s has not answered within %v: is it reachable?", r.directory, r.builder.startTimeout)
			if fallback.list == nil {
				fallback.list, fallback.answeredAt = v.earlier, v.answeredAt
			}
		}
		if lastResort == nil {
			lastResort = v.lastResort
		}
	}
	if len(fallback.list) == 0 {
		fallback.list, fallback.panicking = lastResort, len(lastResort)
	}
	return fallback
}

// earlier is what serves until the first answer: the earlier list of the first datacenter
// that did not fail when it was last used, else of any.
func (r *consulResolver) earlier() (best view) {
	for _, s := range r.sources {
		v := s.view()
		if len(v.list) == 0 {
			v.list = v.earlier
		}
		if v.hadEarlier && len(v.list) > 0 && (len(best.list) == 0 || best.suspect && !v.suspect) {
			best = v
		}
	}
	return best
}

func (r *consulResolver) noInstance(hint string) error {
	err := fmt.Errorf("%s has no healthy instance of %q", r.directory, r.target.Service)
	if len(r.target.Tags) > 0 {
		err = fmt.Errorf("%w with tags %q", err, r.target.Tags)
	}
	if hint != "" {
		err = fmt.Errorf("%w: %s", err, hint)
	}
	return err
}

// onlyHeld is not worth a warning: a clean restart of the only instance looks the same.
const onlyHeld = "the only instance has left the directory: it stays in use for the grace time"

// problem says what is wrong with discovery; empty is nothing.
func (r *consulResolver) problem(c choice) string {
	switch {
	case c.err != nil && len(c.list) > 0:
		return "discovery fails: calls go on with the last list of instances"
	case c.err != nil:
		return "discovery fails and no list of instances is left: calls fail until the directory answers"
	case c.panicking > 0:
		return "too few instances are healthy: those that fail their health checks are called as well"
	case c.held == 1 && (len(c.list) == 1 || r.logged.problem == onlyHeld):
		return onlyHeld
	case c.held > 0:
		return "too many instances vanished at once: some stay in use for the grace time"
	case len(c.list) == 0 && r.logged.problem != "":
		return "no instance is left: calls fail until one registers"
	}
	return ""
}

// log writes one line when a problem begins and one when it ends.
func (r *consulResolver) log(c choice) {
	problem := r.problem(c)
	if problem == r.logged.problem {
		return
	}
	last := r.logged
	r.logged = logged{problem: problem, held: c.held > 0, panicking: c.panicking > 0}
	log := r.builder.log.With("service", r.target.Service, "directory", r.directory, "instances", len(c.list))
	switch {
	case problem == onlyHeld:
		log.Info(problem)
	case problem == "" && last.panicking:
		log.Info("enough instances are healthy again: only those are called")
	case problem == "" && last.held:
		log.Info("discovery works again, and nothing is held")
	case problem == "":
		log.Info("discovery works again")
	case c.err != nil && !c.answeredAt.IsZero():
		log.Warn(problem, "answered_at", c.answeredAt, "error", c.err)
	case c.err != nil:
		log.Warn(problem, "error", c.err)
	case c.panicking > 0:
		log.Warn(problem, "unhealthy", c.panicking)
	case c.held > 0:
		log.Warn(problem, "held", c.held)
	default:
		log.Warn(problem)
	}
}

// publish updates gRPC's state if list has changed; reason is why it is empty. An instance
// that has not changed keeps its pointer, so that policies see what has.
func (r *consulResolver) publish(list []catalog.Instance, reason error) {
	last := map[string]*catalog.Instance{}
	for _, i := range r.published {
		last[i.Address] = i
	}
	unchanged := r.hasState && len(list) == len(r.published)
	instances := make([]*catalog.Instance, len(list))
	for i := range list {
		if old := last[list[i].Address]; old != nil && old.Equal(list[i]) {
			instances[i] = old
			continue
		}
		instance := list[i] // a pointer into the list would keep all of it
		instances[i] = &instance
		unchanged = false
	}
	if unchanged {
		return
	}
	r.published, r.hasState = instances, true
	// An error requests another update, which the next change makes anyway.
	_ = r.cc.UpdateState(r.state(reason))
}

func (r *consulResolver) state(reason error) resolver.State {
	state := resolver.State{ServiceConfig: r.serviceConfig}
	for _, i := range r.published {
		endpoint := balancer.NewEndpoint(i, r.serverName)
		endpoint.Addresses[0].Attributes = r.datacenters[i.Datacenter]
		state.Endpoints = append(state.Endpoints, endpoint)
		state.Addresses = append(state.Addresses, endpoint.Addresses...) // for policies without endpoints
	}
	if reason != nil {
		state = balancer.WithReason(state, reason)
	}
	state = balancer.WithZone(state, r.builder.region, r.builder.zone)
	return balancer.WithTable(state, r.table)
}
