// Package route defines where the calls to a service go: the discovery chain that Consul
// compiles of the config entries service-router, service-splitter and service-resolver, as
// values. It matches calls and checks what a chain may have; watching chains is
// [github.com/meshlite-go/meshlite/resolver/consul]'s, and applying one to the targets as they
// are, alive or not, is [github.com/meshlite-go/meshlite/balancer/routes]'s.
package route

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Chain is where the calls to one service go. It is shared by its readers and must not be
// changed. A nil chain is plain discovery: all calls go to the instances of the service.
type Chain struct {
	Service    string `json:"service"`
	Datacenter string `json:"datacenter"` // for which it was compiled
	// Protocol is what the service speaks by its service-defaults: "grpc", "http", "tcp".
	Protocol string `json:"protocol,omitempty"`
	// Index is the directory's index of this answer.
	Index uint64 `json:"index"`
	// Routes are tried in this order. The last one matches every call.
	Routes []*Route `json:"routes"`
	// Targets are by ID. An ID is opaque, and valid within one chain only.
	Targets map[string]*Target `json:"targets"`
	// Sticky is the metadata key whose value decides the arm of a call, so that one user stays
	// at one arm while its weight does not shrink; empty is by chance.
	Sticky string `json:"sticky,omitempty"`

	once          sync.Once
	err           error // of Check
	matchers      []matcher
	gates         []gate // of matchers
	readsMetadata bool
}

// Route is one route of a service-router, or the only one of a chain without a router.
type Route struct {
	// Name is unique in its chain and short, for metrics and traces: "route 1", "default".
	Name  string `json:"name"`
	Match Match  `json:"match"`

	// Timeout bounds the whole call, retries included; 0 is that of the policy. A timeout of
	// the policy or caller that is shorter holds.
	Timeout time.Duration `json:"timeout,omitempty"`
	// Retry is merged into the method's policy; nil leaves it as it is.
	Retry *Retry `json:"retry,omitempty"`
	// PrefixRewrite replaces the matched part of an HTTP path: see [Route.Rewrite]. Chains of gRPC
	// do not have it.
	PrefixRewrite string `json:"prefix_rewrite,omitempty"`
	// Arms have weights that sum to 100, but for rounding. At least one; those with weight 0
	// get no calls.
	Arms []*Arm `json:"arms"`
}

// Arm is one way through the splitters of a route, and what its resolver says.
type Arm struct {
	// Name is unique in its route and short: the subset or service, such as "v2".
	Name   string  `json:"name"`
	Weight float64 `json:"weight"` // percent of the calls of the route, nested splits multiplied

	Target string `json:"target"` // ID
	// Failover are the IDs of the targets that take over, in this order.
	Failover []string `json:"failover,omitempty"`

	// Request and Response change metadata, in this order: on the way to the target that of the
	// route first, then of each splitter, and on the way back the other way round.
	Request  []Headers `json:"request,omitempty"`
	Response []Headers `json:"response,omitempty"`

	// Timeout is the resolver's RequestTimeout, for calls whose route has none; 0 is none.
	Timeout time.Duration `json:"timeout,omitempty"`
	// LoadBalancer is the policy among the endpoints of a target; nil is the channel's own.
	LoadBalancer *LoadBalancer `json:"load_balancer,omitempty"`
}

// Target is a set of instances.
type Target struct {
	ID          string `json:"id"`
	Service     string `json:"service"`
	Subset      string `json:"subset,omitempty"`
	Datacenter  string `json:"datacenter"`
	Filter      string `json:"filter,omitempty"` // of Consul, evaluated by Consul
	OnlyPassing bool   `json:"only_passing,omitempty"`
	// ConnectTimeout is the service-resolver's; 0 is none. Channels do not apply it: gRPC has one
	// for all of their connections.
	ConnectTimeout time.Duration `json:"connect_timeout,omitempty"`
}

// String names t for people: "catalog in dc1", "catalog v2 in dc2".
func (t *Target) String() string {
	name := t.Service
	if t.Subset != "" {
		name += " " + t.Subset
	}
	return name + " in " + t.Datacenter
}

// Destination identifies what answers the calls to t, in all chains and processes: an answer
// of one destination is never served for a call to another.
func (t *Target) Destination() string {
	return fmt.Sprintf("%s/%s/%s", t.Datacenter, t.Service, t.Subset)
}

// Headers changes metadata, by [Headers.Apply]. Keys are lower case, none is a pseudo header,
// and none begins with "grpc-".
type Headers struct {
	Add    map[string]string `json:"add,omitempty"`
	Set    map[string]string `json:"set,omitempty"`
	Remove []string          `json:"remove,omitempty"`
}

// LoadBalancer is the policy of a service-resolver.
type LoadBalancer struct {
	Policy      string `json:"policy"`                 // Consul's name: "least_request", "ring_hash"
	ChoiceCount uint32 `json:"choice_count,omitempty"` // of least_request; 0 is its default
	// MinimumRingSize and MaximumRingSize are of ring_hash; 0 is its default.
	MinimumRingSize uint64 `json:"minimum_ring_size,omitempty"`
	MaximumRingSize uint64 `json:"maximum_ring_size,omitempty"`
	// HashKey is the metadata key whose value is hashed, of ring_hash and maglev; with HashFrom it
	// is the name of a cookie or of a parameter.
	HashKey string `json:"hash_key,omitempty"`
	// HashFrom is of HTTP alone: FromCookie, FromQuery or FromAddress. Empty is a header.
	HashFrom string `json:"hash_from,omitempty"`
}

// What a [LoadBalancer] hashes beside headers.
const (
	FromCookie  = "cookie"
	FromQuery   = "query_parameter"
	FromAddress = "source_ip"
)

// Choice is where one call goes. The zero value is plain discovery.
type Choice struct {
	Route *Route
	Arm   *Arm
	// Target is where the first attempt goes: that of the arm, or one of its failover.
	Target *Target
}

// Watcher follows chains. A directory of instances may implement it.
type Watcher interface {
	// WatchChain reports the chain of service as it is compiled for datacenter, empty for the
	// agent's own, and again whenever it may have changed, until ctx ends. A nil chain is plain
	// discovery: no config entry says more. So is an [*UnreadableError] before the first chain.
	// An error that is a [*RefusedError] is of a chain with a part that is not supported; any
	// other is of a directory that cannot answer. The last chain then stays valid. It reports
	// and returns as the watch of instances does.
	WatchChain(ctx context.Context, service, datacenter string, report func(*Chain, error))
}

// UnreadableError is the error of a chain that the directory does not show from the first answer on:
// it has none, or may not show this one. Once there has been a chain, that is any other error.
type UnreadableError struct {
	Service string
	Reason  string
}

// Error names the reason.
func (e *UnreadableError) Error() string {
	return fmt.Sprintf("the discovery chain of %q cannot be read: %s", e.Service, e.Reason)
}

// RefusedError is the error of a chain with parts that are not supported.
type RefusedError struct {
	Service  string
	Protocol string   // of the service, as in [Chain]
	Index    uint64   // of the answer
	Parts    []string // each names the config entry or route, the field, its value and what to write instead
	// Common is how many of Parts, from the first on, HTTP cannot mean either; 0 is all, or none with
	// an HTTP.
	Common int
	// HTTP is the chain where only gRPC cannot mean those parts, see [Chain.HTTPOnly].
	HTTP *Chain
}

// Error names the service and the parts.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("the discovery chain of %q has parts that are not supported: %s", e.Service, strings.Join(e.Parts, "; "))
}
