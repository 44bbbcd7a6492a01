package meshlite_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/identity/intention"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/authz"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

func authorizedBy(t testing.TB, opts ...authz.Option) *authz.Authorizer {
	t.Helper()
	a, err := authz.New("catalog", append([]authz.Option{authz.WithLogger(silent)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

// identified are credentials of a service, by the agent's CA.
func (m *mesh) identified(service string, opts ...identity.Option) meshlite.Option {
	m.t.Helper()
	source, err := m.directory.Identity(service)
	if err != nil {
		m.t.Fatal(err)
	}
	mtls, err := identity.New(source, opts...)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(mtls.Close)
	return meshlite.WithTransportCredentials(mtls)
}

// Intentions decide before a cached answer is read, whoever asks for it.
//
// Case C3
// Case X13
// Case I7
func TestIntentionsDecideBeforeTheCache(t *testing.T) {
	m := newMesh(t)
	if err := m.agent.SetIntentions("catalog", `[{"Name":"web","Action":"allow"},{"Name":"*","Action":"deny"}]`); err != nil {
		t.Fatal(err)
	}
	authorized, answers := authorizedBy(t, authz.WithWatcher(m.directory)), newAnswers(t)
	public := meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{
		Cache: &policyv1.CacheRule{Ttl: proto.String("1 hour"), Side: policyv1.Side_SIDE_SERVER, Scope: policyv1.CacheScope_CACHE_SCOPE_PUBLIC},
	}})
	served := m.serveSecured(&shop{name: "a"}, m.identified("catalog", identity.WithPermissive()), public,
		meshlite.WithCache(answers), meshlite.WithInterceptors(authorized), meshlite.WithRuntime(m.runtime))
	asked := func(service string) (codes.Code, catalogv1.CatalogServiceClient) {
		t.Helper()
		secured := meshlite.WithPlaintext()
		if service != "" {
			secured = m.identified(service)
		}
		conn, err := meshlite.NewClient("consul:///catalog", uncached(), secured,
			meshlite.WithDirectory(m.directory), meshlite.WithRuntime(newRuntime(t)), meshlite.WithLogger(silent))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		client := catalogv1.NewCatalogServiceClient(conn)
		return codeOf(t, client), client
	}
	for authorized.Stats().ReadAt.IsZero() {
		time.Sleep(time.Millisecond)
	}
	code, web := asked("web")
	if code != codes.OK || served.calls.Load() != 1 {
		t.Fatalf("web: %v, %d calls", code, served.calls.Load())
	}
	before := answers.Stats()
	for _, service := range []string{"ops", ""} {
		if code, _ := asked(service); code != codes.PermissionDenied {
			t.Errorf("%q: %v", service, code)
		}
	}
	if code, _ := asked("catalog"); code != codes.PermissionDenied {
		t.Errorf("itself: %v", code)
	}
	if now := answers.Stats(); served.calls.Load() != 1 || now.Hits != before.Hits || now.Misses != before.Misses {
		t.Errorf("%d calls of the handler, cache %+v, before %+v", served.calls.Load(), now.Counts, before.Counts)
	}
	if code := codeOf(t, web); code != codes.OK || answers.Stats().Hits != before.Hits+1 {
		t.Errorf("web: %v, cache %+v", code, answers.Stats().Counts)
	}
	// The connection stays, its next calls are denied.
	if err := m.agent.SetIntentions("catalog", `[{"Name":"*","Action":"deny"}]`); err != nil {
		t.Fatal(err)
	}
	for codeOf(t, web) != codes.PermissionDenied { // until the test's own time is up
		time.Sleep(10 * time.Millisecond)
	}
	if served.calls.Load() != 1 {
		t.Errorf("%d calls of the handler", served.calls.Load())
	}
	if n, _ := measured(t, m.runtime, "meshlite_authz_calls_total", "result=denied_by_rule"); n < 2 {
		t.Errorf("%v denials are in the metrics", n)
	}
}

func codeOf(t testing.TB, client catalogv1.CatalogServiceClient) codes.Code {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := client.GetSweet(ctx, &catalogv1.GetSweetRequest{Id: "x"})
	return status.Code(err)
}

func newAnswers(t testing.TB) *cache.Cache {
	t.Helper()
	answers, err := cache.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(answers.Close)
	return answers
}

// Only what authorizes, and interceptors of the user's own, come by WithInterceptors.
func TestInterceptorsOfOtherKindsAreRefused(t *testing.T) {
	authorized := authorizedBy(t, authz.WithIntentions(intention.Set{}))
	for want, opts := range map[string]meshlite.Options{
		`WithInterceptors "nil": leave the option out`:    {meshlite.WithInterceptors(nil)},
		`WithInterceptors "tracing": give`:                {meshlite.WithInterceptors(tracer("x"))},
		"authorization is given twice: leave one of them": {meshlite.WithInterceptors(authorized), meshlite.WithInterceptors(authorized)},
	} {
		if _, err := meshlite.NewServer("catalog", append(opts, meshlite.WithPlaintext())); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := meshlite.NewClient("consul:///catalog", meshlite.WithPlaintext(), meshlite.WithInterceptors(authorized)); err == nil || !strings.Contains(err.Error(), "authorization has no part on the client side") {
		t.Error(err)
	}
	var _ interceptors.Concern = authorized
}

// The agent is that of the environment, as everywhere.
func TestConsulIntentionsAreOfTheEnvironmentsAgent(t *testing.T) {
	if _, err := meshlite.ConsulIntentions("*"); err == nil {
		t.Error("every service is a destination")
	}
	authorized, err := meshlite.ConsulIntentions("catalog", authz.WithLogger(silent))
	if err != nil {
		t.Fatal(err)
	}
	authorized.Close()
	if s := authorized.Stats(); s.Service != "catalog" {
		t.Errorf("stats are %+v", s)
	}
}

// A server with an identity of Consul's denies whom no intention allows, and registers once it
// has read them. It is native to Consul's mesh.
func TestAnIdentityOfConsulsEnforcesIntentions(t *testing.T) {
	m := newMesh(t)
	if err := m.agent.SetIntentions("catalog", `[{"Name":"*","Action":"deny"}]`); err != nil {
		t.Fatal(err)
	}
	served := m.serveSecured(&shop{name: "a"}, m.identified("catalog", identity.WithLogger(silent)))
	client := tlsClient(t, m, "consul:///catalog", []meshlite.ClientOption{uncached(), m.identified("storefront")})
	if code := codeOf(t, client); code != codes.PermissionDenied || served.calls.Load() != 0 {
		t.Errorf("no intention allows the storefront: %v, and the handler ran %d times", code, served.calls.Load())
	}
	if err := m.agent.SetIntentions("catalog", `[{"Name":"storefront","Action":"allow"},{"Name":"*","Action":"deny"}]`); err != nil {
		t.Fatal(err)
	}
	for codeOf(t, client) != codes.OK { // until the test's own time is up
		time.Sleep(10 * time.Millisecond)
	}
	if code := codeOf(t, tlsClient(t, m, "consul:///catalog", []meshlite.ClientOption{uncached(), m.identified("ops")})); code != codes.PermissionDenied {
		t.Errorf("ops: %v", code)
	}
}

// A permissive server, one that is said to let all call, and one that is given another concern
// do not enforce them.
func TestIntentionsAreNotEnforcedTwiceOrWhilePermissive(t *testing.T) {
	for name, test := range map[string]struct {
		options []identity.Option
		with    meshlite.Options
		warns   bool
	}{
		"permissive":      {options: []identity.Option{identity.WithPermissive()}, warns: true},
		"turned off":      {options: []identity.Option{identity.WithoutIntentions()}, warns: true},
		"another concern": {with: meshlite.Options{meshlite.WithInterceptors(authorizedBy(t, authz.WithIntentions(intention.Set{Default: intention.Allow})))}},
	} {
		t.Run(name, func(t *testing.T) {
			m, log := newMesh(t), &logged{}
			if err := m.agent.SetIntentions("catalog", `[{"Name":"*","Action":"deny"}]`); err != nil {
				t.Fatal(err)
			}
			m.serveSecured(&shop{name: "a"}, m.identified("catalog", append(test.options, identity.WithLogger(silent))...), test.with,
				meshlite.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
			if code := codeOf(t, tlsClient(t, m, "consul:///catalog", []meshlite.ClientOption{uncached(), m.identified("storefront")})); code != codes.OK {
				t.Errorf("the storefront: %v", code)
			}
			if warns := log.line("intentions are not enforced") != ""; warns != test.warns {
				t.Errorf("the log warns: %v", warns)
			}
		})
	}
}

// A server whose intentions cannot be read does not register, and says why. One that never runs
// watches nothing: TestMain looks for goroutines.
func TestAServerRegistersWhenItHasItsIntentions(t *testing.T) {
	m, log := newMesh(t), &logged{}
	repair := m.agent.Inject(consultest.ServerError(500, "out of order").On("/v1/connect/intentions/match"))
	if _, err := meshlite.NewServer("catalog", m.identified("catalog"), meshlite.WithDirectory(m.directory), meshlite.WithLogger(silent), meshlite.WithRuntime(newRuntime(t))); err != nil {
		t.Fatal(err)
	}
	_, stop := secured(t, m.directory, log, m.identified("catalog", identity.WithLogger(silent)))
	defer stop()
	for log.line("cannot start yet") == "" { // until the test's own time is up
		time.Sleep(5 * time.Millisecond)
	}
	for len(log.line("intentions about")) == 0 {
		time.Sleep(5 * time.Millisecond)
	}
	if n := len(m.instances("catalog")); n != 0 {
		t.Errorf("%d instances without intentions", n)
	}
	repair()
	for len(m.instances("catalog")) == 0 {
		time.Sleep(5 * time.Millisecond)
	}
}
