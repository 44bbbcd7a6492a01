package ratelimit

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/hop"
	"github.com/meshlite-go/meshlite/internal/rpc"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

const (
	// inlineLimits is for how many limits a decision allocates nothing.
	inlineLimits = 4
	// maxWait is how long a call without a deadline waits.
	maxWait = time.Minute
)

// methodLimits applies the limits of one method.
type methodLimits struct {
	limiter   *Limiter
	meta      *interceptors.CallMeta
	rules     []rule
	waits     bool           // some rule does
	refunds   bool           // some rule does
	usesStore bool           // some rule is counted there
	handled   bool           // a handler has seen the call: the rules charge messages of a stream
	messages  *methodLimits  // the rules that charge each message of a stream, or nil
	refusedBy *refusedLimits // nil where nothing is held back
}

// newMethodLimits is nil where nothing is limited or, on a client, held back. share is
// that of the server, or nil.
func newMethodLimits(l *Limiter, meta *interceptors.CallMeta, stream bool, share func() float64) *methodLimits {
	applies := func(rule *policyv1.RateLimitRule) bool { return !stream || rule.GetKey().GetField() == "" }
	m := newRules(l, meta, share, applies)
	if !stream {
		l.methods.put(m)
	} else if each := newRules(l, meta, share, func(r *policyv1.RateLimitRule) bool { return applies(r) && r.GetPerMessage() }); len(each.rules) > 0 {
		each.handled, m.messages = true, each
	}
	// gRPC's own services are exempt, as from defaults.
	if meta.Side == interceptors.Client && l.options.holdBack > 0 && !interceptors.Infrastructure(meta.Service) {
		m.refusedBy = l.methods.refusedLimitsOf(meta.FullMethod)
	}
	if len(m.rules) == 0 && m.refusedBy == nil {
		return nil
	}
	return m
}

// newRules has the rules that are in force on this side and apply.
func newRules(l *Limiter, meta *interceptors.CallMeta, share func() float64, applies func(*policyv1.RateLimitRule) bool) *methodLimits {
	m := &methodLimits{limiter: l, meta: meta}
	for _, policy := range meta.Policy.GetRateLimits() {
		if policy.GetDisabled() || !meta.Side.On(policy.GetSide(), interceptors.Server) || !applies(policy) {
			continue
		}
		r := newRule(l, meta, policy, share)
		m.rules = append(m.rules, r)
		m.waits = m.waits || r.wait
		m.usesStore = m.usesStore || r.countedIn == inStore
		m.refunds = m.refunds || r.refund > policyv1.Refund_REFUND_NONE
	}
	return m
}

