package meshlite_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/identity/intention"
	"github.com/meshlite-go/meshlite/interceptors/authz"
	"github.com/meshlite-go/meshlite/internal/certtest"
	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// identityOf is what Consul's CA of a directory signs for service.
func identityOf(t *testing.T, directory *consul.Directory, service string, opts ...identity.Option) *identity.Credentials {
	t.Helper()
	source, err := directory.Identity(service)
	if err != nil {
		t.Fatal(err)
	}
	mtls, err := identity.New(source, append([]identity.Option{identity.WithLogger(silent)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mtls.Close)
	return mtls
}

// recordCaller is an interceptor that stores who calls.
func recordCaller(callers *caller.Callers, last *atomic.Value) meshlite.ServerOption {
	return meshlite.WithServerOptions(grpc.ChainUnaryInterceptor(
		func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			identity, err := callers.Incoming(ctx)
			if err != nil {
				return nil, err
			}
			last.Store(identity)
			return handler(ctx, request)
		}))
}

func TestConsulsCASecuresBothEnds(t *testing.T) {
	m := newMesh(t)
	mtls := identityOf(t, m.directory, "catalog")
	s := &shop{name: "a"}
	m.serveSecured(s, meshlite.WithTransportCredentials(mtls))
	client := tlsClient(t, m, "consul:///catalog", []meshlite.ClientOption{meshlite.WithTransportCredentials(identityOf(t, m.directory, "storefront"))})
	if got := get(t, client, "one"); got != "a" {
		t.Errorf("the answer is %q", got)
	}
	if stats := mtls.Stats(); stats.Servers != 1 || len(stats.Refused) != 0 {
		t.Errorf("the self-check or the call was refused: %+v", stats)
	}
	handler, err := m.runtime.Handler()
	if err != nil {
		t.Fatal(err)
	}
	page := httptest.NewRecorder()
	handler.ServeHTTP(page, localRequest(http.MethodGet, "/debug/meshlite", nil))
	if !strings.Contains(page.Body.String(), "/svc/storefront") {
		t.Errorf("the admin page has no identity: %s", page.Body)
	}
}

// Case X13: A caller without a valid certificate, or without an intention that allows it,
// runs no handler and reads no cache entry. Each has a log line of its own.
func TestACallerWithoutAnIdentityReachesNothing(t *testing.T) {
	const id = "spiffe://test.consul/ns/default/dc/dc1/svc/"
	m := newMesh(t)
	authority := certtest.New(t)
	log := &logged{}
	logger := slog.New(slog.NewTextHandler(log, nil))
	mtls, err := identity.New(fed(madeSnapshot(t, authority, time.Hour, "catalog")), identity.WithLogger(logger))
	if err != nil {
		t.Fatal(err)
	}
	authorized, err := authz.New("catalog", authz.WithLogger(logger), authz.WithIntentions(intention.Set{
		TrustDomain: "test.consul",
		Intentions:  []intention.Intention{{Source: "storefront", Destination: "catalog", Action: intention.Allow}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(authorized.Close)
	answers := newAnswers(t)
	s := m.serveSecured(&shop{name: "a"}, meshlite.WithTransportCredentials(mtls), meshlite.WithInterceptors(authorized), meshlite.WithCache(answers),
		meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{
			Cache: &policyv1.CacheRule{Ttl: proto.String("1 hour"), Side: policyv1.Side_SIDE_SERVER, Scope: policyv1.CacheScope_CACHE_SCOPE_PUBLIC},
		}}))
	call := func(creds credentials.TransportCredentials) error {
		conn, err := meshlite.NewClient("consul:///catalog", uncached(), meshlite.WithTransportCredentials(creds),
			meshlite.WithDirectory(m.directory), meshlite.WithLogger(silent), meshlite.WithRuntime(newRuntime(t)))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err = catalogv1.NewCatalogServiceClient(conn).GetSweet(ctx, &catalogv1.GetSweetRequest{Id: "one"})
		return err
	}
	with := func(pair tls.Certificate, change ...func(*tls.Config)) credentials.TransportCredentials {
		settings := &tls.Config{InsecureSkipVerify: true, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }}
		for _, c := range change {
			c(settings)
		}
		return credentials.NewTLS(settings)
	}
	for range 2 { // the second answer comes from the cache
		if err := call(with(authority.IssueID(t, time.Hour, id+"storefront"))); err != nil {
			t.Fatal(err)
		}
	}
	ran, before := s.calls.Load(), answers.Stats()
	if ran != 1 || before.Hits != 1 {
		t.Fatalf("the handler ran %d times, with %d hits", ran, before.Hits)
	}
	early := certtest.IDTemplate(t, 2*time.Hour, id+"storefront")
	early.NotBefore = time.Now().Add(time.Hour)
	for _, test := range []struct {
		name  string
		creds credentials.TransportCredentials
		code  codes.Code
		line  string
	}{
		{"expired", with(authority.IssueID(t, -time.Minute, id+"storefront")), codes.Unavailable, "reason=expired"},
		{"not yet valid", with(authority.Sign(t, early)), codes.Unavailable, "reason=not_yet_valid"},
		{"self-signed", with(certtest.SelfSigned(t, certtest.IDTemplate(t, time.Hour, id+"storefront"))), codes.Unavailable, "reason=self_signed"},
		{"another authority", with(certtest.New(t).IssueID(t, time.Hour, id+"storefront")), codes.Unavailable, "reason=unknown_authority"},
		{"wrong trust domain", with(authority.IssueID(t, time.Hour, "spiffe://other.consul/ns/default/dc/dc1/svc/storefront")), codes.Unavailable, "reason=wrong_trust_domain"},
		{"an id in another form", with(authority.IssueID(t, time.Hour, id+"storefront/more")), codes.Unavailable, "reason=bad_spiffe_id"},
		{"TLS 1.2", with(authority.IssueID(t, time.Hour, id+"storefront"), func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), codes.Unavailable, "reason=tls_version"},
		{"no certificate", with(tls.Certificate{}), codes.Unavailable, "reason=no_certificate"},
		{"plaintext", insecure.NewCredentials(), codes.Unavailable, "reason=plaintext"},
		{"wrong service", with(authority.IssueID(t, time.Hour, id+"ops")), codes.PermissionDenied, "svc/ops"},
	} {
		if line := log.line(test.line); line != "" {
			t.Errorf("%s: the log has its line before: %s", test.name, line)
		}
		if err := call(test.creds); status.Code(err) != test.code {
			t.Errorf("%s: the call gets %v, want %v", test.name, err, test.code)
		}
		for deadline := time.Now().Add(20 * time.Second); log.line(test.line) == ""; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: the log has no line with %s", test.name, test.line)
			}
		}
		if now := answers.Stats(); s.calls.Load() != ran || now.Hits != before.Hits || now.Misses != before.Misses {
			t.Errorf("%s: the handler ran %d times, cache %+v, before %+v", test.name, s.calls.Load()-ran, now.Counts, before.Counts)
		}
	}
}

