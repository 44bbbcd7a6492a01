package authz_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/authz"
	"github.com/meshlite-go/meshlite/internal/racetest"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	_ "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1" // a contract to be linked with
)

func policiesOf(t testing.TB, builder *policyv1.ServicePolicy) *interceptors.Policies {
	t.Helper()
	policies, err := interceptors.NewPolicies(builder)
	if err != nil {
		t.Fatal(err)
	}
	return policies
}

const (
	allowed = policyv1.IntentionAction_INTENTION_ACTION_ALLOW
	denied  = policyv1.IntentionAction_INTENTION_ACTION_DENY
)

func intentions(sources ...*policyv1.SourceIntention) *policyv1.ServicePolicy {
	return &policyv1.ServicePolicy{Intentions: &policyv1.Intentions{Sources: sources}}
}

func source(name string, action policyv1.IntentionAction, permissions ...*policyv1.IntentionPermission) *policyv1.SourceIntention {
	return &policyv1.SourceIntention{Name: name, Action: action, Permissions: permissions}
}

// callUnder calls a method whose policy is that of policies.
func callUnder(t testing.TB, a *authz.Authorizer, policies *interceptors.Policies, spiffe, fullMethod string, md metadata.MD) bool {
	t.Helper()
	ran := false
	ctx := metadata.NewIncomingContext(calledBy(t, spiffe), md)
	_, err := a.UnaryServerInterceptor(policies)(ctx, nil, &grpc.UnaryServerInfo{FullMethod: fullMethod}, func(context.Context, any) (any, error) { ran = true; return nil, nil })
	if ran == (err != nil) || err != nil && status.Code(err) != codes.PermissionDenied {
		t.Errorf("%s by %s: handler ran: %t, %v", fullMethod, spiffe, ran, err)
	}
	return ran
}

