package balancer

import (
	"fmt"

	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/resolver"
)

type tableKey struct{}

// WithTable hands t to the policies of the channel that gets state.
func WithTable(state resolver.State, t *Table) resolver.State {
	state.Attributes = state.Attributes.WithValue(tableKey{}, t)
	return state
}

func tableOf(a *attributes.Attributes) *Table {
	t, _ := a.Value(tableKey{}).(*Table)
	return t
}

type zoneKey struct{}

// WithZone tells the policies of the channel that gets state where it runs. An
// empty zone is not known, and an empty region any.
func WithZone(state resolver.State, region, name string) resolver.State {
	state.Attributes = state.Attributes.WithValue(zoneKey{}, zone{region, name})
	return state
}

func zoneOf(a *attributes.Attributes) zone {
	z, _ := a.Value(zoneKey{}).(zone)
	return z
}

type reasonKey struct{}

// WithReason says why state has no endpoints, for the error that calls fail with.
func WithReason(state resolver.State, reason error) resolver.State {
	state.Attributes = state.Attributes.WithValue(reasonKey{}, reason)
	return state
}

func reasonOf(a *attributes.Attributes, target resolver.Target) error {
	if reason, ok := a.Value(reasonKey{}).(error); ok {
		return reason
	}
	return fmt.Errorf("%s://%s/%s has no address: is the name right?", target.URL.Scheme, target.URL.Host, target.Endpoint())
}
