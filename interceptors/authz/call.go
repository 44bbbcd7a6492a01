package authz

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/identity/intention"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/hop"
)

// errDenied is all that a caller receives.
var errDenied = status.Error(codes.PermissionDenied, "permission denied")

// healthService is that of gRPC, which agents check without an identity.
const healthService = "grpc.health.v1.Health"

// The names of policies in an [Event].
const (
	PolicyName    = "consul_intentions" // of a watcher, and of WithIntentions
	OwnPolicyName = "policy_intentions" // of WithPolicy
)

// maxDenialLines is how many denials of a second are logged.
const maxDenialLines = 10

func (a *Authorizer) policyName() string {
	if a.policy {
		return OwnPolicyName
	}
	return PolicyName
}

// Event is the decision about one call, with the fields of gRFC A59. It is reused after the
// observer returns.
type Event struct {
	FullMethodName string // "/package.Service/Method"
	Principal      string // what the certificate of the caller proves, "" without one
	PolicyName     string // [PolicyName] or [OwnPolicyName]
	MatchedRule    string // "web => catalog permission 2", "default"; "" if no rule was reached
	Authorized     bool
}

// Stage is [interceptors.Authorization].
func (e *Event) Stage() interceptors.Stage { return interceptors.Authorization }

// Result is "allowed" or "denied".
func (e *Event) Result() string {
	if e.Authorized {
		return "allowed"
	}
	return "denied"
}

var events = sync.Pool{New: func() any { return new(Event) }}

// Decisions that no rule makes.
var (
	unwritten     = &intention.Decision{Allowed: true}
	neverRead     = &intention.Decision{Reason: "intentions were never read"}
	anonymous     = &intention.Decision{Reason: "the caller has no verified certificate"}
	noService     = &intention.Decision{Reason: "the certificate of the caller names no service of Consul's default namespace and partition"}
	foreignDomain = &intention.Decision{Reason: "the caller is of another trust domain"}
)

// method decides about the calls of one.
type method struct {
	authorizer *Authorizer
	meta       *interceptors.CallMeta
	own        *intention.Rules // with WithPolicy: those of the service, nil if it has none
	evaluated  atomic.Pointer[evaluated]
}

// methodOf is nil for the health service.
func (a *Authorizer) methodOf(meta *interceptors.CallMeta) *method {
	if meta.Service == healthService {
		return nil
	}
	m := &method{authorizer: a, meta: meta}
	if a.policy {
		m.own = a.services.rulesOf(a, meta)
	}
	return m
}

// open reports whether the policy has no intentions.
func (m *method) open() bool { return m.authorizer.policy && m.own == nil }

func (m *method) rules() *intention.Rules {
	if m.authorizer.policy {
		return m.own
	}
	return m.authorizer.current.Load().Rules
}

// evaluated are rules for the method.
type evaluated struct {
	of *intention.Rules
	*intention.Method
}

// under returns what rules say about the calls of fullMethod. Methods that the server does
// not have share a meta, and are evaluated anew each time.
func (m *method) under(rules *intention.Rules, fullMethod string) *intention.Method {
	if fullMethod != m.meta.FullMethod {
		return rules.Method(fullMethod)
	}
	if e := m.evaluated.Load(); e != nil && e.of == rules {
		return e.Method
	}
	e := &evaluated{rules, rules.Method(fullMethod)}
	m.evaluated.Store(e)
	return e.Method
}

// decide decides about the call of fullMethod that is served with ctx.
func (m *method) decide(ctx context.Context, fullMethod string) (principal string, _ *intention.Decision) {
	principal, _ = m.authorizer.verified.Incoming(ctx) // without options it has no error
	rules := m.rules()
	switch {
	case m.open():
		return principal, unwritten
	case rules == nil:
		return principal, neverRead
	case principal == "":
		return "", anonymous
	}
	method := m.under(rules, fullMethod)
	verdict := method.FromID(principal)
	if verdict == nil {
		domain, service, ok := caller.ServiceOf(principal)
		switch want := m.wantDomain(rules); {
		case !ok:
			return principal, noService
		case want != "" && domain != want:
			return principal, foreignDomain
		}
		verdict = method.From(service)
	}
	if !verdict.Conditional() {
		return principal, verdict.Decide(nil)
	}
	return principal, verdict.Decide(func(key string) []string {
		values := metadata.ValueFromIncomingContext(ctx, key)
		if key == caller.SubjectKey && (len(values) != 1 || !m.authorizer.callers.Trusted(ctx)) {
			return nil // who has two subjects has none
		}
		return values
	})
}