// A list of rules in a policy decides as the same list of Consul's does.
func TestThePolicyDecidesWithoutConsul(t *testing.T) {
	const workload, list = "spiffe://spire.example/shop/till", "/sweetshop.catalog.v1.CatalogService/ListSweets"
	policies := policiesOf(t, intentions(
		source("*", denied), // an exact source comes first
		source("web", allowed),
		source("ops", 0,
			&policyv1.IntentionPermission{Action: denied, Headers: []*policyv1.IntentionHeader{{Name: "Tenant", Match: &policyv1.IntentionHeader_Prefix{Prefix: "B"}, IgnoreCase: true}}},
			&policyv1.IntentionPermission{Action: allowed, Path: &policyv1.IntentionPermission_PathExact{PathExact: getSweet}, Methods: []string{"GET", "POST"}}),
		source(workload, allowed),
		source(id("gone"), denied), source("gone", allowed), // the whole id comes first
	))
	log, seen := &journal{}, []authz.Event{}
	a := newAuthorizer(t, log.logger(), authz.WithPolicy(), authz.WithObserver(interceptors.ObserverFunc(
		func(_ context.Context, _ *interceptors.CallMeta, e interceptors.Event) {
			seen = append(seen, *e.(*authz.Event))
		})))
	for _, test := range []struct {
		spiffe, method, tenant string
		want                   bool
	}{
		{id("web"), list, "", true}, {id("web"), getSweet, "", true}, {id("stranger"), getSweet, "", false},
		{id("ops"), getSweet, "a", true}, {id("ops"), getSweet, "berlin", false}, {id("ops"), list, "a", false},
		{workload, list, "", true}, {workload + "s", list, "", false}, {"spiffe://spire.example/shop", list, "", false},
		{id("gone"), list, "", false}, {"spiffe://other.consul/ns/default/dc/dc1/svc/gone", list, "", true}, // TLS has verified the domain
		{"", list, "", false}, {"https://example.com/web", list, "", false},
		{id("stranger"), "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "", false},
		{"", "/grpc.health.v1.Health/Check", "", true},
	} {
		if ran := callUnder(t, a, policies, test.spiffe, test.method, metadata.Pairs("tenant", test.tenant)); ran != test.want {
			t.Errorf("%s by %q, tenant %q: handler ran: %t, want %t", test.method, test.spiffe, test.tenant, ran, test.want)
		}
	}
	if want := (authz.Event{FullMethodName: list, Principal: id("web"), PolicyName: authz.OwnPolicyName, MatchedRule: "web => catalog", Authorized: true}); seen[0] != want {
		t.Errorf("the event is %+v, want %+v", seen[0], want)
	}
	// What the contract has is compiled once for all of its methods.
	s := a.Stats()
	if s.Policy != authz.OwnPolicyName || s.Allowed != 5 || s.Denied != (authz.Denials{Rule: 4, Default: 1, Identity: 4}) || s.Intentions != 2*6 || s.ReadAt.IsZero() || s.Failing {
		t.Errorf("stats are %+v", s)
	}
	for _, want := range []string{`rule="ops => catalog permission 1"`, "no verified certificate", "caller=" + workload + "s"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%q is not in the log:\n%s", want, log)
		}
	}
	if err := a.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

// Case I12
func TestWithoutIdentityThePolicyDeniesWhateverItSays(t *testing.T) {
	everybody := intentions(source("*", allowed))
	everybody.Intentions.Default = allowed.Enum()
	a := newAuthorizer(t, (&journal{}).logger(), authz.WithPolicy())
	policies := policiesOf(t, everybody)
	claims := metadata.MD{"x-meshlite-subject": {id("web")}, "x-forwarded-client-cert": {"URI=" + id("web")}}
	if callUnder(t, a, policies, "", getSweet, claims) {
		t.Error("a caller without a certificate is allowed")
	}
	if !callUnder(t, a, policies, id("web"), getSweet, nil) {
		t.Error("a service is denied")
	}
	// Without intentions nobody is asked.
	if !callUnder(t, a, policiesOf(t, nil), "", getSweet, nil) {
		t.Error("a policy without intentions denies")
	}
	if s := a.Stats(); s.Allowed != 1 || s.Denied != (authz.Denials{Identity: 1}) || s.Intentions != 0 {
		t.Errorf("stats are %+v", s)
	}
	foreign := newAuthorizer(t, (&journal{}).logger(), authz.WithPolicy(), authz.WithTrustDomain("spire.example"))
	if callUnder(t, foreign, policies, id("web"), getSweet, nil) {
		t.Error("a caller of another trust domain is allowed")
	}
}

// Case I7
func TestAChangeOfThePolicyEndsOpenStreams(t *testing.T) {
	for name, first := range map[string]*policyv1.ServicePolicy{
		"after a rule":              intentions(source("web", allowed)),
		"before there was any rule": nil,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				policies := policiesOf(t, first)
				a := newAuthorizer(t, (&journal{}).logger(), authz.WithPolicy())
				ended := make(chan error, 2)
				conn := servedUnder(t, policies, "web", func(_ any, s grpc.ServerStream) error {
					err := s.RecvMsg(&emptypb.Empty{})
					ended <- err
					return err
				}, a)
				stream := open(t, conn)
				synctest.Wait()
				for _, harmless := range []*policyv1.ServicePolicy{intentions(source("web", allowed), source("ops", denied)), nil} {
					if err := policies.SetOperator(harmless); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
				}
				if s := a.Stats(); s.Streams != 1 || s.Revoked != 0 {
					t.Fatalf("stats are %+v", s)
				}
				if err := policies.SetOperator(intentions(source("web", denied))); err != nil {
					t.Fatal(err)
				}
				if err := stream.RecvMsg(&emptypb.Empty{}); status.Code(err) != codes.PermissionDenied {
					t.Errorf("the stream ends with %v", err)
				}
				<-ended
				if err := open(t, conn).RecvMsg(&emptypb.Empty{}); status.Code(err) != codes.PermissionDenied {
					t.Errorf("the next stream ends with %v", err)
				}
				if s := a.Stats(); s.Revoked != 1 || s.Denied.Rule != 2 {
					t.Errorf("stats are %+v", s)
				}
			})
		})
	}
}

