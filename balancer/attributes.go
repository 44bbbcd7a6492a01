package balancer

import (
	"context"
	"fmt"
	"sync/atomic"

	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/experimental/balancer/weight"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/ringhash"

	"github.com/meshlite-go/meshlite/internal/rendezvous"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// This file holds what a resolver attaches to its endpoints and to its state for policies.

type instanceKey struct{}

// instanceValue makes an instance comparable: pick_first and gRPC compare endpoints by their
// attributes.
type instanceValue struct{ *catalog.Instance }

// Equal reports whether both are the same instance of one snapshot.
func (v instanceValue) Equal(other any) bool {
	o, ok := other.(instanceValue)
	return ok && v.Instance == o.Instance
}

// NewEndpoint makes gRPC's endpoint of an instance: one address, and the instance as an
// attribute of the endpoint. Attributes of the address would make gRPC reconnect whenever a tag
// changes. The weight and the key of ring_hash, which is the same wherever the instance
// listens, are set for gRPC's own policies, too. serverName is verified under TLS; empty is the
// channel's authority.
func NewEndpoint(instance *catalog.Instance, serverName string) resolver.Endpoint {
	endpoint := resolver.Endpoint{
		Addresses:  []resolver.Address{{Addr: instance.Address, ServerName: serverName}},
		Attributes: attributes.New(instanceKey{}, instanceValue{instance}),
	}
	endpoint = ringhash.SetHashKey(endpoint, instance.Node+"/"+instance.ID)
	return weight.Set(endpoint, weight.EndpointInfo{Weight: instance.Weight})
}

// InstanceOf returns the instance of an endpoint made by [NewEndpoint], or nil.
func InstanceOf(endpoint resolver.Endpoint) *catalog.Instance {
	v, _ := endpoint.Attributes.Value(instanceKey{}).(instanceValue)
	return v.Instance
}

// weightOf is at least 1: resolvers without weights leave it out.
func weightOf(endpoint resolver.Endpoint) uint32 {
	return max(weight.FromEndpoint(endpoint).Weight, 1)
}

// listedEndpoint is an endpoint as the table has it. One of another resolver has its address as
// its ID, and no zone.
func listedEndpoint(endpoint resolver.Endpoint) listed {
	l := listed{address: addressOf(endpoint), weight: weightOf(endpoint)}
	l.id, l.hash = l.address, rendezvous.Hash(l.address)
	if i := InstanceOf(endpoint); i != nil {
		l.id, l.zone, l.hash = i.ID, zone{i.Region, i.Zone}, rendezvous.Hash(i.Node+"/"+i.ID)
	}
	return l
}

func addressOf(endpoint resolver.Endpoint) string {
	if len(endpoint.Addresses) == 0 {
		return ""
	}
	return endpoint.Addresses[0].Addr
}

// stateKey is the key of the one value of type V that a resolver attaches to its state.
type stateKey[V any] struct{}

func attach[V any](state resolver.State, v V) resolver.State {
	state.Attributes = state.Attributes.WithValue(stateKey[V]{}, v)
	return state
}

// attached is the value of type V, or the zero value.
func attached[V any](a *attributes.Attributes) V {
	v, _ := a.Value(stateKey[V]{}).(V)
	return v
}

// WithTable has the channel that gets state use t.
func WithTable(state resolver.State, t *Table) resolver.State { return attach(state, t) }

// WithZone sets where the channel that gets state runs. An empty zone is unknown, an empty
// region any.
func WithZone(state resolver.State, region, name string) resolver.State {
	return attach(state, zone{region, name})
}

// WithReason sets the error with which calls fail when state has no endpoints.
func WithReason(state resolver.State, reason error) resolver.State { return attach(state, reason) }

func reasonOf(a *attributes.Attributes, target resolver.Target) error {
	if reason := attached[error](a); reason != nil {
		return reason
	}
	return fmt.Errorf("%s://%s/%s has no address: is the name right?", target.URL.Scheme, target.URL.Host, target.Endpoint())
}

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

// WithWindow has w show the policy that gets state.
func WithWindow(state resolver.State, w *Window) resolver.State { return attach(state, w) }