func (m *method) wantDomain(rules *intention.Rules) string {
	if m.authorizer.trustDomain != "" {
		return m.authorizer.trustDomain
	}
	return rules.TrustDomain()
}

// admit decides about a call, and returns nil or the error for the caller.
func (m *method) admit(ctx context.Context, fullMethod string) error {
	if m.open() {
		return nil
	}
	principal, decision := m.decide(ctx, fullMethod)
	m.publish(ctx, fullMethod, principal, decision)
	if decision.Allowed {
		m.authorizer.counts.allowed.Add(1)
		return nil
	}
	m.denied(ctx, fullMethod, principal, decision, "a call is denied")
	return errDenied
}

func (m *method) publish(ctx context.Context, fullMethod, principal string, decision *intention.Decision) {
	interceptors.Note(ctx, m.meta, func(h *hop.Hop) {
		h.AddDecision(hop.Decision{Policy: m.authorizer.policyName(), Allowed: decision.Allowed, Rule: decision.Rule, Reason: decision.Reason})
	})
	if m.authorizer.observer == nil {
		return
	}
	e := events.Get().(*Event)
	*e = Event{fullMethod, principal, m.authorizer.policyName(), decision.Rule, decision.Allowed}
	m.authorizer.publisher.Publish(ctx, m.meta, e)
	events.Put(e)
}

// denied counts and logs. What a caller makes up is cut.
func (m *method) denied(ctx context.Context, fullMethod, principal string, decision *intention.Decision, message string) {
	m.authorizer.counts.deny(decision)
	now := time.Now()
	m.authorizer.denials.Settle(now, func(level slog.Level, n uint64) {
		m.authorizer.log.Log(ctx, level, "denials were left out of the log", "service", m.authorizer.destination, "count", n)
	})
	if !m.authorizer.denials.Admit(slog.LevelWarn, now) {
		return
	}
	attrs := []slog.Attr{slog.String("service", m.authorizer.destination), slog.String("method", cut(fullMethod)), slog.String("caller", cut(principal)), slog.String("rule", decision.Rule)}
	if decision.Reason != "" {
		attrs = append(attrs, slog.String("reason", decision.Reason))
	}
	m.authorizer.log.LogAttrs(ctx, slog.LevelWarn, message, attrs...)
}

func cut(text string) string {
	const most = 256
	if len(text) > most {
		text = text[:most] + "..."
	}
	return strings.ToValidUTF8(text, "?")
}

// UnaryServer decides about the calls of one method.
func (a *Authorizer) UnaryServer(meta *interceptors.CallMeta) grpc.UnaryServerInterceptor {
	m := a.methodOf(meta)
	if m == nil || m.open() {
		return nil
	}
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if err := m.admit(ctx, info.FullMethod); err != nil {
			return nil, err
		}
		return handler(ctx, req)
	}
}

// StreamServer decides about the streams of one method, again whenever intentions change.
func (a *Authorizer) StreamServer(meta *interceptors.CallMeta) grpc.StreamServerInterceptor {
	m := a.methodOf(meta)
	if m == nil {
		return nil
	}
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		return m.stream(srv, stream, info.FullMethod, handler)
	}
}

// UnaryServerInterceptor is for use without a chain.
func (a *Authorizer) UnaryServerInterceptor(policies *interceptors.Policies) grpc.UnaryServerInterceptor {
	return interceptors.Alone(interceptors.Server, policies, a).UnaryServer()
}

// StreamServerInterceptor is for use without a chain.
func (a *Authorizer) StreamServerInterceptor(policies *interceptors.Policies) grpc.StreamServerInterceptor {
	return interceptors.Alone(interceptors.Server, policies, a).StreamServer()
}
