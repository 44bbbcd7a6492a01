// Package balancer chooses an endpoint for every attempt, and is a balancer of gRPC.
//
// A policy is a name, a config and a [Picker]. A picker is immutable: it is rebuilt when the
// endpoints in rotation or their weights change.
//
//	func init() { balancer.Register(balancer.Policy[Config]{Name: Name, Parse: parse, New: newPicker}) }
//
// The rest is the same for all policies (see [Settings]): failing endpoints are ejected and
// probed, new ones start slowly, calls stay in their zone, a retry goes to an endpoint that its
// call has not tried. The state of endpoints is in a [Table], which outlives pickers,
// reconnects and idle channels.
//
// Two transports stand on that choice, and it depends on neither. gRPC's channels get their
// pickers from the service config; each endpoint has a pick_first for its connection, as in
// gRPC's own policies (gRFC A61). Any other transport chooses from a [Set].
//
// Experimental API of grpc-go is used in this package only; policies see a [Candidate].
package balancer

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Picker is a policy over the candidates it was made of. It must be safe for concurrent use
// and should not allocate.
type Picker interface {
	// Pick returns one of the candidates. now is for [Endpoint.Latency], and may be 0 for a
	// policy that does not set [Policy.Latency].
	Pick(now time.Duration) *Candidate
}

// Policy is what [Register] needs of a policy.
type Policy[Config any] struct {
	Name string
	// Parse reads and checks the policy's fields of a service config, without the [Settings]. nil
	// takes what encoding/json reads.
	Parse func(json.RawMessage) (Config, error)
	// New makes the policy's picker.
	New func(Config, View) Picker
	// HashKey is nil, or returns the metadata key by whose value calls go to the same endpoint
	// while it can be used. New's picker is then for calls without that key.
	HashKey func(Config) string
	// Latency has every attempt timed, for policies that use [Endpoint.Latency]. Otherwise it
	// is one in sixteen. Where attempts on an endpoint follow each other within a quarter of a
	// millisecond it is up to one in eight, otherwise one in 128.
	Latency bool
}

// configured is a policy with its config and settings.
type configured struct {
	newPicker func(View) Picker
	hashKey   string
	latency   bool
	settings  Settings
}

// policies parse the configs of the imported policies of this module, by name. Only Register,
// which runs in init functions, changes it.
var policies = map[string]func(json.RawMessage) (configured, error){}

// Register registers p, with gRPC too. Call it from an init function only.
func Register[Config any](p Policy[Config]) {
	policies[p.Name] = p.parse
	registerWithGRPC(p.Name, p.parse)
}

func (p Policy[Config]) parse(text json.RawMessage) (configured, error) {
	config, err := p.parseFields(text)
	if err != nil {
		return configured{}, fmt.Errorf("%s: %w", p.Name, err)
	}
	settings, err := parseSettings(text)
	if err != nil {
		return configured{}, fmt.Errorf("%s: %w", p.Name, err)
	}
	c := configured{newPicker: func(v View) Picker { return p.New(config, v) }, latency: p.Latency, settings: settings}
	if p.HashKey != nil {
		c.hashKey = p.HashKey(config)
	}
	return c, nil
}

func (p Policy[Config]) parseFields(text json.RawMessage) (config Config, err error) {
	if p.Parse != nil {
		return p.Parse(text)
	}
	err = json.Unmarshal(text, &config)
	return config, err
}

// ownPrefix begins the names of policies of this module.
const ownPrefix = "meshlite_"

// ownPolicyName is the name of a policy of this module, written with its prefix or without.
func ownPolicyName(policy string) (string, error) {
	name := ownPrefix + strings.TrimPrefix(policy, ownPrefix)
	if policies[name] != nil {
		return name, nil
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(policies)) {
		names = append(names, strings.TrimPrefix(name, ownPrefix))
	}
	return "", fmt.Errorf("policy %q does not exist: write %s", policy, strings.Join(names, ", "))
}

// rebuildRest bounds the part of the time that rebuilds take: that many times the duration of
// one passes before the next. With very many endpoints that fail one after the other a rebuild
// takes long.
const rebuildRest = 10

// rebuilds runs the rebuilds of a rotation: soon, after an event, and later, when time has
// passed.
type rebuilds struct {
	soon, later *time.Timer
	lastAt      atomic.Int64 // time of the last rebuild, since createdAt
	lastTook    atomic.Int64 // its duration
	createdAt   time.Time
}

func (r *rebuilds) init(rebuild func()) {
	r.createdAt = time.Now()
	r.soon, r.later = stoppedTimer(rebuild), stoppedTimer(rebuild)
}

func stoppedTimer(do func()) *time.Timer {
	timer := time.AfterFunc(time.Hour, do)
	timer.Stop()
	return timer
}

// wake rebuilds soon. It may be called with any lock held.
func (r *rebuilds) wake() {
	r.soon.Reset(max(0, time.Duration(r.lastAt.Load()+rebuildRest*r.lastTook.Load())-time.Since(r.createdAt)))
}

// done records a rebuild since start, whose view is valid for a time; 0 is until the next
// event.
func (r *rebuilds) done(start time.Time, validFor time.Duration) {
	if validFor > 0 {
		r.later.Reset(validFor)
	}
	r.lastTook.Store(int64(time.Since(start)))
	r.lastAt.Store(int64(time.Since(r.createdAt)))
}

func (r *rebuilds) stop() {
	r.soon.Stop()
	r.later.Stop()
}
