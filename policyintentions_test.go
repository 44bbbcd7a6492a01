package meshlite_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/internal/certtest"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

const (
	allowed = policyv1.IntentionAction_INTENTION_ACTION_ALLOW
	denied  = policyv1.IntentionAction_INTENTION_ACTION_DENY
)

func withIntentions(sources ...*policyv1.SourceIntention) *policyv1.ServicePolicy {
	return &policyv1.ServicePolicy{Intentions: &policyv1.Intentions{Sources: sources}}
}

// kept has public answers stored by the server for an hour.
func kept(policy *policyv1.ServicePolicy) meshlite.Option {
	policy.Default = &policyv1.MethodPolicy{Cache: &policyv1.CacheRule{
		Ttl: proto.String("1 hour"), Side: policyv1.Side_SIDE_SERVER, Scope: policyv1.CacheScope_CACHE_SCOPE_PUBLIC,
	}}
	return meshlite.WithPolicy(policy)
}

// An answer that is stored for one caller is given to no other that the policy denies.
//
// Case C3
// Case X13
func TestIntentionsOfThePolicyDecideBeforeTheCache(t *testing.T) {
	m, log := newMesh(t), &logged{}
	served := m.serveSecured(&shop{name: "a"}, m.identified("catalog", identity.WithoutIntentions(), identity.WithLogger(silent)),
		kept(withIntentions(&policyv1.SourceIntention{Name: "web", Action: allowed})), meshlite.WithRuntime(m.runtime),
		meshlite.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
	for range 2 {
		for service, want := range map[string]codes.Code{"web": codes.OK, "ops": codes.PermissionDenied} {
			if code := codeOf(t, tlsClient(t, m, "consul:///catalog", []meshlite.ClientOption{uncached(), m.identified(service)})); code != want {
				t.Errorf("%s: %v, want %v", service, code, want)
			}
		}
	}
	if n := served.calls.Load(); n != 1 {
		t.Errorf("the handler ran %d times, want once", n)
	}
	if line := log.line("a call is denied"); !strings.Contains(line, "svc/ops") || !strings.Contains(line, "rule=default") {
		t.Errorf("the denial is logged as %q", line)
	}
	if log.line("are not enforced") != "" || log.line("in plaintext are denied") != "" {
		t.Errorf("the log warns of nothing:\n%s", log)
	}
	if n, _ := measured(t, m.runtime, "meshlite_authz_calls_total", "service=catalog", "result=denied_by_default"); n != 2 {
		t.Errorf("%v denials are in the metrics, want 2", n)
	}
}

// Where Consul's intentions are enforced, too, both must allow.
func TestThePolicyOpensNothingThatConsulDenies(t *testing.T) {
	m := newMesh(t)
	if err := m.agent.SetIntentions("catalog", `[{"Name":"web","Action":"allow"},{"Name":"ops","Action":"allow"},{"Name":"*","Action":"deny"}]`); err != nil {
		t.Fatal(err)
	}
	m.serveSecured(&shop{name: "a"}, m.identified("catalog", identity.WithLogger(silent)), meshlite.WithPolicy(withIntentions(
		&policyv1.SourceIntention{Name: "web", Action: allowed}, &policyv1.SourceIntention{Name: "till", Action: allowed})))
	for service, want := range map[string]codes.Code{"web": codes.OK, "ops": codes.PermissionDenied, "till": codes.PermissionDenied} {
		if code := codeOf(t, tlsClient(t, m, "consul:///catalog", []meshlite.ClientOption{uncached(), m.identified(service)})); code != want {
			t.Errorf("%s: %v, want %v", service, code, want)
		}
	}
}

// Without verified callers a policy with intentions denies all, and an error says so when the
// server starts. Only who writes it turns that off.
func TestWithoutIdentityIntentionsDenyAndSayIt(t *testing.T) {
	everybody := withIntentions(&policyv1.SourceIntention{Name: "*", Action: allowed})
	everybody.Intentions.Default = allowed.Enum()
	off := withIntentions(&policyv1.SourceIntention{Name: "web", Action: denied})
	off.Intentions.Disabled = proto.Bool(true)
	for name, test := range map[string]struct {
		policy  *policyv1.ServicePolicy
		secured func(*mesh) meshlite.Option
		want    codes.Code
	}{
		"plaintext":  {everybody, func(*mesh) meshlite.Option { return meshlite.WithPlaintext() }, codes.PermissionDenied},
		"permissive": {everybody, func(m *mesh) meshlite.Option { return m.identified("catalog", identity.WithPermissive()) }, codes.PermissionDenied},
		"disabled":   {off, func(*mesh) meshlite.Option { return meshlite.WithPlaintext() }, codes.OK},
		"none":       {nil, func(*mesh) meshlite.Option { return meshlite.WithPlaintext() }, codes.OK},
	} {
		t.Run(name, func(t *testing.T) {
			m, log := newMesh(t), &logged{}
			m.serveSecured(&shop{name: "a"}, test.secured(m), meshlite.WithPolicy(test.policy), meshlite.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
			client, _ := m.client("consul:///catalog")
			if code := codeOf(t, client); code != test.want {
				t.Errorf("a caller in plaintext: %v, want %v", code, test.want)
			}
			line := log.line("callers in plaintext are denied")
			if says := strings.Contains(line, "sweetshop.catalog.v1.CatalogService") && strings.Contains(line, "disabled: true"); says != (test.want != codes.OK) {
				t.Errorf("the log says %q", line)
			}
		})
	}
}

// Callers of another authority than Consul's are who their whole SPIFFE ids say.
func TestThePolicyKnowsCallersOfOtherAuthorities(t *testing.T) {
	m, authority := newMesh(t), certtest.New(t)
	workload := func(path string) meshlite.Option {
		leaf := authority.IssueID(t, time.Hour, "spiffe://spire.example"+path)
		current, err := identity.NewSPIFFESnapshot(leaf, []*x509.Certificate{authority.Certificate()})
		if err != nil {
			t.Fatal(err)
		}
		source := &identity.Feed{}
		source.Publish(current)
		mtls, err := identity.New(source, identity.WithServerIDs(map[string]string{"catalog": "spiffe://spire.example/shop/catalog"}), identity.WithLogger(silent))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(mtls.Close)
		return meshlite.WithTransportCredentials(mtls)
	}
	m.serveSecured(&shop{name: "a"}, workload("/shop/catalog"), meshlite.WithHealthListener(""), meshlite.WithPolicy(withIntentions(
		&policyv1.SourceIntention{Name: "spiffe://spire.example/shop/till", Action: allowed}, &policyv1.SourceIntention{Name: "*", Action: allowed})))
	for path, want := range map[string]codes.Code{"/shop/till": codes.OK, "/shop/tills": codes.PermissionDenied, "/ns/default/dc/dc1/svc/web": codes.OK} {
		if code := codeOf(t, tlsClient(t, m, "consul:///catalog", []meshlite.ClientOption{uncached(), workload(path)})); code != want {
			t.Errorf("%s: %v, want %v", path, code, want)
		}
	}
}

// counter answers with the subject, and counts by it.
type counter struct {
	greeter
	mu    sync.Mutex
	calls map[string]int
}

func (c *counter) name(ctx context.Context) string {
	subject := strings.Join(metadata.ValueFromIncomingContext(ctx, caller.SubjectKey), ",")
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls == nil {
		c.calls = map[string]int{}
	}
	c.calls[subject]++
	return subject
}

func (c *counter) GetSweet(ctx context.Context, req *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
	return &catalogv1.GetSweetResponse{Sweet: &catalogv1.Sweet{Id: req.GetId(), Name: c.name(ctx)}}, nil
}

func (c *counter) ListSweets(ctx context.Context, _ *catalogv1.ListSweetsRequest) (*catalogv1.ListSweetsResponse, error) {
	return &catalogv1.ListSweetsResponse{Sweets: []*catalogv1.Sweet{{Name: c.name(ctx)}}}, nil
}

func (c *counter) ListSections(ctx context.Context, _ *catalogv1.ListSectionsRequest) (*catalogv1.ListSectionsResponse, error) {
	return &catalogv1.ListSectionsResponse{Sections: []*catalogv1.Section{{Name: c.name(ctx)}}}, nil
}

const catalogService = "/sweetshop.catalog.v1.CatalogService/"

// subjectMay allows a method to calls for a subject, "" being any.
func subjectMay(subject, method string) *policyv1.IntentionPermission {
	header := &policyv1.IntentionHeader{Name: caller.SubjectKey, Match: &policyv1.IntentionHeader_Present{Present: true}}
	if subject != "" {
		header.Match = &policyv1.IntentionHeader_Exact{Exact: subject}
	}
	return &policyv1.IntentionPermission{
		Action: allowed, Path: &policyv1.IntentionPermission_PathExact{PathExact: catalogService + method}, Headers: []*policyv1.IntentionHeader{header},
	}
}

// Two users behind one gateway, which is known by its SPIFFE id: what they may call, the answers
// that are stored for them and their limits are apart, by the subject that it forwards. Nobody
// else is believed, not even who may call.
//
// Case C1
func TestUsersOfOneGatewayHaveTheirOwnPermissions(t *testing.T) {
	m := newMesh(t)
	callers, err := caller.New(caller.WithForwardedSubject(), caller.WithTrustedIdentities("spiffe://*/ns/default/dc/dc1/svc/gateway"))
	if err != nil {
		t.Fatal(err)
	}
	const limit = 5
	all := []*policyv1.IntentionPermission{subjectMay("alice", "GetSweet"), subjectMay("bob", "ListSweets"), subjectMay("", "ListSections")}
	policy := withIntentions(
		&policyv1.SourceIntention{Name: "gateway", Permissions: all},
		&policyv1.SourceIntention{Name: "web", Permissions: all}) // which is no gateway
	private := &policyv1.CacheRule{Ttl: proto.String("1 hour"), Side: policyv1.Side_SIDE_SERVER, Scope: policyv1.CacheScope_CACHE_SCOPE_PRIVATE}
	policy.Methods = map[string]*policyv1.MethodPolicy{
		"GetSweet": {Cache: private}, "ListSweets": {Cache: private},
		"ListSections": {Cache: private, RateLimits: []*policyv1.RateLimitRule{{
			Name: "each", Limit: proto.Uint64(limit), Period: proto.String("1 hour"), MissingKey: policyv1.MissingKey_MISSING_KEY_REFUSE,
			Key: &policyv1.RateLimitKey{By: &policyv1.RateLimitKey_Identity{Identity: &policyv1.IdentityKey{}}},
		}}},
	}
	handler := &counter{}
	m.serveCatalog(handler, m.identified("catalog", identity.WithLogger(silent)), meshlite.WithPolicy(policy), meshlite.WithRuntime(configured(t, meshlite.RuntimeConfig{Callers: callers})))

	gateway := tlsClient(t, m, "consul:///catalog", []meshlite.ClientOption{uncached(), m.identified("gateway")})
	web := tlsClient(t, m, "consul:///catalog", []meshlite.ClientOption{uncached(), m.identified("web")})
	// asked says how a call for a subject ends, and for whom the answer was made.
	asked := func(client catalogv1.CatalogServiceClient, subject, method string) string {
		ctx, cancel := context.WithTimeout(onBehalf(t, subject), time.Minute)
		defer cancel()
		var name string
		var err error
		switch method {
		case "GetSweet":
			var reply *catalogv1.GetSweetResponse
			reply, err = client.GetSweet(ctx, &catalogv1.GetSweetRequest{Id: "x"})
			name = reply.GetSweet().GetName()
		case "ListSweets":
			var reply *catalogv1.ListSweetsResponse
			if reply, err = client.ListSweets(ctx, &catalogv1.ListSweetsRequest{}); err == nil {
				name = reply.GetSweets()[0].GetName()
			}
		case "ListSections":
			var reply *catalogv1.ListSectionsResponse
			if reply, err = client.ListSections(ctx, &catalogv1.ListSectionsRequest{}); err == nil {
				name = reply.GetSections()[0].GetName()
			}
		}
		if err != nil {
			return status.Code(err).String()
		}
		return name
	}
	var running sync.WaitGroup
	for subject, want := range map[string]map[string]string{
		"alice":   {"GetSweet": "alice", "ListSweets": "PermissionDenied"},
		"bob":     {"GetSweet": "PermissionDenied", "ListSweets": "bob"},
		"mallory": {"GetSweet": "PermissionDenied", "ListSweets": "PermissionDenied"},
		"":        {"GetSweet": "PermissionDenied", "ListSweets": "PermissionDenied", "ListSections": "PermissionDenied"},
	} {
		running.Go(func() {
			for range 3 {
				for method, want := range want {
					if got := asked(gateway, subject, method); got != want {
						t.Errorf("%s for %q by the gateway: %s, want %s", method, subject, got, want)
					}
				}
			}
		})
	}
	for _, subject := range []string{"alice", "bob"} {
		running.Go(func() {
			for n := range limit + 2 {
				want := subject
				if n >= limit {
					want = "ResourceExhausted"
				}
				if got := asked(gateway, subject, "ListSections"); got != want {
					t.Errorf("call %d of ListSections for %s: %s, want %s", n+1, subject, got, want)
				}
			}
		})
		for _, method := range []string{"GetSweet", "ListSweets", "ListSections"} {
			running.Go(func() {
				if got := asked(web, subject, method); got != "PermissionDenied" {
					t.Errorf("%s for %s by web, which is no gateway: %s", method, subject, got)
				}
			})
		}
	}
	running.Wait()
	// Each answer was made once for its user, and twice for none.
	if got := fmt.Sprint(handler.calls); got != "map[alice:2 bob:2]" {
		t.Errorf("the handlers ran %s, want twice for each user", got)
	}
}
