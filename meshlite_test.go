package meshlite_test

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

func TestMain(m *testing.M) {
	for _, name := range []string{"CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN", "CONSUL_HTTP_TOKEN_FILE"} {
		os.Unsetenv(name)
	}
	if err := trustByTheSystem(); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

var silent = slog.New(slog.NewTextHandler(io.Discard, nil))

type snapshot = catalog.Snapshot

func catalogQuery(name string) catalog.Query { return catalog.Query{Service: name} }

// mesh is a stand-in agent and what uses it.
type mesh struct {
	t         *testing.T
	agent     *consultest.Server
	directory *consul.Directory
	runtime   *meshlite.Runtime
}

func newMesh(t *testing.T) *mesh {
	t.Helper()
	agent := consultest.New()
	t.Cleanup(agent.Close)
	address, err := agent.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	directory, err := consul.New(consul.Config{Address: address, Heartbeat: time.Second, Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(directory.Close)
	return &mesh{t, agent, directory, newRuntime(t)}
}

func newRuntime(t testing.TB) *meshlite.Runtime {
	t.Helper()
	return configured(t, meshlite.RuntimeConfig{})
}

func configured(t testing.TB, config meshlite.RuntimeConfig) *meshlite.Runtime {
	t.Helper()
	r, err := meshlite.NewRuntime(config)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// shop is a catalog that says who it is.
type shop struct {
	catalogv1.UnimplementedCatalogServiceServer
	name  string
	calls atomic.Int64
	work  func() // done in each call, if set
	err   error  // that each call is answered with, if set
	// header goes with each answer, if set.
	header func(id string) metadata.MD
}

func (s *shop) GetSweet(ctx context.Context, req *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
	s.calls.Add(1)
	if s.header != nil {
		_ = grpc.SetHeader(ctx, s.header(req.GetId()))
	}
	if s.work != nil {
		s.work()
	}
	if s.err != nil {
		return nil, s.err
	}
	return &catalogv1.GetSweetResponse{Sweet: &catalogv1.Sweet{Id: s.name}}, nil
}

// instance is a server that runs.
type instance struct {
	*shop
	stop func() error
}

// serve runs a catalog in plaintext until the test ends or it is stopped.
func (m *mesh) serve(s *shop, opts ...meshlite.ServerOption) *instance {
	m.t.Helper()
	return m.serveSecured(s, append([]meshlite.ServerOption{meshlite.WithPlaintext()}, opts...)...)
}

// serveSecured is serve with an option that says how the connections are secured.
func (m *mesh) serveSecured(s *shop, opts ...meshlite.ServerOption) *instance {
	m.t.Helper()
	return &instance{s, m.serveCatalog(s, opts...)}
}

// serveCatalog is serveSecured of any implementation. It returns what stops the server.
func (m *mesh) serveCatalog(s catalogv1.CatalogServiceServer, opts ...meshlite.ServerOption) (stop func() error) {
	m.t.Helper()
	before := len(m.instances("catalog"))
	opts = append([]meshlite.ServerOption{
		meshlite.WithDirectory(m.directory), meshlite.WithLogger(silent),
		meshlite.WithRuntime(newRuntime(m.t)), meshlite.WithDrain(200*time.Millisecond, 5*time.Second),
	}, opts...)
	server, err := meshlite.NewServer("catalog", opts...)
	if err != nil {
		m.t.Fatal(err)
	}
	catalogv1.RegisterCatalogServiceServer(server, s)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	m.t.Cleanup(func() { _ = stop() })
	for len(m.instances("catalog")) == before {
		select {
		case err := <-ended:
			m.t.Fatalf("the server ended: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	return stop
}

// instances are the addresses of name that the agent calls passing.
func (m *mesh) instances(name string) []string {
	m.t.Helper()
	var addresses []string
	for _, i := range m.registered(name) {
		addresses = append(addresses, i.Address)
	}
	return addresses
}

// registered returns what Consul has of a service now.
func (m *mesh) registered(name string) (instances []catalog.Instance) {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	m.directory.Watch(ctx, catalogQuery(name), func(s snapshot, err error) {
		if err != nil {
			m.t.Error(err)
		}
		instances = s.Instances
		cancel()
	})
	return instances
}

func (m *mesh) client(target string, opts ...meshlite.ClientOption) (catalogv1.CatalogServiceClient, *grpc.ClientConn) {
	m.t.Helper()
	conn, err := meshlite.NewClient(target, append([]meshlite.ClientOption{
		meshlite.WithPlaintext(), meshlite.WithDirectory(m.directory), meshlite.WithLogger(silent), meshlite.WithRuntime(m.runtime),
	}, opts...)...)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { conn.Close() })
	return catalogv1.NewCatalogServiceClient(conn), conn
}

// uncached and unretried changes the contract of the catalog for a test that
// counts calls.
func uncached() meshlite.Option {
	none, once := "0s", uint32(1)
	return meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{
		Cache: &policyv1.CacheRule{Ttl: &none}, Retry: &policyv1.RetryRule{MaxAttempts: &once},
	}})
}

func get(t *testing.T, client catalogv1.CatalogServiceClient, id string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	response, err := client.GetSweet(ctx, &catalogv1.GetSweetRequest{Id: id})
	if err != nil {
		t.Fatal(err)
	}
	return response.GetSweet().GetId()
}

func TestCallsAreBalancedOverWhatIsRegistered(t *testing.T) {
	m := newMesh(t)
	for _, name := range []string{"a", "b", "c"} {
		m.serve(&shop{name: name})
	}
	client, _ := m.client("consul:///catalog", uncached())
	counts := map[string]int{}
	for range 300 {
		counts[get(t, client, "x")]++
	}
	if len(counts) != 3 {
		t.Errorf("the answers came from %v, want all three", counts)
	}
}

func TestTheContractDecidesWhatIsCached(t *testing.T) {
	m := newMesh(t)
	s := m.serve(&shop{name: "a"})
	client, _ := m.client("consul:///catalog")
	for range 50 {
		get(t, client, "x")
	}
	if n := s.calls.Load(); n != 1 {
		t.Errorf("the handler ran %d times, want once: GetSweet has a ttl in its contract", n)
	}
	other, _ := m.client("consul:///catalog") // shares the runtime's cache
	get(t, other, "x")
	if n := s.calls.Load(); n != 1 {
		t.Errorf("a second channel asked again")
	}
}

func TestPolicyPrecedence(t *testing.T) {
	m := newMesh(t)
	for _, name := range []string{"a", "b"} {
		m.serve(&shop{name: name})
	}
	const pickFirst = `{"loadBalancingConfig": [{"pick_first": {}}]}`
	for name, test := range map[string]struct {
		target  string
		opts    []meshlite.ClientOption
		answers int // how many instances answer
	}{
		"least request by default":     {"consul:///catalog", nil, 2},
		"option":                       {"consul:///catalog", []meshlite.ClientOption{meshlite.WithBalancer("grpc:pick_first")}, 1},
		"service config over option":   {"consul:///catalog", []meshlite.ClientOption{meshlite.WithBalancer("round_robin"), meshlite.WithServiceConfig(pickFirst)}, 1},
		"target over service config":   {"consul:///catalog?policy=round_robin", []meshlite.ClientOption{meshlite.WithServiceConfig(pickFirst)}, 2},
		"grpc's own in target":         {"consul:///catalog?policy=grpc:pick_first", nil, 1},
		"service config without one":   {"consul:///catalog", []meshlite.ClientOption{meshlite.WithServiceConfig(`{"methodConfig": []}`)}, 2},
		"dial option of grpc's, last":  {"consul:///catalog", []meshlite.ClientOption{meshlite.WithDialOptions(grpc.WithDefaultServiceConfig(pickFirst))}, 1},
		"another resolver, our policy": {"dns:///" + m.instances("catalog")[0], nil, 1},
	} {
		t.Run(name, func(t *testing.T) {
			client, _ := m.client(test.target, append(test.opts, uncached())...)
			counts := map[string]int{}
			for n := 0; n < 40 || len(counts) < test.answers && n < 4000; n++ { // connections are made one after the other
				counts[get(t, client, "x")]++
			}
			if len(counts) != test.answers {
				t.Errorf("the answers came from %v, want %d instances", counts, test.answers)
			}
		})
	}
}

// A policy in the target replaces the policy of the user's service config, and
// nothing else of it.
func TestPolicyInTheTargetLeavesTheServiceConfig(t *testing.T) {
	m := newMesh(t)
	m.serve(&shop{work: func() { time.Sleep(500 * time.Millisecond) }})
	const impatient = `{"methodConfig": [{"name": [{}], "timeout": "0.05s"}]}`
	for _, target := range []string{"consul:///catalog", "consul:///catalog?policy=round_robin"} {
		client, _ := m.client(target, meshlite.WithServiceConfig(impatient), uncached())
		if _, err := client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{}); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("%s: a call of half a second answers %v, want the service config's timeout", target, err)
		}
	}
}

// Two servers of one program share its runtime, and not their answers.
//
// Case C1
func TestServersDoNotShareAnswers(t *testing.T) {
	m := newMesh(t)
	cached, server := "1 minute", policyv1.Side_SIDE_SERVER
	onServer := meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{
		Cache: &policyv1.CacheRule{Ttl: &cached, Side: server},
	}})
	shared := newRuntime(t)
	for _, name := range []string{"a", "b"} {
		m.serve(&shop{name: name}, onServer, meshlite.WithRuntime(shared), tagged("", name))
	}
	for _, name := range []string{"a", "b", "a", "b"} {
		client, _ := m.client("consul:///catalog?tag="+name, onServer)
		if got := get(t, client, "x"); got != name {
			t.Errorf("server %s answers what %s has answered", name, got)
		}
	}
}

