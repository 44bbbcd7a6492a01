package resolver

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// watcher is the resolver of one channel. All that it tells gRPC comes from the
// one goroutine that runs in run.
type watcher struct {
	builder       *Builder
	target        Target
	cc            resolver.ClientConn
	serviceConfig *serviceconfig.ParseResult // nil unless the target names a policy
	directory     string                     // its name, for messages
	pinned        string                     // what instances must prove to be; empty is the channel's authority

	sources     []*subscription // one for each datacenter, in the order of failover
	table       *balancer.Table
	subset      subset
	returnTable func()
	wake        chan struct{}
	cancel      context.CancelFunc
	done        chan struct{}

	instances []*catalog.Instance // what gRPC was told last
	told      bool                // whether it was told any
	trouble   string              // what was logged last
	held      bool                // whether instances were held then
	panicked  bool                // whether unhealthy instances were called then
}

// ResolveNow has nothing to do: the answer to a blocking query comes by itself,
// and a failed one is asked again after its back-off, however often gRPC hopes.
func (w *watcher) ResolveNow(resolver.ResolveNowOptions) {}

// Close ends the watch, unless other channels share it, and waits.
func (w *watcher) Close() {
	w.cancel()
	<-w.done
	var sources sync.WaitGroup
	for _, s := range w.sources {
		sources.Go(s.close)
	}
	sources.Wait()
	w.subset.close()
	w.returnTable()
}

func (w *watcher) run(ctx context.Context) {
	defer close(w.done)
	started := time.Now()
	timer := time.NewTimer(w.builder.startTimeout)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-timer.C:
		}
		if again := w.look(w.builder.startTimeout - time.Since(started)); again > 0 {
			timer.Reset(again)
		}
	}
}

// look reads what is known now and tells gRPC what it has to know. It answers
// after which time it must look again without being woken, if it must; starting is
// what is left of the start timeout.
func (w *watcher) look(starting time.Duration) time.Duration {
	now := w.choose(starting)
	if now.pending {
		return now.again
	}
	w.log(now)
	switch {
	case len(now.list) > 0:
		list, again := w.subset.of(now.list)
		w.publish(list, nil)
		now.again = soonest(now.again, again)
	case now.err == nil:
		w.publish(nil, w.absent(now.hint))
	case w.told:
		w.publish(nil, now.err) // what gRPC was told of is known to be gone
	default:
		w.cc.ReportError(now.err)
	}
	return now.again
}

