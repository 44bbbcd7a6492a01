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

// minSecret is 128 bits.
const minSecret = 16

// Option changes what [New] makes.
type Option func(*options)

type options struct {
	maxKeys  int
	callers  *caller.Callers
	holdBack time.Duration
	fields   bool
	rules    map[string]*functions // by the name of the limit
	given    []string              // options of rules, by name and limit
	errs     []error
	observer interceptors.Observer
	store    Store
	secret   *string
	share    func() float64
	log      *slog.Logger
}

// WithMaxKeys bounds for how many keys the counts are kept: 64 to 268,435,456, by
// default 131,072, which takes 1 MiB at once and 7 MiB when full.
func WithMaxKeys(n int) Option {
	return func(o *options) { o.maxKeys = n }
}

// WithCallers says who calls, for limits by identity and by peer, and whose cost_metadata
// counts. Callers without an identity share one bucket. Default: the identity is that of the
// verified certificate, the address that of the peer, and nobody is trusted.
func WithCallers(callers *caller.Callers) Option {
	return func(o *options) { o.callers = callers }
}

// WithStore counts the calls at limits with store RATE_LIMIT_STORE_EXTERNAL in store, for
// all replicas that use it together. Whoever made the store closes it, after the servers
// and channels. Without one such limits are counted by the share of this process, and a
// warning is logged.
func WithStore(store Store) Option {
	return func(o *options) { o.store = store }
}

// WithSecret hides callers from readers of the store: without the secret, its keys, which
// are digests, cannot be compared with guessed values. All replicas need the same secret,
// of 16 bytes or more; with another one they count apart. Default: none, and then a key
// that can be guessed, such as an address, can be recognized.
func WithSecret(secret string) Option {
	return func(o *options) { o.secret = &secret }
}

// WithShare sets the share of this process in its limits, above 0 and up to 1, for limits
// with store RATE_LIMIT_STORE_PER_REPLICA, and for those whose external store is
// unavailable where on_store_failure is STORE_FAILURE_PER_REPLICA. share is called for each
// such call, so it must be safe for concurrent use and quick. Default: servers of package
// meshlite have their share from Consul; elsewhere, as on a client, it is 1 and a warning
// is logged.
func WithShare(share func() float64) Option {
	return func(o *options) { o.share = share }
}

// WithLogger logs once when limits are counted in another way than their policy says, and
// once a minute that calls are held back. Default, and nil: slog.Default().
func WithLogger(log *slog.Logger) Option {
	return func(o *options) { o.log = log }
}

// WithHoldBack bounds for how long a client holds calls back from an instance, or from a
// service, that has refused one with a time to retry after. 0 holds none back. Default: 30
// seconds.
func WithHoldBack(longest time.Duration) Option {
	return func(o *options) { o.holdBack = longest }
}

// WithFields has a server send the RateLimit and RateLimit-Policy fields with every
// call that has a limit, not only with those that are refused.
func WithFields() Option {
	return func(o *options) { o.fields = true }
}

// WithKey counts by what key returns, instead of the key in the policy, at the limits
// of this name. Calls for which it reports false share one bucket. The request is
// nil when a stream opens. It and the functions of the other options are called
// once per call and limit, concurrently, and may panic like a handler.
func WithKey(limit string, key func(ctx context.Context, req any) (string, bool)) Option {
	return func(o *options) { o.function("WithKey", limit, key == nil, func(f *functions) { f.key = key }) }
}

// WithCost sets what a call costs at the limits of this name, instead of the policy or
// metadata. A cost of 0 is not charged; more than the burst is refused. The request
// is nil when a stream opens, and a message where each is charged.
func WithCost(limit string, cost func(ctx context.Context, req any) uint64) Option {
	return func(o *options) { o.function("WithCost", limit, cost == nil, func(f *functions) { f.costOf = cost }) }
}

// WithLimit replaces, for each call, the limit in the policy at the limits of this name. It
// should return the same for the same key: a key whose limit changes keeps the used
// fraction of it, which costs an allocation.
func WithLimit(limit string, of func(ctx context.Context, req any, policy Limit) Limit) Option {
	return func(o *options) { o.function("WithLimit", limit, of == nil, func(f *functions) { f.limitOf = of }) }
}

// WithSkip exempts the calls for which skip reports true from the limits of this
// name.
func WithSkip(limit string, skip func(ctx context.Context, req any) bool) Option {
	return func(o *options) { o.function("WithSkip", limit, skip == nil, func(f *functions) { f.skip = skip }) }
}

// WithSuccess decides by the error of a call whether it has succeeded, for the refunds of
// the limits of this name. Default: the code is OK.
func WithSuccess(limit string, success func(err error) bool) Option {
	return func(o *options) {
		o.function("WithSuccess", limit, success == nil, func(f *functions) { f.success = success })
	}
}

// function sets one of a limit. It may be given once for each limit.
func (o *options) function(option, limit string, missing bool, set func(*functions)) {
	name := fmt.Sprintf("%s(%q)", option, limit)
	if missing {
		o.errs = append(o.errs, fmt.Errorf("%s: the function is nil: leave the option out", name))
	}
	if slices.Contains(o.given, name) {
		o.errs = append(o.errs, fmt.Errorf("%s is given twice: leave one out", name))
	}
	o.given = append(o.given, name)
	if o.rules == nil {
		o.rules = map[string]*functions{}
	}
	if o.rules[limit] == nil {
		o.rules[limit] = &functions{}
	}
	set(o.rules[limit])
}

// WithObserver sets what receives an [*Event] of each limit of a call: of all limits of an
// admitted call, of the one that refuses another. Package interceptors/metrics has one.
func WithObserver(observer interceptors.Observer) Option {
	return func(o *options) { o.observer = observer }
}

func (o *options) check() error {
	errs := o.errs
	if o.maxKeys < minMaxKeys || o.maxKeys > maxMaxKeys {
		errs = append(errs, fmt.Errorf("WithMaxKeys: %d keys: give %d to %d", o.maxKeys, minMaxKeys, maxMaxKeys))
	}
	if o.secret != nil && len(*o.secret) < minSecret {
		errs = append(errs, fmt.Errorf("WithSecret: %d bytes: give %d or more, such as by `openssl rand -hex 16`", len(*o.secret), minSecret))
	}
	if o.holdBack < 0 {
		errs = append(errs, fmt.Errorf("WithHoldBack: %v: write a duration from 0 on; 0 turns it off", o.holdBack))
	}
	return errors.Join(errs...)
}

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
