// Package catalog defines discovery: the instances of a service, snapshots of them, and
// the interfaces of a directory, [Watcher] and [Registrar].
//
// [github.com/meshlite-go/meshlite/resolver/consul] implements them for Consul. A test can
// implement them with a slice:
//
//	func (d fixed) Watch(ctx context.Context, q catalog.Query, report func(catalog.Snapshot, error)) {
//		report(catalog.Snapshot{Instances: d.instances}, nil)
//		<-ctx.Done()
//	}
package catalog

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"time"
)

// Instance is one running process of a service, as the directory reports it.
type Instance struct {
	ID         string // unique on its agent
	Service    string
	Node       string
	Datacenter string

	// Address is host:port, ready to dial; an IPv6 host is in brackets.
	Address string

	Tags     []string          // sorted
	Metadata map[string]string // the instance's own, not the node's

	// Weight is this instance's share of the traffic relative to the others: Consul's
	// passing or warning weight, by its status. At least 1.
	Weight uint32
	Status Status

	// Region and Zone are where it runs; empty is unknown.
	Region, Zone string
}

// Status is the worst of an instance's health checks.
type Status uint8

// The states of Consul's health checks.
const (
	Passing Status = iota
	Warning
	Critical
	Maintenance // an operator has taken it, or its node, out of service: `consul maint`
)

// String returns Consul's name of s.
func (s Status) String() string {
	switch s {
	case Passing:
		return "passing"
	case Warning:
		return "warning"
	case Maintenance:
		return "maintenance"
	default:
		return "critical"
	}
}

// MarshalText returns Consul's name of s.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText parses Consul's name.
func (s *Status) UnmarshalText(text []byte) error {
	for status := Passing; status <= Maintenance; status++ {
		if status.String() == string(text) {
			*s = status
			return nil
		}
	}
	return fmt.Errorf("status %.80q: write passing, warning, critical or maintenance", text)
}

// Query says which instances to watch. Queries that are equal by [Query.Key]
// can share one watch.
type Query struct {
	Service    string   `json:"service"`
	Tags       []string `json:"tags,omitempty"`       // an instance must have all of them
	Datacenter string   `json:"datacenter,omitempty"` // empty is the agent's own
	// Near is the node to sort by round trip for policies that keep the order, such
	// as pick_first; "_agent" is the agent's.
	Near string `json:"near,omitempty"`
	// Filter is a filter expression of Consul that an instance must match:
	// `Service.Meta.version == "2"`.
	Filter string `json:"filter,omitempty"`
	// Warning admits instances in warning state, with Consul's warning weight.
	Warning bool `json:"warning,omitempty"`
	// Scheme is which endpoint of an instance to call, such as http, if it publishes one as a
	// tagged address, as servers of kratos do; otherwise its own address. Empty is grpc, or
	// grpcs.
	Scheme      string      `json:"scheme,omitempty"`
	Consistency Consistency `json:"consistency"`
}

// Consistency is how recent an answer must be, at which cost.
type Consistency uint8

// Consul's modes of reading, see
// https://developer.hashicorp.com/consul/api-docs/features/consistency.
const (
	Stale      Consistency = iota // any server may answer: the default, works without a leader
	Consistent                    // the leader answers, after its followers have confirmed that it leads
	Cached                        // the agent may answer from its cache, which it updates by a watch of its own
)

// String returns Consul's name of c.
func (c Consistency) String() string {
	switch c {
	case Stale:
		return "stale"
	case Consistent:
		return "consistent"
	default:
		return "cached"
	}
}

// MarshalText returns Consul's name of c.
func (c Consistency) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText parses Consul's name.
func (c *Consistency) UnmarshalText(text []byte) (err error) {
	*c, err = ParseConsistency(string(text))
	return err
}

// ParseConsistency parses Consul's name.
func ParseConsistency(word string) (Consistency, error) {
	for c := Stale; c <= Cached; c++ {
		if c.String() == word {
			return c, nil
		}
	}
	return 0, fmt.Errorf("consistency %q: write stale, consistent or cached", word)
}

// Snapshot is the whole answer to a query at one time. It is shared by its
// readers and must not be changed.
type Snapshot struct {
	Instances []Instance // one per address, sorted by it or, with Near, by round trip
	// Unhealthy are the instances that their health checks exclude, in the same order and
	// with other addresses. They are called only when too few instances are healthy.
	Unhealthy []Instance
	Index     uint64    // the directory's index of this answer
	Time      time.Time // when the directory answered
	Hint      string    // why Instances may be empty, for messages
}

