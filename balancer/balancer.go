// Package balancer is what every policy below it shares: the table of endpoints,
// and the way from gRPC's connections to a picker over the ready ones.
//
// A policy is a name, a config and a chooser that is made anew, and never
// changed, each time the endpoints in rotation or their weights change:
//
//	func init() { balancer.Register(balancer.Policy[Config]{Name: Name, Parse: parse, New: newChooser}) }
//
// What happens around the choice is the same for all of them, and is done here
// (see [Settings]): endpoints that fail are ejected and probed, new ones start
// slowly, calls stay in their zone, a retry goes where its call has not been yet.
// What is learned lies in a [Table] that outlives pickers, reconnects and idleness.
//
// One pick_first per endpoint holds the connection, as gRPC's own policies do
// (gRFC A61). What is experimental in grpc-go's balancer API is used here; the
// policies see no more of it than [Ready].
package balancer

import (
	"encoding/json"
	"fmt"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/serviceconfig"
)

// Chooser is a policy over the endpoints that it was made of. It is used by all
// calls at once and should not allocate.
type Chooser interface {
	// Choose answers one of the endpoints.
	Choose() *Ready
}

// Policy is what gRPC is told of one.
type Policy[Config any] struct {
	Name string
	// Parse checks the policy's part of a service config, without the [Settings].
	Parse func(json.RawMessage) (Config, error)
	// New makes the policy over the endpoints in rotation.
	New func(Config, View) Chooser
	// Latency is whether the policy needs the latency of every attempt. It is taken of
	// one in sixteen otherwise.
	Latency bool
}

// Register makes p known to gRPC. Call it from an init function only.
func Register[Config any](p Policy[Config]) {
	balancer.Register(builder[Config]{p})
	registered = append(registered, p.Name)
}

type builder[Config any] struct{ policy Policy[Config] }

// parsed carries a config through gRPC.
type parsed[Config any] struct {
	serviceconfig.LoadBalancingConfig
	config   Config
	settings Settings
}

func (b builder[Config]) Name() string { return b.policy.Name }

func (b builder[Config]) ParseConfig(text json.RawMessage) (serviceconfig.LoadBalancingConfig, error) {
	config, err := b.policy.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b.policy.Name, err)
	}
	settings, err := parseSettings(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b.policy.Name, err)
	}
	return parsed[Config]{config: config, settings: settings}, nil
}