func (m *methodLimits) unaryServer(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (reply any, err error) {
	// It fails only without a transport, and then there is no caller either.
	setTrailer := func(md metadata.MD) { _ = grpc.SetTrailer(ctx, md) }
	var space [inlineLimits]check
	v, ended := m.admit(ctx, req, space[:0])
	if err := m.refuse(&v, ended, setTrailer); err != nil {
		return nil, err
	}
	c := m.newContext(ctx, &v)
	if m.limiter.options.fields {
		setTrailer(fields(c.checks.standings(c.table, c.now)))
	}
	if m.refunds {
		err = rpc.ErrPanic
		defer func() { m.settle(c, c.checks, err) }()
	}
	return handler(c, req)
}

func (m *methodLimits) streamServer(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	var space [inlineLimits]check
	v, ended := m.admit(ss.Context(), nil, space[:0])
	if err := m.refuse(&v, ended, ss.SetTrailer); err != nil {
		return err
	}
	c := m.newContext(ss.Context(), &v)
	if m.limiter.options.fields {
		ss.SetTrailer(fields(c.checks.standings(c.table, c.now)))
	}
	if m.refunds {
		err = rpc.ErrPanic
		defer func() { m.settle(c, c.checks, err) }()
	}
	return handler(srv, &serverStream{ServerStream: ss, ctx: c, messages: m.messages})
}

func (m *methodLimits) unaryClient(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) (err error) {
	var record *attempt.Record
	var avoided *avoidance
	if m.refusedBy != nil {
		// A limiter alone asks who is picked only after a refusal: a record costs an allocation.
		if r := attempt.FromContext(ctx); m.limiter.tracksPicks.Load() || r != nil && r.Picked() == nil {
			ctx, record = attempt.FromOrNew(ctx, attempt.Unary)
		}
		if avoided, err = m.avoid(ctx, req, cc, record); err != nil {
			return err
		}
	}
	var space [inlineLimits]check
	v, ended := m.admit(ctx, req, space[:0])
	if err := m.refuse(&v, ended, nil); err != nil {
		return err
	}
	if m.refunds {
		err = rpc.ErrPanic
		defer func() { m.settle(ctx, v.checks, err) }()
	}
	var finish rpc.Finish
	if avoided != nil {
		opts, finish = rpc.SplitFinish(opts)
	}
	for {
		err = invoker(ctx, method, req, reply, cc, opts...)
		if m.refusedBy != nil {
			m.attemptEnded(ctx, req, cc, record, avoided, err, opts)
		}
		if !avoided.unpicked() {
			finish.Run(err)
			return err
		}
		if err = avoided.wait(ctx, err); err == nil {
			avoided, err = m.avoid(ctx, req, cc, record)
		}
		if err != nil {
			m.cancel(ctx, v.checks)
			finish.Run(err)
			return err
		}
	}
}

// avoidance is a call like some that instances, or all, have refused.
type avoidance struct {
	method *methodLimits
	limits []refusedLimit
	keys   [maxRefusedLimits]key // of the call, by limit
	broken [maxRefusedLimits]bool
	target string

	attempt.Avoid

	mu         sync.Mutex    // gRPC may pick in another goroutine than the caller's
	retryAfter time.Duration // when the service may be called again, if no instance may be now
	by         *refusedLimit // why not
	probing    *cooldown     // that this call probes
}

// avoid has the attempt of record avoid the instances that have refused calls like this
// one. It waits or fails where the whole service has. It returns nil for a call that none
// has refused of late.
func (m *methodLimits) avoid(ctx context.Context, req any, cc *grpc.ClientConn, record *attempt.Record) (*avoidance, error) {
	for {
		a := m.newAvoidance(ctx, req, cc)
		if a == nil {
			return nil, nil
		}
		left := a.left(nil)
		if left <= 0 {
			if record != nil {
				record.SetAvoid(&a.Avoid)
			}
			return a, nil
		}
		if err := a.wait(ctx, a.allRefuse(left)); err != nil {
			return nil, err
		}
	}
}

func (m *methodLimits) newAvoidance(ctx context.Context, req any, cc *grpc.ClientConn) *avoidance {
	limits := m.refusedBy.Load()
	if limits == nil {
		return nil
	}
	now := m.limiter.table.now()
	if !slices.ContainsFunc(*limits, func(l refusedLimit) bool { return l.until.Load() > now }) {
		return nil
	}
	target := targetOf(cc)
	a := &avoidance{method: m, limits: *limits, target: target}
	at := m.limiter.table.seeds.hash(target)
	for i := range a.limits {
		found, _, err := a.limits[i].keyer.key(ctx, req)
		a.keys[i], a.broken[i] = found.combine(at), err != nil
	}
	a.For, a.Err = a.left, a.allRefuse
	return a
}

// unpicked reports whether no instance could be picked, as all refuse. It is false for nil.
func (a *avoidance) unpicked() bool {
	if a == nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.retryAfter > 0
}

// attemptEnded begins a cooldown if an instance or a service refuses such calls for a time,
// and ends the one that the attempt has probed.
func (m *methodLimits) attemptEnded(ctx context.Context, req any, cc *grpc.ClientConn, record *attempt.Record, a *avoidance, err error, opts []grpc.CallOption) {
	var picked *attempt.Instance
	if record != nil {
		picked = record.Picked()
	}
	if a != nil {
		a.probed(picked, status.Code(err))
	}
	if status.Code(err) != codes.ResourceExhausted || a.unpicked() {
		return
	}
	pushback := parsePushback(m.meta.Service, status.Convert(err), record, opts)
	m.limiter.tracksPicks.Store(true)
	if pushback.after <= 0 || picked == nil && !pushback.service {
		return // it is not known who has refused
	}
	limit, ok := m.refusedLimitOf(pushback)
	if !ok {
		return
	}
	found, _, failed := limit.keyer.key(ctx, req)
	if failed != nil {
		return
	}
	instance := picked
	if pushback.service {
		instance = nil
	} else {
		picked.CountRefusal()
	}
	seeds, lasts := &m.limiter.table.seeds, min(pushback.after, m.limiter.options.holdBack)
	until := m.limiter.table.now() + int64(lasts)
	m.limiter.cooldowns.put(&cooldown{key: found.combine(seeds.hash(targetOf(cc))).combine(seeds.hashInstance(instance)), until: until})
	limit.extend(until + int64(probeTime))
	m.limiter.warnHeldBack(m.meta.FullMethod, targetOf(cc), instance, pushback, lasts)
}

func (m *methodLimits) streamClient(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (stream grpc.ClientStream, err error) {
	var record *attempt.Record
	var avoided *avoidance
	if m.refusedBy != nil {
		ctx, record = attempt.FromOrNew(ctx, attempt.Stream)
		if avoided, err = m.avoid(ctx, nil, cc, record); err != nil {
			return nil, err
		}
	}
	v, ended := m.admit(ctx, nil, nil) // outlives this call
	if err := m.refuse(&v, ended, nil); err != nil {
		return nil, err
	}
	own, finished := rpc.SplitFinish(opts)
	for {
		a := avoided // of this attempt
		open := func(ctx context.Context, end func(error)) (grpc.ClientStream, error) {
			return rpc.OpenStream(ctx, desc, cc, method, streamer, own, end)
		}
		stream, err = m.open(ctx, open, func(err error) {
			if m.refusedBy != nil {
				m.attemptEnded(ctx, nil, cc, record, a, err, nil)
			}
			if !a.unpicked() {
				m.settle(ctx, v.checks, err)
				finished.Run(err)
			}
		})
		if err == nil || !a.unpicked() {
			return stream, err
		}
		if err = a.wait(ctx, err); err == nil {
			avoided, err = m.avoid(ctx, nil, cc, record)
		}
		if err != nil {
			m.cancel(ctx, v.checks)
			finished.Run(err)
			return nil, err
		}
	}
}

// open opens a stream, which can be ended where its messages are limited.
func (m *methodLimits) open(ctx context.Context, open func(context.Context, func(error)) (grpc.ClientStream, error), finish func(error)) (grpc.ClientStream, error) {
	if m.messages == nil {
		return open(ctx, finish)
	}
	ctx, cancel := context.WithCancel(ctx)
	stream, err := open(ctx, func(err error) {
		finish(err)
		cancel()
	})
	if err != nil {
		return nil, err
	}
	return &clientStream{ClientStream: stream, messages: m.messages, cancel: cancel}, nil
}

// serverStream charges each message that it receives but the first, for which the
// opening was charged.
type serverStream struct {
	grpc.ServerStream
	ctx        context.Context
	messages   *methodLimits // nil where only the opening is charged
	opened     bool
	trailerSet bool
}

// Context has what [FromContext] returns.
func (s *serverStream) Context() context.Context { return s.ctx }

// RecvMsg fails with the refusal of a message beyond the limit.
func (s *serverStream) RecvMsg(msg any) error {
	err := s.ServerStream.RecvMsg(msg)
	if err != nil || s.messages == nil {
		return err
	}
	if !s.opened {
		s.opened = true
		return nil
	}
	var space [inlineLimits]check
	v, ended := s.messages.admit(s.ctx, msg, space[:0])
	return s.messages.refuse(&v, ended, s.setTrailer)
}

// setTrailer works once: two pushbacks mean never (gRFC A6).
func (s *serverStream) setTrailer(md metadata.MD) {
	if !s.trailerSet {
		s.trailerSet = true
		s.SetTrailer(md)
	}
}

// clientStream charges each message that it sends but the first, for which the
// opening was charged.
type clientStream struct {
	grpc.ClientStream
	messages *methodLimits
	cancel   context.CancelFunc
	opened   bool
}

// SendMsg fails with the refusal of a message beyond the limit, and ends the
// stream, as every error of SendMsg does.
func (s *clientStream) SendMsg(msg any) error {
	if s.opened {
		var space [inlineLimits]check
		v, ended := s.messages.admit(s.Context(), msg, space[:0])
		if err := s.messages.refuse(&v, ended, nil); err != nil {
			s.cancel()
			return err
		}
	}
	s.opened = true
	return s.ClientStream.SendMsg(msg)
}

// check is one call at one limit.
type check struct {
	rule    *rule
	gcra    *gcra // of the rule, unless the call has its own
	key     key
	keyless bool // the call has no value for the key
	charge  charge
	taken   *Taken // by the store; nil: it has taken nothing
}

type checks []check

// verdict is the state of a call at all limits of its method.
type verdict struct {
	now       int64
	patience  int64 // for how long the call can wait
	checks    checks
	refusedBy int // which check refuses the call, or noCheck
	wait      time.Duration
}

const noCheck = -1

func (v *verdict) admitted() bool { return v.refusedBy == noCheck }

func (v *verdict) refuse(by int, wait time.Duration) { v.refusedBy, v.wait = by, wait }

// patienceAt is 0 at a limit that does not wait.
func (v *verdict) patienceAt(c *check) int64 {
	if c.rule.wait {
		return v.patience
	}
	return 0
}

// admit charges a call on all limits, or on none: then the verdict has the one that
// refuses it, and for how long. The error is that of a call that lacks what a limit needs, or
// that ends while it waits. It uses space while that suffices.
func (m *methodLimits) admit(ctx context.Context, req any, space []check) (verdict, error) {
	v := verdict{checks: space[:0], refusedBy: noCheck}
	for i := range m.rules {
		r := &m.rules[i]
		if r.skip != nil && r.skip(ctx, req) {
			continue
		}
		c, err := r.check(ctx, req) // may run the user's code
		if err != nil {
			m.countRefusal(ctx, r)
			interceptors.Note(ctx, m.meta, func(h *hop.Hop) { h.AddLimit(hop.Limit{Name: r.name, Result: Refused.String()}) })
			return v, err
		}
		v.checks = append(v.checks, c)
	}
	if len(v.checks) == 0 {
		return v, nil
	}
	if m.waits {
		v.patience = patienceOf(ctx)
	}
	table := m.limiter.table
	v.now = table.now()
	if len(v.checks) > 1 {
		v.look(table)
	}
	if m.usesStore && v.admitted() {
		if err := m.takeFromStore(ctx, &v); err != nil {
			return v, err
		}
	}
	if v.admitted() {
		if v.charge(table); !v.admitted() {
			m.giveAllBack(ctx, v.checks)
		}
	}
	m.report(ctx, &v)
	if v.admitted() && v.wait > 0 {
		return v, m.await(ctx, &v)
	}
	return v, nil
}

// refuse is the error of a call that is not made, nil for one that is. setTrailer is nil on
// a client.
func (m *methodLimits) refuse(v *verdict, ended error, setTrailer func(metadata.MD)) error {
	if v.admitted() {
		return ended
	}
	r := v.refusal(m.limiter.table, m.handled)
	if setTrailer != nil {
		setTrailer(r.trailer())
	}
	return r.err()
}

// patienceOf is how long a call can wait.
func patienceOf(ctx context.Context) int64 {
	deadline, ok := ctx.Deadline()
	if !ok {
		return int64(maxWait)
	}
	return max(int64(time.Until(deadline))-1, 0)
}

// look finds the limit that refuses the call for longest.
func (v *verdict) look(table *Table) {
	for i := range v.checks {
		c := &v.checks[i]
		if c.rule.shadow || c.charge.in != inProcess {
			continue
		}
		d := table.look(v.now, c.key, c.gcra, v.patienceAt(c))
		if !d.Admitted && d.RetryAfter > v.wait {
			v.refuse(i, d.RetryAfter)
		}
	}
}

// charge charges all limits of this process. If one refuses after all, it cancels the
// charges before. An admitted call waits for the limit that takes longest.
func (v *verdict) charge(table *Table) {
	for i := range v.checks {
		c := &v.checks[i]
		if c.charge.in != inProcess {
			continue
		}
		d, taken := table.take(v.now, c.key, c.gcra, v.patienceAt(c))
		c.charge = taken
		switch {
		case d.Admitted:
			v.wait = max(v.wait, d.RetryAfter)
		case c.rule.shadow:
			c.charge.shadowed = true
		default:
			v.checks[:i].cancel(v.now)
			v.refuse(i, d.RetryAfter)
			return
		}
	}
}

func (cs checks) cancel(now int64) {
	for i := range cs {
		if cs[i].charge.in == inProcess {
			cs[i].charge.cancel(now)
			cs[i].charge = charge{}
		}
	}
}

// await delays an admitted call until its time.
func (m *methodLimits) await(ctx context.Context, v *verdict) error {
	m.limiter.waited.Add(1)
	err := interceptors.Sleep(ctx, v.wait, nil)
	if err != nil {
		m.cancel(ctx, v.checks)
	}
	v.now = m.limiter.table.now() // for what the handler reads
	return err
}

// cancel undoes the charges of a call that is not made after all.
func (m *methodLimits) cancel(ctx context.Context, cs checks) {
	cs.cancel(m.limiter.table.now())
	m.giveAllBack(ctx, cs)
}

// settle refunds a call that ended with err where the rules say so.
func (m *methodLimits) settle(ctx context.Context, cs checks, err error) {
	if m.usesStore {
		m.limiter.refunded.Add(uint64(m.giveBack(ctx, cs, err)))
	}
	now := m.limiter.table.now()
	for i := range cs {
		if cs[i].rule.refunds(err) && cs[i].charge.refund(now) {
			m.limiter.refunded.Add(1)
		}
	}
}

// report counts and publishes the verdict.
func (m *methodLimits) report(ctx context.Context, v *verdict) {
	if !v.admitted() {
		c := &v.checks[v.refusedBy]
		m.limiter.noteHot(ctx, c)
		m.countRefusal(ctx, c.rule)
		m.explain(ctx, v)
		return
	}
	m.limiter.admitted.Add(1)
	deciding := v.checks.deciding()
	for i := range v.checks {
		c := &v.checks[i]
		result := Admitted
		if c.charge.shadowed {
			m.limiter.shadowed.Add(1)
			c.rule.counts.shadowed.Add(1)
			result = Shadowed
		}
		if c.charge.shadowed || c.hot(v.now) {
			m.limiter.noteHot(ctx, c)
		}
		m.publish(ctx, c.rule, result, i == deciding)
	}
	m.explain(ctx, v)
}

// explain adds the verdicts to the record of a call: that of the limit that refuses it, or those of
// all that admit it.
func (m *methodLimits) explain(ctx context.Context, v *verdict) {
	record := interceptors.RecordOf(ctx, m.meta)
	if record == nil {
		return
	}
	for i := range v.checks {
		c := &v.checks[i]
		verdict := hop.Limit{Name: c.rule.name, Result: Admitted.String()}
		switch {
		case !v.admitted() && i != v.refusedBy:
			continue
		case !v.admitted():
			verdict.Result, verdict.RetryAfter = Refused.String(), hop.Milliseconds(v.wait)
		case c.charge.shadowed:
			verdict.Result = Shadowed.String()
		case c.rule.wait:
			verdict.Waited = hop.Milliseconds(v.wait)
		}
		if s, known := c.standing(m.limiter.table, v.now); known {
			verdict.Left, verdict.Reset = &s.Remaining, hop.Milliseconds(s.Reset)
		}
		record.Note(func(h *hop.Hop) { h.AddLimit(verdict) })
	}
}

// deciding is the index of the check that an admitted call reports: the last in shadow mode
// that would have refused it, else the first.
func (cs checks) deciding() (at int) {
	for i := range cs {
		if cs[i].charge.shadowed {
			at = i
		}
	}
	return at
}

// countRefusal counts a call that r refuses.
func (m *methodLimits) countRefusal(ctx context.Context, r *rule) {
	m.limiter.refused.Add(1)
	r.counts.refused.Add(1)
	m.publish(ctx, r, Refused, true)
}

func (m *methodLimits) publish(ctx context.Context, r *rule, verdict Result, decides bool) {
	m.limiter.publisher.Publish(ctx, m.meta, r.events.of(verdict, decides))
}

// hot reports whether a call has left its key near the limit.
func (c *check) hot(now int64) bool {
	return (c.charge.bucket != nil || c.taken != nil) && c.charge.tat-now >= c.gcra.burst-c.gcra.burst/4
}

// standings are those at the limits in force.
func (cs checks) standings(table *Table, now int64) []Standing {
	all := make([]Standing, 0, len(cs))
	for i := range cs {
		if cs[i].rule.shadow {
			continue
		}
		if s, known := cs[i].standing(table, now); known {
			all = append(all, s)
		}
	}
	return all
}

// standing is that of the call's key at the limit, as far as it is known here.
func (c *check) standing(table *Table, now int64) (_ Standing, known bool) {
	tat, b := c.charge.tat, c.charge.bucket
	switch {
	case c.charge.in != inProcess && tat == 0:
		return Standing{}, false
	case c.charge.in == inProcess && b == nil: // the call cost nothing, or was refused
		tat, b = table.level(now, c.key, c.gcra)
	}
	return newStanding(c.rule.name, c.gcra, now, tat, b), true
}

func (m *methodLimits) newContext(ctx context.Context, v *verdict) *callContext {
	c := &callContext{Context: ctx, table: m.limiter.table, now: v.now}
	c.checks = append(c.space[:0], v.checks...)
	return c
}