func fed(s *identity.Snapshot) *identity.Feed {
	f := &identity.Feed{}
	f.Publish(s)
	return f
}

// A server that is registered under a name that is not its own gets no call.
//
// Case I1
func TestAServerUnderAnothersNameIsRefused(t *testing.T) {
	m := newMesh(t)
	s := &shop{name: "a"}
	m.serveSecured(s, meshlite.WithTransportCredentials(identityOf(t, m.directory, "inventory")))
	client := tlsClient(t, m, "consul:///catalog", []meshlite.ClientOption{meshlite.WithTransportCredentials(identityOf(t, m.directory, "storefront"))})
	_, err := client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "one"})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "wrong_service") || !strings.Contains(err.Error(), "svc/inventory") {
		t.Errorf("the call gets %v", err)
	}
	if n := s.calls.Load(); n != 0 {
		t.Errorf("the handler ran %d times", n)
	}
}

// A server that knows its callers and lets all of them in says so.
func TestAServerThatDoesNotAuthorizeSaysSo(t *testing.T) {
	mtls, err := identity.New(fed(madeSnapshot(t, certtest.New(t), time.Hour, "catalog")), identity.WithLogger(silent))
	if err != nil {
		t.Fatal(err)
	}
	secured := meshlite.WithTransportCredentials(mtls)
	for name, test := range map[string]struct {
		opts meshlite.Options
		says bool
	}{
		"identity":           {meshlite.Options{secured}, true},
		"identity and rules": {meshlite.Options{secured, meshlite.WithInterceptors(authorizedBy(t, authz.WithIntentions(intention.Set{})))}, false},
		"plaintext":          {meshlite.Options{meshlite.WithPlaintext()}, false},
	} {
		log := &logged{}
		opts := []meshlite.ServerOption{test.opts, meshlite.WithLogger(slog.New(slog.NewTextHandler(log, nil))), meshlite.WithRuntime(newRuntime(t))}
		if _, err := meshlite.NewServer("catalog", opts...); err != nil {
			t.Fatal(err)
		}
		if says := log.line("level=WARN msg=\"intentions are not enforced") != ""; says != test.says {
			t.Errorf("%s: the log says it: %v", name, says)
		}
	}
}

