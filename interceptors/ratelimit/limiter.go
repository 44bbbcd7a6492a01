package ratelimit

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/guard"
)

// Limiter is the concern of rate limits. One value may serve several channels and
// servers, whose calls are then counted together. It is safe for concurrent use
// and owns nothing to close.
type Limiter struct {
	options options
	table   *Table
	store   *guard.Store
	limits  registry
	near    near
	holds   holds

	shared   seeds // of the keys in the store
	refusals holds // by the store
	warned   [2]sync.Once

	admitted, refused, shadowed, waited, refunded, heldBack    atomic.Uint64
	obeyed, obeyedThen                                         atomic.Uint64 // refusals by servers, now and at the last warning
	warnedAt                                                   atomic.Int64  // when that was
	tracks                                                     atomic.Bool   // who is picked, for who was refused
	remembered, storeErrors, fellOpen, fellClosed, fellToShare atomic.Uint64
}

// New makes a limiter that has counted nothing. The error names every option that
// is wrong.
func New(opts ...Option) (*Limiter, error) {
	o := options{maxKeys: defaultMaxKeys, holdBack: defaultHoldBack}
	for _, option := range opts {
		option(&o)
	}
	if o.log == nil {
		o.log = slog.Default()
	}
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("ratelimit: %w", err)
	}
	table, err := NewTable(o.maxKeys)
	if err != nil {
		return nil, err
	}
	l := &Limiter{options: o, table: table, holds: make(holds, mostHolds), store: guard.NewStore(o.store, o.log)}
	if o.store != nil {
		l.shared, l.refusals = sharedSeeds(o.secret), make(holds, mostRefusals)
	}
	return l, nil
}

// Stage is [interceptors.RateLimit].
func (l *Limiter) Stage() interceptors.Stage { return interceptors.RateLimit }

// UnaryClient limits the calls of one method and holds them back when a server has
// refused them, nil where neither is to be done.
func (l *Limiter) UnaryClient(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	if p := l.newPart(meta, false, nil); p != nil {
		return p.unaryClient
	}
	return nil
}

// StreamClient limits the streams of one method and holds them back when a server
// has refused them, nil where neither is to be done.
func (l *Limiter) StreamClient(meta *interceptors.CallMeta) grpc.StreamClientInterceptor {
	if p := l.newPart(meta, true, nil); p != nil {
		return p.streamClient
	}
	return nil
}

// UnaryServer limits the handling of one method, nil where the policy does not
// limit it on the server.
func (l *Limiter) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	return l.unaryPart(meta, nil)
}

// StreamServer limits the streams accepted of one method, nil where the policy
// does not limit it on the server.
func (l *Limiter) StreamServer(meta *interceptors.CallMeta) grpc.StreamServerInterceptor {
	return l.streamPart(meta, nil)
}

func (l *Limiter) unaryPart(meta *interceptors.CallMeta, share func() float64) grpc.UnaryServerInterceptor {
	if p := l.newPart(meta, false, share); p != nil {
		return p.unaryServer
	}
	return nil
}

func (l *Limiter) streamPart(meta *interceptors.CallMeta, share func() float64) grpc.StreamServerInterceptor {
	if p := l.newPart(meta, true, share); p != nil {
		return p.streamServer
	}
	return nil
}

// UnaryClientInterceptor is the limiter for use alone, without a chain of
// concerns. It panics without policies.
func (l *Limiter) UnaryClientInterceptor(policies *interceptors.Policies) grpc.UnaryClientInterceptor {
	return interceptors.Alone(interceptors.Client, policies, l).UnaryClient()
}

// StreamClientInterceptor is the limiter for use alone, without a chain of
// concerns. It panics without policies.
func (l *Limiter) StreamClientInterceptor(policies *interceptors.Policies) grpc.StreamClientInterceptor {
	return interceptors.Alone(interceptors.Client, policies, l).StreamClient()
}

// UnaryServerInterceptor is the limiter for use alone, without a chain of
// concerns. It panics without policies.
func (l *Limiter) UnaryServerInterceptor(policies *interceptors.Policies) grpc.UnaryServerInterceptor {
	return interceptors.Alone(interceptors.Server, policies, l).UnaryServer()
}

// StreamServerInterceptor is the limiter for use alone, without a chain of
// concerns. It panics without policies.
func (l *Limiter) StreamServerInterceptor(policies *interceptors.Policies) grpc.StreamServerInterceptor {
	return interceptors.Alone(interceptors.Server, policies, l).StreamServer()
}
