// Package explained explains calls to those who ask: what happened to a call at each hop, on the
// client and on the server, and at the servers behind it.
//
//	explains, err := explained.New(explained.WithCallers(callers))
//	chain, err := interceptors.Chain(interceptors.Server, policies, explains, ...)
//
// A program that calls asks by [Ask]. Its channel then sends the metadata key
// x-meshlite-explain with each attempt, and a server that trusts its caller (package caller)
// answers in the trailer x-meshlite-explain-bin: its own record (package hop), with those of the
// calls that its handler has made. The trailer has at most 8 KiB on the wire, and goes through 8
// servers, one behind the other; what does not fit is left out and counted.
//
// A server ignores, and keeps from its handler, what callers ask that it does not trust. By
// default that is all. A call that nobody asks about costs a lookup on either side, and nothing
// is allocated for it.
//
// Answers that caches keep are stored without explanations. What runs in the background, such as
// the refresh of a cache, is no part of a record.
package explained

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/hop"
	"github.com/meshlite-go/meshlite/internal/wire"
)

// Explained is the concern. It is safe for concurrent use.
type Explained struct {
	callers  *caller.Callers
	instance func() Instance
	target   string
	policy   func(*attempt.Route) string
}

// Instance is who a server is.
type Instance struct {
	Service string
	ID      string // in the directory
	Zone    string
}

// Option changes what [New] makes.
type Option func(*Explained) error

// WithCallers sets which callers a server answers: those that callers trusts. Default: nobody.
func WithCallers(callers *caller.Callers) Option {
	return func(e *Explained) error {
		e.callers = callers
		return nil
	}
}

// WithInstance sets what says who the server is. It is called for each call that is explained.
func WithInstance(instance func() Instance) Option {
	return func(e *Explained) error {
		if instance == nil {
			return errors.New("explained: WithInstance(nil): leave the option out")
		}
		e.instance = instance
		return nil
	}
}

// WithTarget sets what a client's records name as the target of its channel, which must not have
// secrets.
func WithTarget(target string) Option {
	return func(e *Explained) error {
		e.target = target
		return nil
	}
}

// WithPolicy sets what names the balancing policy of the attempts that went a way; nil is plain
// discovery.
func WithPolicy(policy func(*attempt.Route) string) Option {
	return func(e *Explained) error {
		if policy == nil {
			return errors.New("explained: WithPolicy(nil): leave the option out")
		}
		e.policy = policy
		return nil
	}
}

// New makes the concern. Its errors are options that are nil.
func New(opts ...Option) (*Explained, error) {
	e := &Explained{instance: func() Instance { return Instance{} }, policy: func(*attempt.Route) string { return "" }}
	for _, opt := range opts {
		if err := opt(e); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// Stage is [interceptors.Explained].
func (e *Explained) Stage() interceptors.Stage { return interceptors.Explained }

// receive begins the record of a call whose caller asks, nil if it is not to be answered. The
// context is without the key: a handler that forwards what it received would have it obeyed by
// servers that trust this one, and not its caller.
func (e *Explained) receive(ctx context.Context, meta *interceptors.CallMeta, fullMethod string) (context.Context, *hop.Record) {
	hops := asked(ctx)
	md, _ := metadata.FromIncomingContext(ctx) // a copy
	md.Delete(wire.ExplainKey)
	without := metadata.NewIncomingContext(ctx, md)
	if hops == 0 || !safely(func() bool { return e.callers.Trusted(ctx) }) {
		return without, nil
	}
	self, name := safely(e.instance), safely(func() string { return e.callers.LogName(ctx) })
	record := hop.New(interceptors.Server.String(), strings.TrimPrefix(fullMethod, "/"), hops-1)
	record.Note(func(h *hop.Hop) {
		h.Service, h.Instance, h.Zone, h.Caller = self.Service, self.ID, self.Zone, name
		if from, ok := peer.FromContext(ctx); ok && from.Addr != nil {
			h.Peer = from.Addr.String()
		}
		h.Deadline = deadlineOf(ctx)
	})
	return interceptors.Explain(without, interceptors.Server, meta.FullMethod, record), record
}

// safely calls a function of the user's, and returns the zero value if it panics: this concern
// stands outside of recovery, so that a panic here would end the process.
func safely[T any](f func() T) (value T) {
	defer func() { _ = recover() }()
	return f()
}

// Asked are the calls that were made with the context of [Ask].
type Asked struct{ record *hop.Record }

// Ask returns ctx for calls that are to be explained, by channels that have this concern.
func Ask(ctx context.Context) (context.Context, *Asked) {
	record := hop.New("", "", hop.MaxHops)
	return interceptors.Explain(ctx, 0, "", record), &Asked{record}
}

// Calls ends the recording and returns the calls, up to 32.
func (a *Asked) Calls() []*hop.Hop { return a.record.Close().Calls }

// asked is through how many servers the caller wants its call explained; 0 is not at all.
func asked(ctx context.Context) int {
	values := metadata.ValueFromIncomingContext(ctx, wire.ExplainKey)
	if len(values) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(values[0]) // what is no number asks for nothing, as 0 does
	return min(max(n, 0), hop.MaxHops)
}