// Watcher follows a query.
type Watcher interface {
	// Watch reports the answer to q, and again whenever it may have changed,
	// until ctx ends. An error is reported when the directory cannot answer; the last
	// snapshot then stays valid. Watch returns soon after ctx has ended, and after its
	// last report; it makes one report at a time.
	Watch(ctx context.Context, q Query, report func(Snapshot, error))
	// Name identifies the directory in messages: "consul at 127.0.0.1:8500".
	Name() string
}

// Registration describes one instance to the directory, and how its health is checked.
// Zero values are the defaults. Node, Datacenter and Status are the directory's to set.
type Registration struct {
	Instance // a Weight of 0 is 1

	// WarningWeight is the weight while a check warns: 0 takes the instance out. Nil is 1.
	WarningWeight *uint32

	// Scheme also publishes Address as a URL, as the tagged address of that name: grpc, or
	// grpcs with TLS. Clients of kratos look for it there. Empty publishes none.
	Scheme string

	// ConnectNative marks the instance as one that itself speaks mutual TLS with a certificate of
	// Consul's CA, so that Consul's own proxies find and call it.
	ConnectNative bool

	// TTL replaces the directory's check of the gRPC health: the lease runs SelfCheck and
	// reports its result three times in each TTL, and an instance without a report for a
	// whole one is critical. The directory then never calls the instance, so that the
	// fields Check... have no use. At least 3 s. 0 is the gRPC check.
	TTL time.Duration

	// CheckAddress is host:port where the directory checks the gRPC health of
	// the service. Empty is Address.
	CheckAddress string
	// CheckTLS makes that check speak TLS, and verify the certificate for
	// CheckServerName by the authorities that the directory trusts. An empty
	// CheckServerName is the host of the address that is checked.
	CheckTLS        bool
	CheckServerName string
	// CheckSkipVerify makes that check accept any certificate.
	CheckSkipVerify bool
	// CheckInterval and CheckTimeout are the time between two checks and the
	// longest one may take. 0 is 5 s and 2 s.
	CheckInterval, CheckTimeout time.Duration
	// DeregisterAfter removes an instance that has been critical this long: at least
	// one minute, to which Consul silently raises less. Negative is never. 0 is one minute.
	DeregisterAfter time.Duration

	// SelfCheck calls the instance at its own address. It runs before each registration,
	// which sets the state to passing before Consul has checked anything, and for
	// each renewal of a TTL. Nil is no check.
	SelfCheck func(context.Context) error
}

// NoSelfCheck is the SelfCheck of an instance that is only checked by the directory.
func NoSelfCheck(context.Context) error { return nil }

// Registrar puts services into the directory.
type Registrar interface {
	// Register registers r as passing, or returns why it could not. From then on the lease
	// keeps it registered, even if the directory loses it.
	Register(ctx context.Context, r Registration) (Lease, error)
	// NodeAddress returns the host of the directory's own node.
	NodeAddress(ctx context.Context) (string, error)
	// Name identifies the directory in messages: "consul at 127.0.0.1:8500".
	Name() string
}

// Lease is a registration that is being kept.
type Lease interface {
	// Deregister stops keeping the registration and removes it. Only the first
	// call has an effect.
	Deregister(ctx context.Context) error
}

// Key is equal for queries that have the same answer. It names what is not the default:
// "service=catalog&tag=fast". As in Consul, the order of tags does not matter.
func (q Query) Key() string {
	values := url.Values{}
	add := func(key, value string) {
		if value != "" {
			values.Add(key, value)
		}
	}
	add("service", q.Service)
	for _, tag := range slices.Compact(slices.Sorted(slices.Values(q.Tags))) {
		values.Add("tag", tag)
	}
	add("dc", q.Datacenter)
	add("near", q.Near)
	add("filter", q.Filter)
	if q.Warning {
		add("warning", "true")
	}
	add("scheme", q.Scheme)
	if q.Consistency != Stale {
		add("consistency", q.Consistency.String())
	}
	return values.Encode()
}

// Equal reports whether all fields of i and other are equal.
func (i Instance) Equal(other Instance) bool {
	return i.ID == other.ID && i.Service == other.Service &&
		i.Node == other.Node && i.Datacenter == other.Datacenter && i.Address == other.Address &&
		slices.Equal(i.Tags, other.Tags) && maps.Equal(i.Metadata, other.Metadata) &&
		i.Weight == other.Weight && i.Status == other.Status &&
		i.Region == other.Region && i.Zone == other.Zone
}