// C3, for interceptors that gRPC is given beside the chain: they may authorize, so
// they stand outside of the cache.
//
// Case C3
func TestInterceptorsOfGRPCStandOutsideOfTheCache(t *testing.T) {
	m := newMesh(t)
	cached, server := "1 minute", policyv1.Side_SIDE_SERVER
	refuse := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if md, _ := metadata.FromIncomingContext(ctx); len(md.Get("token")) == 0 && strings.HasSuffix(info.FullMethod, "GetSweet") {
			return nil, status.Error(codes.Unauthenticated, "no token")
		}
		return next(ctx, req)
	}
	m.serve(&shop{name: "a"}, meshlite.WithServerOptions(grpc.ChainUnaryInterceptor(refuse)),
		meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{Cache: &policyv1.CacheRule{Ttl: &cached, Side: server}}}))
	client, _ := m.client("consul:///catalog", uncached())
	for _, test := range []struct {
		ctx  context.Context
		want codes.Code
	}{
		{t.Context(), codes.Unauthenticated},
		{metadata.AppendToOutgoingContext(t.Context(), "token", "x"), codes.OK},
		{t.Context(), codes.Unauthenticated},
	} {
		if _, err := client.GetSweet(test.ctx, &catalogv1.GetSweetRequest{Id: "x"}); status.Code(err) != test.want {
			t.Errorf("the answer is %v, want %v", err, test.want)
		}
	}
}

