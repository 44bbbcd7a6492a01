package ratelimit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/guard"
	"github.com/meshlite-go/meshlite/internal/rpc"
)

// Limiter is the concern of rate limits. One value may serve several channels and
// servers, whose calls are then counted together. It is safe for concurrent use
// and owns nothing to close.
type Limiter struct {
	options       options
	publisher     *interceptors.Publisher
	table         *Table
	store         *guard.Store
	methods       registry
	hotKeys       hotKeys
	cooldowns     cooldowns // of keys that servers refuse
	storeSeeds    seeds     // of keys in the store
	storeRefusals cooldowns // of keys that the store refuses
	tracksPicks   atomic.Bool
	warnedOnce    [2]sync.Once

	obeyed, obeyedBefore atomic.Uint64 // refusals by servers, now and at the last warning
	warnedAt             atomic.Int64  // when that was

	admitted, refused, shadowed, waited, refunded, heldBack                   atomic.Uint64
	remembered, storeErrors, fallbackOpen, fallbackClosed, fallbackPerReplica atomic.Uint64
}

// New makes a limiter that has counted nothing. The error names every option that
// is wrong.
func New(opts ...Option) (*Limiter, error) {
	o := options{maxKeys: defaultMaxKeys, holdBack: defaultHoldBack}
	for _, option := range opts {
		option(&o)
	}
	if o.callers == nil {
		o.callers = new(caller.Callers) // unlike nil, it keeps the identities of certificates
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
	l := &Limiter{
		options: o, publisher: interceptors.NewPublisher(o.observer), table: table,
		cooldowns: make(cooldowns, maxCooldowns), store: guard.NewStore(o.store, o.log),
	}
	if o.store != nil {
		l.storeSeeds, l.storeRefusals = newStoreSeeds(o.secret), make(cooldowns, maxStoreRefusals)
	}
	return l, nil
}

// Stage is [interceptors.RateLimit].
func (l *Limiter) Stage() interceptors.Stage { return interceptors.RateLimit }

// UnaryClient limits the calls of one method and holds them back when a server has
// refused them, nil where neither is to be done.
func (l *Limiter) UnaryClient(meta *interceptors.CallMeta) grpc.UnaryClientInterceptor {
	if m := newMethodLimits(l, meta, false, nil); m != nil {
		return m.unaryClient
	}
	return nil
}

// StreamClient limits the streams of one method and holds them back when a server
// has refused them, nil where neither is to be done.
func (l *Limiter) StreamClient(meta *interceptors.CallMeta) grpc.StreamClientInterceptor {
	if m := newMethodLimits(l, meta, true, nil); m != nil {
		return m.streamClient
	}
	return nil
}

// UnaryServer limits the handling of one method, nil where the policy does not
// limit it on the server.
func (l *Limiter) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	return l.unaryServer(meta, nil)
}

// StreamServer limits the streams accepted of one method, nil where the policy
// does not limit it on the server.
func (l *Limiter) StreamServer(meta *interceptors.CallMeta) grpc.StreamServerInterceptor {
	return l.streamServer(meta, nil)
}

func (l *Limiter) unaryServer(meta *interceptors.CallMeta, share func() float64) grpc.UnaryServerInterceptor {
	if m := newMethodLimits(l, meta, false, share); m != nil {
		return m.unaryServer
	}
	return nil
}

func (l *Limiter) streamServer(meta *interceptors.CallMeta, share func() float64) grpc.StreamServerInterceptor {
	if m := newMethodLimits(l, meta, true, share); m != nil {
		return m.streamServer
	}
	return nil
}

// Replica is a limiter in one server of several that divide its limits among them: those
// whose store is RATE_LIMIT_STORE_PER_REPLICA, and those whose external store is
// unavailable.
type Replica struct {
	limiter *Limiter
	share   func() float64
}

// Replica is l in a server that has a share of the limits of its service, above 0 and
// up to 1. share is called in each call that is counted by it, so it must be safe for
// concurrent use and quick. The share of [WithShare] takes precedence.
func (l *Limiter) Replica(share func() float64) *Replica { return &Replica{l, share} }

// Stage is [interceptors.RateLimit].
func (r *Replica) Stage() interceptors.Stage { return interceptors.RateLimit }

// UnaryServer limits as [Limiter.UnaryServer] does.
func (r *Replica) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	return r.limiter.unaryServer(meta, r.share)
}