// soonest is the shorter of two times of which 0 is none.
func soonest(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// found is what all datacenters together tell.
type found struct {
	list      []catalog.Instance
	err       error         // of a datacenter that does not answer
	hint      string        // why an empty list may be empty
	told      time.Time     // when a list was told that is used in spite of err
	holding   int           // how many of the list are there only by the guard
	panicking int           // how many of the list are called in spite of their health checks
	pending   bool          // an answer that decides is still to come
	again     time.Duration // when a grace time, or the start timeout, ends; 0 is none
}

// choose takes the first datacenter that has a list. One that fails keeps what it
// has answered for the grace time; after that the next one is taken and, if none has
// any, the last list of one that fails or has not answered, be it from before; and where
// there is no list, the unhealthy instances of the first that has some.
func (w *watcher) choose(starting time.Duration) found {
	var all found
	var unhealthy []catalog.Instance // of the first datacenter that has only such
	for _, s := range w.sources {
		now := s.look()
		left := w.builder.grace - time.Since(now.failing)
		switch {
		case len(now.list) > 0 && now.err == nil:
			return found{list: now.list, panicking: now.panicking, holding: now.holding, again: now.again}
		case len(now.list) > 0 && now.own && left > 0:
			return found{list: now.list, panicking: now.panicking, err: now.err, told: now.told, again: left}
		case now.err != nil:
			all.err = now.err
			if all.list == nil {
				all.list, all.told = now.list, now.told
			}
		case now.known:
			all.hint = now.hint
		case starting > 0: // the next datacenter is not asked before this one has had its time
			now = w.meanwhile()
			return found{list: now.list, told: now.told, pending: len(now.list) == 0, again: starting}
		default:
			all.err = fmt.Errorf("%s has not answered within %v: is it reachable?", w.directory, w.builder.startTimeout)
			if all.list == nil {
				all.list, all.told = now.before, now.told
			}
		}
		if unhealthy == nil {
			unhealthy = now.unhealthy
		}
	}
	if len(all.list) == 0 {
		all.list, all.panicking = unhealthy, len(unhealthy)
	}
	return all
}

// meanwhile is what to go on with until a datacenter has answered that comes first: the
// list of the first one that was known before and did not fail at the end, else of any.
func (w *watcher) meanwhile() (best known) {
	for _, s := range w.sources {
		now := s.look()
		if len(now.list) == 0 {
			now.list = now.before
		}
		if now.recalled && len(now.list) > 0 && (len(best.list) == 0 || best.stale && !now.stale) {
			best = now
		}
	}
	return best
}

func (w *watcher) absent(hint string) error {
	err := fmt.Errorf("%s has no healthy instance of %q", w.directory, w.target.Service)
	if len(w.target.Tags) > 0 {
		err = fmt.Errorf("%w with tags %q", err, w.target.Tags)
	}
	if hint != "" {
		err = fmt.Errorf("%w: %s", err, hint)
	}
	return err
}

// onlyHeld is no trouble yet: a clean restart of the only instance looks like this.
const onlyHeld = "the only instance has left: it is held for the grace time"

// log says once when discovery gets into trouble and once when it is out of it.
func (w *watcher) log(now found) {
	trouble := ""
	switch {
	case now.err != nil && len(now.list) > 0:
		trouble = "discovery fails: calls go on with what was known"
	case now.err != nil:
		trouble = "discovery fails, and so do calls until it works"
	case now.panicking > 0:
		trouble = "too few instances are healthy by the directory: those that its health checks keep out are called, too"
	case now.holding == 1 && (len(now.list) == 1 || w.trouble == onlyHeld):
		trouble = onlyHeld
	case now.holding > 0:
		trouble = "too many instances vanished at once: the last ones are held for the grace time"
	case now.err == nil && len(now.list) == 0 && w.trouble != "":
		trouble = "no instance is left: calls fail until one registers"
	}
	if trouble == w.trouble {
		return
	}
	held, panicked := w.held, w.panicked
	w.trouble, w.held, w.panicked = trouble, now.holding > 0, now.panicking > 0
	log := w.builder.log.With("service", w.target.Service, "directory", w.directory, "instances", len(now.list))
	switch {
	case trouble == onlyHeld:
		log.Info(trouble)
	case trouble == "" && panicked:
		log.Info("enough instances are healthy again: only those are called")
	case trouble == "" && held:
		log.Info("discovery works again, and nothing is held")
	case trouble == "":
		log.Info("discovery works again")
	case now.err != nil && !now.told.IsZero():
		log.Warn(trouble, "told", now.told, "error", now.err)
	case now.err != nil:
		log.Warn(trouble, "error", now.err)
	case now.panicking > 0:
		log.Warn(trouble, "unhealthy", now.panicking)
	case now.holding > 0:
		log.Warn(trouble, "held", now.holding)
	default:
		log.Warn(trouble)
	}
}

// publish tells gRPC of list, unless it knows, or why there is none. An instance
// that has not changed stays the same value, so that policies see what has.
func (w *watcher) publish(list []catalog.Instance, absent error) {
	before := map[string]*catalog.Instance{}
	for _, i := range w.instances {
		before[i.Address] = i
	}
	same := w.told && len(list) == len(w.instances)
	instances := make([]*catalog.Instance, len(list))
	for i := range list {
		if old := before[list[i].Address]; old != nil && old.Equal(list[i]) {
			instances[i] = old
			continue
		}
		own := list[i] // a pointer into the list would keep all of it
		instances[i] = &own
		same = false
	}
	if same {
		return
	}
	w.instances, w.told = instances, true
	// An error only says that gRPC would like to be told again, as it will be.
	_ = w.cc.UpdateState(w.state(absent))
}

func (w *watcher) state(absent error) resolver.State {
	state := resolver.State{ServiceConfig: w.serviceConfig}
	for _, i := range w.instances {
		endpoint := balancer.NewEndpoint(i, w.pinned)
		state.Endpoints = append(state.Endpoints, endpoint)
		state.Addresses = append(state.Addresses, endpoint.Addresses...) // for policies that know no endpoints
	}
	if absent != nil {
		state = balancer.WithReason(state, absent)
	}
	state = balancer.WithZone(state, w.builder.region, w.builder.zone)
	return balancer.WithTable(state, w.table)
}
