package resolver

import (
	"context"
	"fmt"
	"reflect"
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

	subscriptions []*subscription // one for each datacenter, in the order of failover
	table         *balancer.Table
	returnTable   func()
	wake          chan struct{}
	cancel        context.CancelFunc
	done          chan struct{}

	instances  []*catalog.Instance // what gRPC was told last
	told       bool                // whether it was told any
	failing    bool                // whether the directory's outage has been logged
	emptySince time.Time           // when the directory first answered none, after some
}

// ResolveNow has nothing to do: the answer to a blocking query comes by itself,
// and a failed one is asked again after its back-off, however often gRPC hopes.
func (w *watcher) ResolveNow(resolver.ResolveNowOptions) {}

// Close ends the watch, unless other channels share it, and waits.
func (w *watcher) Close() {
	w.cancel()
	<-w.done
	for _, s := range w.subscriptions {
		s.close()
	}
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
		late := time.Since(started) >= w.builder.startTimeout
		if again := w.look(late); again > 0 {
			timer.Reset(again)
		}
	}
}

// look reads what is known now and tells gRPC what it has to know. It answers
// after which time it must look again without being woken, if it must.
func (w *watcher) look(late bool) time.Duration {
	list, hint, err := w.known(late)
	w.logOutage(err)
	switch {
	case len(list) > 0:
		w.emptySince = time.Time{}
		w.publish(list, nil)
	case err == errPending:
	case err != nil && !w.told:
		// ReportError closes no connection; an empty state would close them all.
		w.cc.ReportError(err)
	case err == nil && len(w.instances) == 0:
		w.publish(nil, w.absent(hint))
	case err == nil:
		return w.holdEmpty(hint)
	}
	return 0
}

// holdEmpty gives the last instances up when the directory has answered that
// there are none for the whole grace time.
func (w *watcher) holdEmpty(hint string) time.Duration {
	if w.emptySince.IsZero() {
		w.emptySince = time.Now()
		w.builder.log.Warn("no instance is left: holding the last ones for the grace time",
			"service", w.target.Service, "directory", w.directory, "instances", len(w.instances), "grace", w.builder.grace)
	}
	if left := w.builder.grace - time.Since(w.emptySince); left > 0 {
		return left
	}
	w.publish(nil, w.absent(hint))
	return 0
}

// errPending stands for an answer that may still come.
var errPending = fmt.Errorf("pending")

// known is the list of the first datacenter that has one. It is empty without an
// error only if all of them have answered so.
func (w *watcher) known(late bool) (list []catalog.Instance, hint string, err error) {
	for _, s := range w.subscriptions {
		snapshot, answered, failed := s.latest()
		switch {
		case len(snapshot.Instances) > 0:
			return snapshot.Instances, "", failed
		case answered && failed == nil:
			hint = snapshot.Hint
		case failed != nil:
			err = failed
		case late:
			err = fmt.Errorf("%s has not answered within %v: is it reachable?", w.directory, w.builder.startTimeout)
		default:
			return nil, "", errPending // the next datacenter is not asked before this one has had its time
		}
	}
	return nil, hint, err
}

func (w *watcher) absent(hint string) error {
	err := fmt.Errorf("%s has no healthy instance of %q", w.directory, w.target.Service)
	if len(w.target.Tags) > 0 {
		err = fmt.Errorf("%w with tags %q", err, w.target.Tags)
	}
	if hint != "" {
		err = fmt.Errorf("%w, %s", err, hint)
	}
	return err
}

// logOutage says once that the directory fails and once that it answers again.
func (w *watcher) logOutage(err error) {
	if err == errPending {
		return
	}
	if failing := err != nil; failing != w.failing {
		w.failing = failing
		log := w.builder.log.With("service", w.target.Service, "directory", w.directory)
		switch {
		case !failing:
			log.Info("discovery works again")
		case len(w.instances) > 0:
			log.Warn("discovery fails: calls go on with what was known", "instances", len(w.instances), "error", err)
		default:
			log.Warn("discovery fails, and so do calls until it works", "error", err)
		}
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
		instances[i] = &list[i]
		if old := before[list[i].Address]; old != nil && reflect.DeepEqual(*old, list[i]) {
			instances[i] = old
			continue
		}
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
		endpoint := balancer.NewEndpoint(i, w.target.Service)
		state.Endpoints = append(state.Endpoints, endpoint)
		state.Addresses = append(state.Addresses, endpoint.Addresses...) // for policies that know no endpoints
	}
	if absent != nil {
		state = balancer.WithReason(state, absent)
	}
	return balancer.WithTable(state, w.table)
}