// A server that is still warming up registers when it says that it serves.
func TestServerRegistersWhenItServes(t *testing.T) {
	m := newMesh(t)
	server, err := meshlite.NewServer("catalog", meshlite.WithPlaintext(), meshlite.WithDirectory(m.directory),
		meshlite.WithLogger(silent), meshlite.WithDrain(0, time.Second))
	if err != nil {
		t.Fatal(err)
	}
	server.SetServing("", false)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	time.Sleep(300 * time.Millisecond)
	if a := m.instances("catalog"); len(a) != 0 {
		t.Errorf("registered at %v while warming up", a)
	}
	server.SetServing("", true)
	for len(m.instances("catalog")) == 0 {
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := server.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "has run already") {
		t.Errorf("a second run answers %v", err)
	}
}

// G2, the order: NOT_SERVING before it leaves Consul, and calls are answered after
// that, for the drain time.
//
// Case G2: Leaving, drain time, GOAWAY and end in that order; a rolling restart of 3 fails 0
// of 10,000 calls.
func TestStopLeavesConsulBeforeItStops(t *testing.T) {
	m := newMesh(t)
	watching := &leaving{Directory: m.directory, left: make(chan struct{})}
	s := m.serve(&shop{name: "a"}, meshlite.WithDirectory(watching), meshlite.WithDrain(300*time.Millisecond, time.Second))
	client, conn := m.client("consul:///catalog", uncached())
	get(t, client, "x")
	watching.before = func() {
		response, err := healthv1.NewHealthClient(conn).Check(context.Background(), &healthv1.HealthCheckRequest{})
		if err != nil || response.GetStatus() != healthv1.HealthCheckResponse_NOT_SERVING {
			t.Errorf("while it leaves Consul the server says it is %v, %v", response.GetStatus(), err)
		}
	}
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	<-watching.left
	left := time.Now()
	if got := get(t, client, "x"); got != "a" {
		t.Errorf("in the drain time the answer is %q", got)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if time.Since(left) < 300*time.Millisecond {
		t.Error("the drain time was over before the server had left Consul")
	}
}

// G2: what is running when the drain time is over runs to its end: GOAWAY ends no call.
//
// Case G2
func TestACallLongerThanTheDrainTimeEndsWell(t *testing.T) {
	m := newMesh(t)
	hung := make(chan struct{})
	release := sync.OnceFunc(func() { close(hung) })
	s := m.serve(&shop{name: "a", work: func() { <-hung }}, meshlite.WithDrain(time.Millisecond, time.Minute))
	t.Cleanup(release)
	address := m.instances("catalog")[0]
	client, _ := m.client("consul:///catalog", uncached())
	answered := make(chan error, 1)
	go func() {
		_, err := client.GetSweet(context.Background(), &catalogv1.GetSweetRequest{Id: "x"})
		answered <- err
	}()
	for s.calls.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	for { // until the server stops: then it accepts no connection
		conn, err := net.Dial("tcp", address)
		if err != nil {
			break
		}
		conn.Close()
		time.Sleep(time.Millisecond)
	}
	select {
	case err := <-answered:
		t.Fatalf("the call ends with %v when the server stops", err)
	case err := <-stopped:
		t.Fatalf("the server has stopped with %v while a call runs", err)
	case <-time.After(50 * time.Millisecond):
	}
	release()
	if err := <-answered; err != nil {
		t.Errorf("the call that ran while the server stopped: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// leaving is a directory that reports when a server leaves it.
type leaving struct {
	meshlite.Directory
	before func()
	left   chan struct{}
}

type lease struct {
	catalog.Lease
	of *leaving
}

func (l *leaving) Register(ctx context.Context, r catalog.Registration) (catalog.Lease, error) {
	inner, err := l.Directory.Register(ctx, r)
	return lease{inner, l}, err
}

func (l lease) Deregister(ctx context.Context) error {
	if l.of.before != nil {
		l.of.before()
		defer close(l.of.left)
	}
	return l.Lease.Deregister(ctx)
}

// A mistake is an error when something is built, with the value and the fix.
func TestClientMistakesAreErrorsAtOnce(t *testing.T) {
	plain := meshlite.WithPlaintext()
	negative := "-5s"
	for name, test := range map[string]struct {
		target string
		opts   []meshlite.ClientOption
		want   []string
	}{
		"no security":        {"consul:///catalog", nil, []string{"WithTLS", "WithPlaintext"}},
		"both securities":    {"consul:///catalog", []meshlite.ClientOption{plain, meshlite.WithTLS(&tls.Config{})}, []string{"both"}},
		"unknown key":        {"consul:///catalog?colour=red", []meshlite.ClientOption{plain}, []string{`"colour"`, "policy"}},
		"unknown policy":     {"consul:///catalog?policy=fastest", []meshlite.ClientOption{plain}, []string{`"fastest"`, "least_request"}},
		"unknown balancer":   {"consul:///catalog", []meshlite.ClientOption{plain, meshlite.WithBalancer("fastest")}, []string{"WithBalancer", `"fastest"`}},
		"no service":         {"consul:///", []meshlite.ClientOption{plain}, []string{"names no service"}},
		"agent without port": {"consul://agent/catalog", []meshlite.ClientOption{plain}, []string{`"agent"`, "host:port"}},
		"repeated near":      {"consul:///catalog?near=a&near=b", []meshlite.ClientOption{plain}, []string{`"near"`, "2 times"}},
		"empty tag":          {"consul:///catalog?tag=", []meshlite.ClientOption{plain}, []string{`"tag"`, "no value"}},
		"no target":          {"", []meshlite.ClientOption{plain}, []string{`""`, "consul:///service"}},
		"unknown scheme":     {"cosnul:///catalog", []meshlite.ClientOption{plain}, []string{"cosnul", "consul:///service"}},
		"agent's port":       {"consul://127.0.0.1:99999/catalog", []meshlite.ClientOption{plain}, []string{`"127.0.0.1:99999"`, "host:port"}},
		"datacenter twice":   {"consul:///catalog?dc=a&dc=a", []meshlite.ClientOption{plain}, []string{`"dc"`, "twice"}},
		"consistency":        {"consul:///catalog?consistency=strong", []meshlite.ClientOption{plain}, []string{`"strong"`, "stale, consistent or cached"}},
		"panic above one":    {"consul:///catalog", []meshlite.ClientOption{plain, meshlite.WithResolver(resolver.WithPanicThreshold(1.5))}, []string{"WithResolver", "WithPanicThreshold 1.5"}},
		"negative subset":    {"consul:///catalog", []meshlite.ClientOption{plain, meshlite.WithResolver(resolver.WithSubset(-1))}, []string{"WithResolver", "WithSubset -1"}},
		"service config":     {"consul:///catalog", []meshlite.ClientOption{plain, meshlite.WithServiceConfig("{")}, []string{"WithServiceConfig", `"{"`}},
		"bad ttl": {"consul:///catalog", []meshlite.ClientOption{plain, meshlite.WithPolicy(&policyv1.ServicePolicy{
			Default: &policyv1.MethodPolicy{Cache: &policyv1.CacheRule{Ttl: &negative}}})}, []string{"default.cache.ttl", `"-5s"`, "90s"}},
		"unknown method": {"consul:///catalog", []meshlite.ClientOption{plain, meshlite.WithPolicy(&policyv1.ServicePolicy{
			Methods: map[string]*policyv1.MethodPolicy{"GetSweeet": {}}})}, []string{`"GetSweeet"`}},
	} {
		t.Run(name, func(t *testing.T) {
			mustExplain(t, test.want, func() error { _, err := meshlite.NewClient(test.target, test.opts...); return err })
		})
	}
}

// X12, in part: a token in a target is refused, and not repeated.
//
// Case X12 (target): A token in a target is refused and not repeated.
func TestATokenInATargetIsRefusedAndNotRepeated(t *testing.T) {
	for _, target := range []string{"consul://hunter2@127.0.0.1:8500/catalog", "consul:///catalog?token=hunter2", "consul://x:hunter2@[::1/catalog",
		"dns://x:hunter2@127.0.0.1:53/catalog:80", "dns:///x:hunter2@catalog:80", "x:hunter2@catalog:80", "CONSUL://x:hunter2@127.0.0.1/catalog", "http://x:hunter2/@catalog", "odd:///a?key=hunter2"} {
		_, err := meshlite.NewClient(target, meshlite.WithPlaintext())
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("error is %v, want one without the token", err)
		}
	}
}

// Case G3: Deregistration below a minute, and what else Consul would not take, is refused.
func TestServerMistakesAreErrorsAtOnce(t *testing.T) {
	plain := meshlite.WithPlaintext()
	for name, test := range map[string]struct {
		service string
		opts    []meshlite.ServerOption
		want    []string
	}{
		"no security":     {"catalog", nil, []string{"WithTLS", "WithPlaintext"}},
		"no name":         {"", []meshlite.ServerOption{plain}, []string{`""`}},
		"odd name":        {"cata/log", []meshlite.ServerOption{plain}, []string{`"cata/log"`, "hyphens"}},
		"listen address":  {"catalog", []meshlite.ServerOption{plain, meshlite.WithListenAddress("localhost")}, []string{"WithListenAddress", `"localhost"`, "host:port"}},
		"check address":   {"catalog", []meshlite.ServerOption{plain, meshlite.WithRegistration(catalog.Registration{CheckAddress: "x"})}, []string{"WithRegistration", "CheckAddress", `"x"`}},
		"address":         {"catalog", []meshlite.ServerOption{plain, meshlite.WithRegistration(catalog.Registration{Instance: catalog.Instance{Address: "a:1"}})}, []string{"WithRegistration", "Address", `"a:1"`, "WithAdvertisedAddress"}},
		"region":          {"catalog", []meshlite.ServerOption{plain, meshlite.WithRegistration(catalog.Registration{Instance: catalog.Instance{Region: "eu"}})}, []string{"WithRegistration", "Region", `"eu"`, "WithLocality"}},
		"node":            {"catalog", []meshlite.ServerOption{plain, meshlite.WithRegistration(catalog.Registration{Instance: catalog.Instance{Node: "n"}})}, []string{"WithRegistration", "Node", `"n"`}},
		"deregistration":  {"catalog", []meshlite.ServerOption{plain, meshlite.WithRegistration(catalog.Registration{DeregisterAfter: 30 * time.Second})}, []string{"WithRegistration", "DeregisterAfter 30s", "1m"}}, // G3
		"advertised port": {"catalog", []meshlite.ServerOption{plain, meshlite.WithAdvertisedAddress("127.0.0.1:abc")}, []string{"WithAdvertisedAddress", "abc"}},
		"advertised host": {"catalog", []meshlite.ServerOption{plain, meshlite.WithAdvertisedAddress(":9000")}, []string{"WithAdvertisedAddress", ":9000"}},
		"check port":      {"catalog", []meshlite.ServerOption{plain, meshlite.WithRegistration(catalog.Registration{CheckAddress: "127.0.0.1:0"})}, []string{"WithRegistration", "CheckAddress", "127.0.0.1:0"}},
		"port":            {"catalog", []meshlite.ServerOption{plain, meshlite.WithListenAddress("http")}, []string{"WithListenAddress", `"http"`}},
		"name twice":      {"catalog", []meshlite.ServerOption{plain, meshlite.WithRegistration(catalog.Registration{}), meshlite.WithRegistration(catalog.Registration{Instance: catalog.Instance{Service: "catalog"}})}, []string{"WithRegistration", `"catalog"`, "twice"}},
		"drain":           {"catalog", []meshlite.ServerOption{plain, meshlite.WithDrain(-1, 0)}, []string{"WithDrain"}},
	} {
		t.Run(name, func(t *testing.T) {
			mustExplain(t, test.want, func() error { _, err := meshlite.NewServer(test.service, test.opts...); return err })
		})
	}
}

func mustExplain(t *testing.T, want []string, build func() error) {
	t.Helper()
	err := build()
	if err == nil {
		t.Fatal("no error")
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error is %q, want one that says %s", err, w)
		}
	}
}

// G5: port 0 works: the bound port and a reachable address are what is registered;
// two replicas on one machine need no edit.
//
// Case G5: Port 0 and two replicas need no edit.
func TestTwoReplicasNeedNoEdit(t *testing.T) {
	m := newMesh(t)
	m.serve(&shop{name: "a"})
	m.serve(&shop{name: "b"})
	addresses := m.instances("catalog")
	if len(addresses) != 2 || addresses[0] == addresses[1] {
		t.Fatalf("registered are %v, want two addresses", addresses)
	}
	for _, address := range addresses {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Errorf("a registered address is not reachable: %v", err)
			continue
		}
		conn.Close()
	}
}

// Case G5
// Case rules, dashboards
func TestSeveralNamesAndAddresses(t *testing.T) {
	m := newMesh(t)
	m.serve(&shop{name: "a"}, meshlite.WithAdvertisedAddress("localhost"), tagged("", "v1"), tagged("sweets", "v1"))
	for _, name := range []string{"catalog", "sweets"} {
		for len(m.instances(name)) == 0 { // they are registered one after the other
			time.Sleep(5 * time.Millisecond)
		}
		if a := m.instances(name); len(a) != 1 || !strings.HasPrefix(a[0], "localhost:") {
			t.Errorf("%s is registered at %v, want localhost", name, a)
		}
	}
	for name, want := range map[string]string{"catalog": "", "sweets": "catalog"} {
		if got := m.registered(name)[0].Metadata["metrics_service"]; got != want {
			t.Errorf("%s is measured as part of %q, want %q", name, got, want)
		}
	}
	client, _ := m.client("consul:///sweets?tag=v1")
	if got := get(t, client, "x"); got != "a" {
		t.Errorf("answer from %q", got)
	}
}

func TestAPortThatIsTakenIsAnError(t *testing.T) {
	m := newMesh(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for option, o := range map[string]meshlite.ServerOption{
		"WithListenAddress":  meshlite.WithListenAddress(taken.Addr().String()),
		"WithMetricsAddress": meshlite.WithMetricsAddress(taken.Addr().String()),
	} {
		server, err := meshlite.NewServer("catalog", meshlite.WithPlaintext(), meshlite.WithDirectory(m.directory), meshlite.WithLogger(silent), o)
		if err != nil {
			t.Fatal(err)
		}
		mustExplain(t, []string{option, taken.Addr().String(), "another program"}, func() error { return server.Run(t.Context()) })
	}
}

func TestConsulAwayAtStartFailsWithTheReason(t *testing.T) {
	if testing.Short() {
		t.Skip("waits 10 s for Consul")
	}
	directory, err := consul.New(consul.Config{Address: "127.0.0.1:1", Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	server, err := meshlite.NewServer("catalog", meshlite.WithPlaintext(), meshlite.WithDirectory(directory), meshlite.WithLogger(silent))
	if err != nil {
		t.Fatal(err)
	}
	mustExplain(t, []string{"10s", "127.0.0.1:1", "consul agent -dev"}, func() error { return server.Run(t.Context()) })
}

// An outage after the start never stops a server, and what the agent forgot comes
// back.
//
// Case G1
func TestServerOutlivesItsAgent(t *testing.T) {
	m := newMesh(t)
	s := m.serve(&shop{name: "a"})
	client, _ := m.client("consul:///catalog", uncached())
	get(t, client, "x")
	m.agent.SetReachable(false)
	time.Sleep(2 * time.Second)
	get(t, client, "x")
	m.agent.Restart()
	m.agent.SetReachable(true)
	for len(m.instances("catalog")) == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	get(t, client, "x")
	if err := s.stop(); err != nil {
		t.Errorf("stopping answers %v", err)
	}
	if left := m.instances("catalog"); len(left) != 0 {
		t.Errorf("after the stop %v is registered", left)
	}
}

// G2: shutdown: NOT_SERVING, deregister, keep serving for the drain time, GOAWAY,
// stop by a deadline. Rolling restart of 3 backends under load: 0 of 10,000 calls
// fail.
//
// Case G2
func TestRollingRestartFailsNoCall(t *testing.T) {
	m := newMesh(t)
	work := func() { time.Sleep(5 * time.Millisecond) }
	running := []*instance{m.serve(&shop{work: work}), m.serve(&shop{work: work}), m.serve(&shop{work: work})}
	client, _ := m.client("consul:///catalog", uncached())
	var calls, failed atomic.Int64
	var wait sync.WaitGroup
	const callers, each = 20, 500
	for range callers {
		wait.Go(func() {
			for range each {
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				if _, err := client.GetSweet(ctx, &catalogv1.GetSweetRequest{Id: "x"}); err != nil {
					failed.Add(1)
					t.Log(err)
				}
				cancel()
				calls.Add(1)
			}
		})
	}
	for i, old := range running {
		for calls.Load() < int64(i+1)*callers*each/5 { // spread over the load
			time.Sleep(time.Millisecond)
		}
		m.serve(&shop{work: work})
		if err := old.stop(); err != nil {
			t.Error(err)
		}
	}
	if calls.Load() == callers*each {
		t.Error("the load ended before the last restart")
	}
	wait.Wait()
	if n := failed.Load(); n != 0 {
		t.Errorf("%d of %d calls failed", n, calls.Load())
	}
}

// A handler that does not end is cut off by the deadline of the stop, and left behind.
//
// Case G2
func TestStopHasADeadline(t *testing.T) {
	m := newMesh(t)
	hung := make(chan struct{})
	defer close(hung)
	s := m.serve(&shop{work: func() { <-hung }}, meshlite.WithDrain(0, 100*time.Millisecond))
	client, _ := m.client("consul:///catalog", uncached())
	answered := make(chan error, 1)
	go func() {
		_, err := client.GetSweet(context.Background(), &catalogv1.GetSweetRequest{})
		answered <- err
	}()
	for s.calls.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	if err := <-answered; status.Code(err) != codes.Unavailable {
		t.Errorf("the call that hung answers %v, want Unavailable", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// X4: a panic in a handler: the process lives, INTERNAL without the stack on the
// wire, one counter +1.
//
// Case X4
func TestAPanicIsInternalAndCounted(t *testing.T) {
	m := newMesh(t)
	runtime := newRuntime(t)
	m.serve(&shop{work: func() { panic("secret of the house") }}, meshlite.WithRuntime(runtime))
	client, _ := m.client("consul:///catalog", uncached())
	_, err := client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{})
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "secret") {
		t.Errorf("error is %v, want INTERNAL without what the panic said", err)
	}
	if strings.Contains(err.Error(), "goroutine") {
		t.Errorf("the stack is on the wire: %v", err)
	}
	for _, want := range []string{
		`meshlite_panics_total{grpc_method="GetSweet",grpc_service="sweetshop.catalog.v1.CatalogService"} 1`,
		`grpc_server_handled_total{code_class="server",grpc_code="Internal",grpc_method="GetSweet",grpc_service="sweetshop.catalog.v1.CatalogService",grpc_type="unary"} 1`,
	} {
		if text := scrape(t, runtime); !strings.Contains(text, want) {
			t.Errorf("%s is not among\n%s", want, text)
		}
	}
	get := func() error { _, err := client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{}); return err }
	if err := get(); status.Code(err) != codes.Internal {
		t.Errorf("after the panic the server answers %v", err)
	}
}

func TestMetricsAndHealthAreServedOnLoopback(t *testing.T) {
	m := newMesh(t)
	m.serve(&shop{name: "a"})
	client, _ := m.client("consul:///catalog", uncached())
	get(t, client, "x")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var address string
	m.directory.Watch(ctx, catalogQuery("catalog"), func(s snapshot, _ error) {
		address = s.Instances[0].Metadata["metrics_address"]
		cancel()
	})
	if host, _, _ := net.SplitHostPort(address); host != "127.0.0.1" {
		t.Fatalf("the metrics address is %q, want loopback", address)
	}
	for path, want := range map[string]string{
		"/metrics":               `grpc_server_handled_total{code_class="ok",grpc_code="OK",grpc_method="GetSweet"`,
		"/healthz":               "ok",
		"/debug/meshlite":        `"limits": {`,
		"/debug/pprof/goroutine": "",
	} {
		response, err := http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s answers %d: %.300s", path, response.StatusCode, body)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestOwnInterceptorsHaveTheirPlace(t *testing.T) {
	m := newMesh(t)
	var seen atomic.Int64
	m.serve(&shop{name: "a"}, meshlite.WithInterceptors(interceptors.Interceptors{
		UnaryServerInterceptor: func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if info.FullMethod == catalogv1.CatalogService_GetSweet_FullMethodName {
				seen.Add(1)
			}
			return next(ctx, req)
		},
	}))
	client, _ := m.client("consul:///catalog", meshlite.WithInterceptors(interceptors.Interceptors{
		UnaryClientInterceptor: func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			seen.Add(100)
			return next(ctx, method, req, reply, cc, opts...)
		},
	}))
	get(t, client, "x")
	get(t, client, "x") // from the cache, which stands inside of the client's own
	if n := seen.Load(); n != 201 {
		t.Errorf("seen is %d, want 2 calls on the client and 1 of them on the server", n)
	}
}

// Several channels and servers share one runtime, and closing them gives
// everything back: the leak check at the end sees to it.
//
// Case R12
func TestChannelsShareOneRuntime(t *testing.T) {
	m := newMesh(t)
	m.serve(&shop{name: "a"})
	var conns []*grpc.ClientConn
	before := len(m.agent.Queries())
	for range 10 {
		client, conn := m.client("consul:///catalog")
		get(t, client, "x")
		conns = append(conns, conn)
	}
	if n := len(m.agent.Queries()) - before; n > 2 {
		t.Errorf("%d queries for ten channels, want one watch", n)
	}
	for _, conn := range conns {
		conn.Close()
	}
}

// scrape is what the metrics page of r says.
func scrape(t *testing.T, r *meshlite.Runtime) string {
	t.Helper()
	handler, err := r.Handler()
	if err != nil {
		t.Fatal(err)
	}
	page := httptest.NewRecorder()
	handler.ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return page.Body.String()
}

// tagged registers a server under service with tags; "" is its own name.
func tagged(service string, tags ...string) meshlite.ServerOption {
	return meshlite.WithRegistration(catalog.Registration{Instance: catalog.Instance{Service: service, Tags: tags}})
}
