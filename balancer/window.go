package balancer

import (
	"cmp"
	"context"
	"slices"
	"sync/atomic"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"

	"github.com/meshlite-go/meshlite/internal/rendezvous"
)

// Window shows the outlook of one channel. It is safe for concurrent use; the zero value shows
// none.
type Window struct {
	current atomic.Pointer[endpointBalancer]
}

// Outlook is that of the policy that the channel has now, for a call with the outgoing metadata of
// ctx. It is false while the channel is idle, and for policies of other modules.
func (w *Window) Outlook(ctx context.Context) (Outlook, bool) {
	if b := w.current.Load(); b != nil {
		return b.Outlook(ctx), true
	}
	return Outlook{}, false
}

type windowKey struct{}

// WithWindow has w show the policy that gets state.
func WithWindow(state resolver.State, w *Window) resolver.State {
	state.Attributes = state.Attributes.WithValue(windowKey{}, w)
	return state
}

// show has the window of state show b, and that of the state before no more. The caller holds b.mu.
func (b *endpointBalancer) show(state resolver.State) {
	w, _ := state.Attributes.Value(windowKey{}).(*Window)
	if w == b.window {
		return
	}
	b.hide()
	if b.window = w; w != nil {
		w.current.Store(b)
	}
}

func (b *endpointBalancer) hide() {
	if b.window != nil {
		b.window.current.CompareAndSwap(b, nil)
	}
}

// Outlook picks nothing: it changes no state that calls see. Policies that are above several of
// this kind assert for it.
func (b *endpointBalancer) Outlook(ctx context.Context) Outlook {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := Outlook{Policy: b.name, HashKey: b.policy.hashKey}
	odds, due := map[*Endpoint]float64{}, map[*Endpoint]bool{}
	now := b.table.now()
	if b.current != nil {
		values := metadata.ValueFromOutgoingContext(ctx, b.policy.hashKey)
		o.Hashed = b.policy.hashKey != "" && len(values) > 0
		if o.Hashed {
			odds[b.current.preferred(rendezvous.Hash(values[0]), now)] = 1
		} else {
			o.Estimated = b.current.odds(now, odds)
			due = b.current.dueNow(now)
		}
	}
	t := b.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if u := t.channels[b]; u != nil {
		o.Panic = u.panicking
	}
	var picks uint64
	for _, m := range b.members {
		o.Endpoints = append(o.Endpoints, EndpointOutlook{m.Endpoint.stats(m.summary, now), odds[m.Endpoint], due[m.Endpoint]})
		picks += m.Picks()
	}
	for i := range o.Endpoints {
		o.Endpoints[i].Share = float64(o.Endpoints[i].Picks) / float64(max(picks, 1))
	}
	slices.SortFunc(o.Endpoints, func(a, b EndpointOutlook) int { return cmp.Compare(a.Address, b.Address) })
	return o
}
