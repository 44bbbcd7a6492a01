// Package routes is the policy meshlite_routes: it sends calls where the discovery chain of
// their service says, by what is alive.
//
// It has a policy of its own, a leaf, for each target of the chain, with the target's endpoints
// and nothing else. A leaf has no part in routes, so any policy of gRPC can be one. A [Router]
// draws the route, arm and target of a call: interceptors ask it before the call, so that they
// can follow the route, and the policy asks it for calls without one.
//
// What a channel does with a chain:
//   - Calls are spread over the arms of a route by a low-discrepancy sequence: shares are kept
//     over any hundred calls, give or take two, not only over many.
//   - An arm without a usable endpoint gets no calls; the other arms have its share in
//     proportion until it is back.
//   - When fewer of the instances that a target is known to have are usable than the threshold
//     (half), a part of its calls fails over, in proportion. It comes back when the target has
//     been better for ten seconds without a break.
//   - A target without calls (weight 0, or a failover that is not needed) is known and not
//     connected. When a failover begins, calls wait for its connection and do not fail. A target
//     that reconnects is waited for as well, for a second: a server that closes connections by age
//     costs no failover.
//   - A retry whose target has no untried endpoint goes to another target of its route.
//   - A changed chain opens and closes no connection of a target that both have. An instance of two
//     targets has two connections.
//   - ring_hash and maglev are weighted rendezvous hashing, which both approximate: see
//     [github.com/meshlite-go/meshlite/balancer/hash]. Sizes of rings have no meaning then.
//   - ConnectTimeout of a target is not applied: gRPC has one for all connections of a channel.
//
// A resolver attaches a chain and its targets to its state with [WithTargets]. A state without
// is that of one target: the service.
//
//	{"loadBalancingConfig": [{"meshlite_routes": {"child": [{"meshlite_least_request": {}}]}}]}
package routes

import (
	"google.golang.org/grpc/resolver"

	"github.com/meshlite-go/meshlite/resolver/route"
)

// Name is the policy's name in service configs.
const Name = "meshlite_routes"

// TargetState is a target of a chain with the instances that it has now.
type TargetState struct {
	ID     string // in the chain; empty without a chain
	Target *route.Target
	// State is what a resolver would give a policy for this target alone: endpoints, table,
	// zone, reason.
	State resolver.State
	// Known is how many instances the directory lists, the unhealthy included.
	Known int
	// Policy is that of the target; nil is that of its arm, else the child of the service config.
	Policy *route.LoadBalancer
}

// attached is what a resolver attaches to its state.
type attached struct {
	chain   *route.Chain
	targets []TargetState
	router  *Router
}

type attachedKey struct{}

// WithTargets attaches a chain, its targets and the router of the channel to state, and sets
// the endpoints and addresses of state to those of all targets. With a nil chain calls go to
// targets[0], or without it to state itself. The result has no attribute of a target, and keeps
// those of state.
func WithTargets(state resolver.State, chain *route.Chain, targets []TargetState, router *Router) resolver.State {
	if len(targets) > 0 {
		state.Endpoints, state.Addresses = nil, nil
		listed := map[string]bool{}
		for _, t := range targets {
			for _, endpoint := range t.State.Endpoints {
				if len(endpoint.Addresses) == 0 || listed[endpoint.Addresses[0].Addr] {
					continue
				}
				listed[endpoint.Addresses[0].Addr] = true
				state.Endpoints = append(state.Endpoints, endpoint)
				state.Addresses = append(state.Addresses, endpoint.Addresses...)
			}
		}
	}
	state.Attributes = state.Attributes.WithValue(attachedKey{}, &attached{chain, targets, router})
	return state
}

func attachedTo(state resolver.State) *attached {
	a, _ := state.Attributes.Value(attachedKey{}).(*attached)
	return a
}