// A call must pass Consul's intentions and those of the policy.
func TestBothListsMustAllow(t *testing.T) {
	consul := newAuthorizer(t, (&journal{}).logger(), authz.WithIntentions(allow("web", "ops")))
	own := newAuthorizer(t, (&journal{}).logger(), authz.WithPolicy())
	policies := policiesOf(t, intentions(source("web", allowed), source("till", allowed)))
	for _, order := range [][]interceptors.Concern{{consul, own}, {own, consul}} {
		chain, err := interceptors.Chain(interceptors.Server, policies, order...)
		if err != nil {
			t.Fatal(err)
		}
		for service, want := range map[string]bool{"web": true, "ops": false, "till": false} {
			ran := false
			_, _ = chain.UnaryServer()(calledBy(t, id(service)), nil, &grpc.UnaryServerInfo{FullMethod: getSweet}, func(context.Context, any) (any, error) { ran = true; return nil, nil })
			if ran != want {
				t.Errorf("%s: handler ran: %t, want %t", service, ran, want)
			}
		}
	}
}

// Permissions see a subject that a trusted peer forwards, and only one.
func TestASubjectCountsFromTrustedPeersAlone(t *testing.T) {
	callers, err := caller.New(caller.WithForwardedSubject(), caller.WithTrustedIdentities(id("gateway")))
	if err != nil {
		t.Fatal(err)
	}
	header := func(h *policyv1.IntentionHeader) *policyv1.IntentionPermission {
		h.Name = "X-Meshlite-Subject"
		return &policyv1.IntentionPermission{Action: allowed, Path: &policyv1.IntentionPermission_PathExact{PathExact: getSweet}, Headers: []*policyv1.IntentionHeader{h}}
	}
	alice := header(&policyv1.IntentionHeader{Match: &policyv1.IntentionHeader_Contains{Contains: "alice"}})
	nobody := header(&policyv1.IntentionHeader{Match: &policyv1.IntentionHeader_Present{Present: true}, Invert: true})
	policies := policiesOf(t, intentions(source("*", 0, alice), source("anonymous", 0, nobody)))
	trusting := newAuthorizer(t, (&journal{}).logger(), authz.WithPolicy(), authz.WithCallers(callers))
	trustless := newAuthorizer(t, (&journal{}).logger(), authz.WithPolicy())
	for _, test := range []struct {
		a        *authz.Authorizer
		by       string
		subjects []string
		want     bool
	}{
		{trusting, "gateway", []string{"alice"}, true},
		{trusting, "gateway", []string{"bob"}, false},
		{trusting, "gateway", []string{"alice", "bob"}, false},
		{trusting, "gateway", []string{"bob", "alice"}, false},
		{trusting, "gateway", nil, false},
		{trusting, "web", []string{"alice"}, false},
		{trusting, "anonymous", []string{"alice"}, true}, // for whom it may call, it has none
		{trustless, "gateway", []string{"alice"}, false},
	} {
		if ran := callUnder(t, test.a, policies, id(test.by), getSweet, metadata.MD{caller.SubjectKey: test.subjects}); ran != test.want {
			t.Errorf("%s for %q: handler ran: %t, want %t", test.by, test.subjects, ran, test.want)
		}
	}
}

func TestADecisionByThePolicyAllocatesNothing(t *testing.T) {
	var sources []*policyv1.SourceIntention
	for n := range 1000 {
		sources = append(sources, source(fmt.Sprintf("s-%d", n), allowed), source(fmt.Sprintf("spiffe://spire.example/shop/s-%d", n), allowed))
	}
	a := newAuthorizer(t, (&journal{}).logger(), authz.WithPolicy())
	meta := policiesOf(t, intentions(append(sources, source("*", allowed))...)).Call(interceptors.Server, getSweet)
	part, info := a.UnaryServer(meta), &grpc.UnaryServerInfo{FullMethod: getSweet}
	for _, spiffe := range []string{id("s-500"), id("stranger"), "spiffe://spire.example/shop/s-500"} {
		ctx := calledBy(t, spiffe)
		if got := testing.AllocsPerRun(1000, func() { _, _ = part(ctx, nil, info, nothing) }); got != 0 && !racetest.Enabled {
			t.Errorf("%s: %v allocations, want none", spiffe, got)
		}
	}
	if s := a.Stats(); s.Allowed == 0 || s.Denied != (authz.Denials{}) {
		t.Errorf("stats are %+v", s)
	}
}
