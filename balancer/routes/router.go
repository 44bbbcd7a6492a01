package routes

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/resolver/route"
)

// Router draws the routes of the calls of one channel. It connects the channel's resolver,
// which gives it chains, its policy, which gives it what is alive, and its interceptors. It is
// safe for concurrent use.
type Router struct {
	reporter
	current atomic.Pointer[draws] // nil is plain discovery
	started chan struct{}         // closed by the first Update
	window  balancer.Window       // of plain discovery

	mu      sync.Mutex
	updated bool         // started is closed
	chain   *route.Chain // of the last Update without an error
	err     error        // of the last Update
	policy  *policy      // of the channel now; nil while it is idle
}

// NewRouter makes the router of a channel.
func NewRouter(opts ...Option) (*Router, error) {
	s := defaults()
	for _, o := range opts {
		o(&s)
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	return newRouter(s), nil
}

func newRouter(s settings) *Router {
	return &Router{reporter: newReporter(s), started: make(chan struct{})}
}

// Choose draws the route, arm and target of a call of method ("/package.Service/Method"), by
// the outgoing metadata of ctx. Interceptors call it once for a call and put the result in its
// record, which retries inherit. Without a chain all results are nil or zero, at the cost of
// one atomic load. The error is a status: UNAVAILABLE with the reason when the first chain was
// refused. It does not allocate unless the chain needs metadata that the call has.
func (r *Router) Choose(ctx context.Context, method string) (route.Choice, *attempt.Route, error) {
	w, err := r.choose(ctx, method)
	if w == nil {
		return route.Choice{}, nil, err
	}
	return w.choice, &w.Route, nil
}

var errNoRoute = status.Error(codes.Unavailable, "the discovery chain has no route for this method")

func (r *Router) choose(ctx context.Context, method string) (*way, error) {
	d := r.current.Load()
	switch {
	case d == nil:
		return nil, nil
	case d.err != nil:
		return nil, d.err
	}
	if i := d.plan.match(ctx, method); i >= 0 {
		if w := d.choose(ctx, i); w != nil {
			return w, nil
		}
	}
	return nil, errNoRoute
}

// Count counts the end of a call that Choose has sent to at. nil counts nothing. Interceptors
// call it for [Router.Stats].
func (r *Router) Count(at *attempt.Route, err error) {
	p := r.current.Load().planned()
	if at == nil || p == nil {
		return
	}
	w := p.ways[at]
	switch {
	case w == nil: // of an earlier chain
	case err == nil:
		w.counts.succeeded.Add(1)
	default:
		w.counts.failed.Add(1)
	}
}

// Wait blocks until the resolver has set the first chain, or that there is none. It connects
// cc, the channel, whose resolver runs only then. The error is a status made of that of ctx.
func (r *Router) Wait(ctx context.Context, cc interface{ Connect() }) error {
	select {
	case <-r.started:
		return nil
	default:
	}
	cc.Connect()
	select {
	case <-r.started:
		return nil
	case <-ctx.Done():
		s := status.FromContextError(ctx.Err())
		return status.Errorf(s.Code(), "waiting for the discovery chain: %v", ctx.Err())
	}
}

// Update sets what the directory says. Resolvers call it, before the state that goes with it.
//
// The first one takes effect at once. Later ones do with the policy that gets them from
// [WithTargets], or that is closed because the service has no chain any more: a call goes where
// it was sent. A nil chain is plain discovery. An error leaves the last chain valid, which is
// chain if it is not nil; calls fail with it if there was none, and no plain discovery either.
func (r *Router) Update(chain *route.Chain, err error) {
	if chain != nil && err == nil {
		if err = chain.Check(); err != nil {
			chain = nil
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	first, current := !r.updated, r.current.Load()
	failing := first || current != nil && current.err != nil
	if r.err = err; err == nil || chain != nil {
		r.chain = chain
	}
	switch idle := r.policy == nil && current != nil; {
	case err != nil && failing && chain == nil:
		r.current.Store(&draws{err: unavailable(err)})
	case failing, err == nil && idle:
		r.set(chain)
	}
	if first {
		r.updated = true
		close(r.started)
	}
}

func unavailable(err error) error {
	if s, ok := status.FromError(err); ok {
		return s.Err()
	}
	var refused *route.RefusedError
	if errors.As(err, &refused) {
		return status.Error(codes.Unavailable, refused.Error())
	}
	return status.Error(codes.Unavailable, "discovery chain: "+err.Error())
}

// Chain is the chain that decides calls now; nil is plain discovery.
func (r *Router) Chain() *route.Chain {
	if p := r.current.Load().planned(); p != nil {
		return p.chain
	}
	return nil
}

// set has chain decide calls, as nothing is known of its targets. The caller holds r.mu.
func (r *Router) set(chain *route.Chain) {
	if chain == nil {
		r.current.Store(nil)
		return
	}
	r.current.Store(r.plan(chain).draw(func(string) health { return assumed }))
}

// plan is that of chain: the one of the calls now if it is the same. The caller holds r.mu.
func (r *Router) plan(chain *route.Chain) *plan {
	return r.current.Load().planned().next(chain)
}

// planFor is the plan of chain; nil is plain discovery.
func (r *Router) planFor(chain *route.Chain) *plan {
	if chain == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.plan(chain)
}

// attach has plan decide calls, by the health of the targets of p. After plain discovery it waits
// until p is connected: the policy before it picks until then.
func (r *Router) attach(p *policy, plan *plan, of func(string) health, changed, connecting bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.current.Load()
	if connecting && d == nil && plan != nil {
		return
	}
	changed = changed || r.policy != p
	r.policy = p
	switch {
	case plan == nil:
		r.current.Store(nil)
	case changed:
		r.current.Store(plan.draw(of))
	}
}

// detach ends what p has attached: its channel is idle or closed, or has another policy. The
// newest chain decides, and nothing is known of its targets.
func (r *Router) detach(p *policy) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.policy != p {
		return
	}
	r.policy = nil
	r.set(r.chain)
}