// StreamServer limits as [Limiter.StreamServer] does.
func (r *Replica) StreamServer(meta *interceptors.CallMeta) grpc.StreamServerInterceptor {
	return r.limiter.streamServer(meta, r.share)
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

// Middleware is the limiter as a ratelimit.Limiter of go-grpc-middleware v2, for
// servers that have its interceptors. It is safe for concurrent use.
type Middleware struct{ admit grpc.UnaryServerInterceptor }

// Middleware limits by the policies of the server's side. It sees neither request
// nor outcome of a call: a limit by request field counts all callers together, and
// calls are charged when they begin and never refunded. The trailer of a refusal is as
// usual; go-grpc-middleware keeps the text of the error and drops its details. It
// panics without policies.
func (l *Limiter) Middleware(policies *interceptors.Policies) Middleware {
	return Middleware{l.UnaryServerInterceptor(policies)}
}

var errNoMethod = errors.New("no gRPC method in the context: ratelimit.Middleware limits on servers only")

// Limit is nil for a call that is admitted, and the refusal of another.
func (m Middleware) Limit(ctx context.Context) error {
	name, ok := grpc.Method(ctx)
	if !ok {
		return errNoMethod
	}
	_, err := m.admit(ctx, nil, &grpc.UnaryServerInfo{FullMethod: name}, func(context.Context, any) (any, error) { return nil, nil })
	return err
}

// Standing returns what a key has left of a limit of a method that was called before,
// and charges nothing. The key is written as the policy counts: an address or
// network, an identity as package caller writes it, the value of the
// metadata key or of the request field, what [WithKey] returns; "" is that of all who
// have none. An unknown method or limit, a key that cannot be written down, and a failing
// store are errors.
func (l *Limiter) Standing(fullMethod, limit, key string) (Standing, error) {
	r, k, err := l.find(fullMethod, limit, key)
	if err != nil {
		return Standing{}, err
	}
	if r.countedIn == inStore {
		return l.storeStanding(r, k)
	}
	g, now := &r.gcra, l.table.now()
	if r.share != nil {
		g = r.scaled(g)
	}
	tat, b := l.table.level(now, k, g)
	return newStanding(r.name, g, now, tat, b), nil
}

func (l *Limiter) storeStanding(r *rule, k key) (Standing, error) {
	c := check{rule: r, gcra: &r.gcra, key: k}
	taken, err := guard.Call(context.Background(), l.store, r.meta.FullMethod, func(ctx context.Context) (Taken, error) {
		return l.options.store.Standing(ctx, c.storeCharge(0))
	})
	if err != nil {
		return Standing{}, err
	}
	return newStanding(r.name, &r.gcra, 0, int64(taken.Used), nil), nil
}

// Reset gives a key its whole burst again. It is written as for [Limiter.Standing],
// and the errors are the same.
func (l *Limiter) Reset(fullMethod, limit, key string) error {
	r, k, err := l.find(fullMethod, limit, key)
	if err != nil {
		return err
	}
	l.table.reset(k) // which counts while a store is unavailable, too
	if r.countedIn != inStore {
		return nil
	}
	c := check{rule: r, gcra: &r.gcra, key: k}
	_, err = guard.Call(context.Background(), l.store, r.meta.FullMethod, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, l.options.store.Reset(ctx, c.storeCharge(0))
	})
	l.storeRefusals.drop(c.refusalKey())
	return err
}

var errNoLimit = errors.New("no call of the method has met such a limit: write \"/package.Service/Method\" and the name in the policy")

func (l *Limiter) find(fullMethod, limit, value string) (*rule, key, error) {
	for _, m := range l.methods.all() {
		if m.meta.FullMethod != fullMethod {
			continue
		}
		for i := range m.rules {
			if r := &m.rules[i]; r.name == limit {
				k, err := r.keyer.ofValue(value)
				if err != nil {
					err = fmt.Errorf("ratelimit: limit %q of %s: %w", limit, fullMethod, err)
				}
				return r, k, err
			}
		}
	}
	return nil, key{}, fmt.Errorf("ratelimit: limit %q of %q: %w", limit, fullMethod, errNoLimit)
}

func (l *Limiter) warnWithoutShare(r *rule) {
	if r.share.of == nil {
		l.warn(1, r, "each process admits the whole of a rate limit per replica, since its share is not known: give WithShare")
	}
}

// warn once in the life of the limiter.
func (l *Limiter) warn(what int, r *rule, text string) {
	l.warnedOnce[what].Do(func() {
		l.options.log.Warn(text, "limit", r.name, "method", r.meta.FullMethod, "side", r.meta.Side.String())
	})
}

// warnHeldBack logs once a minute that servers refuse calls. instance is nil for a refusal
// by all.
func (l *Limiter) warnHeldBack(fullMethod, target string, instance *attempt.Instance, p pushback, lasts time.Duration) {
	obeyed, now := l.obeyed.Add(1), l.table.now()
	last := l.warnedAt.Load()
	if last != 0 && now-last < int64(warnInterval) || !l.warnedAt.CompareAndSwap(last, max(now, 1)) {
		return
	}
	all := []any{"target", target, "method", fullMethod, "limit", p.limit,
		"for", lasts, "asked_for", p.after, "refusals", obeyed - l.obeyedBefore.Swap(obeyed)}
	if instance != nil {
		all = append(all, "instance", instance.ID, "address", instance.Address)
	}
	l.options.log.Warn("calls are held back: a server has refused one by its rate limit", all...)
}

// registry has the limits of the methods that were called, as of their last call, and those
// by which servers have refused a client.
type registry struct {
	limits  rpc.Table[methodID, *methodLimits]
	refused rpc.Table[string, *refusedLimits]
	counts  rpc.Table[limitID, *counts]
}

type methodID struct {
	name string
	side interceptors.Side
}

type limitID struct {
	methodID
	limit string
}

// counts are the results of calls at one limit. They outlive changes of the policy.
type counts struct{ refused, shadowed atomic.Uint64 }

func (r *registry) put(m *methodLimits) {
	id := methodID{m.meta.FullMethod, m.meta.Side}
	if len(m.rules) == 0 {
		r.limits.Delete(id)
	} else {
		r.limits.Set(id, m)
	}
}

func (r *registry) refusedLimitsOf(fullMethod string) *refusedLimits {
	return r.refused.Add(fullMethod, &refusedLimits{})
}

func (r *registry) countsOf(meta *interceptors.CallMeta, limit string) *counts {
	return r.counts.Add(limitID{methodID{meta.FullMethod, meta.Side}, limit}, &counts{})
}

// all are the limits by method, and the server's first.
func (r *registry) all() []*methodLimits {
	var all []*methodLimits
	for _, m := range r.limits.All() {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b *methodLimits) int {
		return cmp.Or(cmp.Compare(a.meta.FullMethod, b.meta.FullMethod), cmp.Compare(b.meta.Side, a.meta.Side))
	})
	return all
}