// Without a certificate a server does not register, and says why.
func TestAServerRegistersWhenItHasItsCertificate(t *testing.T) {
	m := newMesh(t)
	authority := certtest.New(t)
	source := &identity.Feed{}
	mtls, err := identity.New(source, identity.WithLogger(silent))
	if err != nil {
		t.Fatal(err)
	}
	log := &logged{}
	ended, stop := secured(t, m.directory, log, meshlite.WithTransportCredentials(mtls))
	defer stop()
	for log.line("cannot start yet") == "" {
		time.Sleep(5 * time.Millisecond)
	}
	if line := log.line("cannot start yet"); !strings.Contains(line, "no_own_certificate") {
		t.Errorf("the log says %s", line)
	}
	if n := len(m.instances("catalog")); n != 0 {
		t.Errorf("%d instances without a certificate", n)
	}
	source.Publish(madeSnapshot(t, authority, time.Hour, "catalog"))
	for len(m.instances("catalog")) == 0 {
		select {
		case err := <-ended:
			t.Fatal(err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	for log.line("msg=serving") == "" { // after the registration
		time.Sleep(5 * time.Millisecond)
	}
	if line := log.line("msg=serving"); !strings.Contains(line, "demands a client's certificate") {
		t.Errorf("the health check is not explained: %s", line)
	}
}

func madeSnapshot(t *testing.T, authority *certtest.Authority, life time.Duration, service string) *identity.Snapshot {
	t.Helper()
	s, err := identity.NewSnapshot(authority.IssueID(t, life, "spiffe://test.consul/ns/default/dc/dc1/svc/"+service), []*x509.Certificate{authority.Certificate()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The identity of a caller is what its certificate proves, and a plaintext caller of a
// permissive server has none.
//
// Case I12
func TestCallersAreWhoTheirCertificatesSay(t *testing.T) {
	m := newMesh(t)
	var last atomic.Value
	callers, err := caller.New()
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{name: "a"}
	mtls := identityOf(t, m.directory, "catalog", identity.WithPermissive())
	m.serveSecured(s, meshlite.WithTransportCredentials(mtls), recordCaller(callers, &last))
	mine := identityOf(t, m.directory, "storefront")
	get(t, tlsClient(t, m, "consul:///catalog", []meshlite.ClientOption{meshlite.WithTransportCredentials(mine)}), "one")
	if got := last.Load(); got != mine.Stats().ID {
		t.Errorf("the caller is %q, want %q", got, mine.Stats().ID)
	}
	get(t, tlsClient(t, m, "consul:///catalog", []meshlite.ClientOption{meshlite.WithPlaintext(), meshlite.WithRuntime(newRuntime(t))}), "two")
	if got := last.Load(); got != "" {
		t.Errorf("the plaintext caller is %q", got)
	}
	if stats := mtls.Stats().Plaintext; len(stats.Callers) != 1 || stats.Callers[0].Address != "127.0.0.1" {
		t.Errorf("plaintext callers: %+v", stats)
	}
}

// Leaves that end within seconds, on both ends of the mesh, fail no call: clients replace
// connections, and so do servers by their age.
//
// Case I2
func TestShortLeavesFailNoCall(t *testing.T) {
	const life, every, rotations = 5 * time.Second, 500 * time.Millisecond, 20
	m := newMesh(t)
	authority := certtest.New(t)
	var feeds []*identity.Feed
	made := func(service string) *identity.Credentials {
		f := &identity.Feed{}
		f.Publish(madeSnapshot(t, authority, life, service))
		feeds = append(feeds, f)
		mtls, err := identity.New(f, identity.WithLogger(silent), identity.WithMaxConnectionAge(time.Second))
		if err != nil {
			t.Fatal(err)
		}
		return mtls
	}
	mine, others := made("storefront"), made("catalog")
	s := &shop{name: "a"}
	m.serveSecured(s, meshlite.WithTransportCredentials(others))
	client := tlsClient(t, m, "consul:///catalog", []meshlite.ClientOption{meshlite.WithTransportCredentials(mine)})
	stop, failed, calls := loadOf(client)
	for range rotations {
		time.Sleep(every)
		feeds[0].Publish(madeSnapshot(t, authority, life, "storefront"))
		feeds[1].Publish(madeSnapshot(t, authority, life, "catalog"))
	}
	stop()
	if err := failed.Load(); err != nil {
		t.Errorf("of %d calls one failed: %v", calls.Load(), *err)
	}
	if n := others.Stats().Servers; n < 4 {
		t.Errorf("%d connections in all, want new ones", n)
	}
	if n := mine.Stats().Cut + others.Stats().Cut; n != 0 {
		t.Errorf("%d connections were cut", n)
	}
}

// loadOf calls without pause until stop.
func loadOf(client catalogv1.CatalogServiceClient) (stop func(), failed *atomic.Pointer[error], calls *atomic.Int64) {
	ctx, cancel := context.WithCancel(context.Background())
	failed, calls = &atomic.Pointer[error]{}, &atomic.Int64{}
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			for ctx.Err() == nil {
				// The budget of a retry must not hide a failed attempt: ids differ, so nothing is cached.
				if _, err := client.GetSweet(context.Background(), &catalogv1.GetSweetRequest{Id: time.Now().String()}); err != nil {
					failed.CompareAndSwap(nil, &err)
				}
				calls.Add(1)
				time.Sleep(time.Millisecond)
			}
		})
	}
	return func() { cancel(); running.Wait() }, failed, calls
}

// Both ends with a real agent's CA: called, renamed, and with an agent that was started anew.
func TestARealAgentSecuresBothEnds(t *testing.T) {
	agent := agenttest.Start(t)
	directory, err := consul.New(consul.Config{Address: agent.Address, Logger: slog.New(slog.DiscardHandler), Heartbeat: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(directory.Close)
	log := &logged{}
	server, err := meshlite.NewServer("catalog", meshlite.WithTransportCredentials(identityOf(t, directory, "catalog")),
		meshlite.WithDirectory(directory), meshlite.WithLogger(slog.New(slog.NewTextHandler(log, nil))), meshlite.WithRuntime(newRuntime(t)),
		meshlite.WithMetricsAddress(""), meshlite.WithDrain(0, time.Second))
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{name: "a"}
	catalogv1.RegisterCatalogServiceServer(server, s)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	select {
	case <-server.Ready():
	case <-done:
		t.Fatal("the server ended")
	}
	mine := identityOf(t, directory, "storefront")
	conn, err := meshlite.NewClient("consul:///catalog", meshlite.WithTransportCredentials(mine), meshlite.WithDirectory(directory),
		meshlite.WithLogger(silent), meshlite.WithRuntime(newRuntime(t)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	client := catalogv1.NewCatalogServiceClient(conn)
	if got := get(t, client, "one"); got != "a" {
		t.Errorf("the answer is %q", got)
	}
	before := mine.Stats().ID
	if err := agent.Restart(t.Context()); err != nil { // with another CA
		t.Fatal(err)
	}
	for deadline := time.Now().Add(2 * time.Minute); mine.Stats().ID == before; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the new CA is not followed")
		}
	}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		callCtx, cancelCall := context.WithTimeout(t.Context(), 5*time.Second)
		_, err := client.GetSweet(callCtx, &catalogv1.GetSweetRequest{Id: "after"})
		cancelCall()
		if err == nil && mine.Stats().Connections > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no call with the new CA: %v", err)
		}
	}
}

// A target that names a datacenter wants a server of that one.
//
// Case I1
func TestADatacenterOfTheTargetIsVerified(t *testing.T) {
	authority := certtest.New(t)
	for datacenter, want := range map[string]codes.Code{"dc1": codes.OK, "dc2": codes.Unavailable} {
		// The caller is of dc2, and so is the second server, although it was found in dc1.
		of := func(service, datacenter string) *identity.Credentials {
			leaf := authority.IssueID(t, time.Hour, "spiffe://test.consul/ns/default/dc/"+datacenter+"/svc/"+service)
			s, err := identity.NewSnapshot(leaf, []*x509.Certificate{authority.Certificate()})
			if err != nil {
				t.Fatal(err)
			}
			f := &identity.Feed{}
			f.Publish(s)
			mtls, err := identity.New(f, identity.WithLogger(silent))
			if err != nil {
				t.Fatal(err)
			}
			return mtls
		}
		other := newMesh(t)
		other.serveSecured(&shop{name: "b"}, meshlite.WithTransportCredentials(of("catalog", datacenter)))
		client := tlsClient(t, other, "consul:///catalog?dc=dc1", []meshlite.ClientOption{meshlite.WithTransportCredentials(of("storefront", "dc2"))})
		_, err := client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "one"})
		if status.Code(err) != want || want != codes.OK && !strings.Contains(err.Error(), "wrong_datacenter") {
			t.Errorf("a server of %s found in dc1 gets %v, want %v", datacenter, err, want)
		}
	}
}

// A redirect leads to servers that prove the name of their own service, and no other: not that
// which the channel names either.
func TestIdentityFollowsTheRoute(t *testing.T) {
	for proven, want := range map[string]codes.Code{"catalog": codes.OK, "prices": codes.Unavailable} {
		m := newMesh(t)
		if err := m.agent.WriteConfig(`{"Kind": "service-resolver", "Name": "prices", "Redirect": {"Service": "catalog"}}`); err != nil {
			t.Fatal(err)
		}
		s := &shop{name: "a"}
		m.serveSecured(s, meshlite.WithTransportCredentials(identityOf(t, m.directory, proven)))
		client := tlsClient(t, m, "consul:///prices", []meshlite.ClientOption{meshlite.WithTransportCredentials(identityOf(t, m.directory, "storefront"))})
		_, err := client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "one"})
		if status.Code(err) != want || want != codes.OK && !strings.Contains(err.Error(), "wrong_service") {
			t.Errorf("a server that proves %s gets %v, want %v", proven, err, want)
		}
		if n := s.calls.Load(); (n > 0) != (want == codes.OK) {
			t.Errorf("a server that proves %s has answered %d calls", proven, n)
		}
	}
}
