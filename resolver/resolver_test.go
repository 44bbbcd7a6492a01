package resolver_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	grpcbalancer "google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcresolver "google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// R4: a 10-minute Consul outage fails no call, closes no connection, and retries
// back off with jitter up to a cap. No expiry of the last good list by default.
//
// Case R4: A 10-minute outage fails no call, closes no connection, backs off.
func TestOutageFailsNoCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.start(1)
		m.start(2)
		conn := m.connect()
		defer conn.Close()
		mustCall(t, conn, 10)
		synctest.Wait() // for both connections
		dialed, asked := m.dialed(), len(m.agent.Queries())
		m.agent.SetReachable(false)
		for range 600 {
			time.Sleep(time.Second)
			mustCall(t, conn, 1)
		}
		if n := m.dialed(); n != dialed {
			t.Errorf("%d connections were opened during the outage", n-dialed)
		}
		if n := len(m.agent.Queries()) - asked; n > 100 {
			t.Errorf("%d queries during the outage, want one each 7.5 to 15 s", n)
		}
		m.agent.SetReachable(true)
		m.start(3)
		time.Sleep(20 * time.Second)
		mustCall(t, conn, 30)
		if counts := m.count(3); counts[2] == 0 {
			t.Error("after the outage the new instance gets no calls")
		}
	})
}

// R5: Consul down at start, no snapshot: a fail-fast call fails Unavailable
// within the configured bound, naming Consul and its address; it never hangs to
// its deadline.
//
// Case R5: Consul down at start fails Unavailable within the bound.
func TestConsulDownAtStartFailsSoon(t *testing.T) {
	for name, down := range map[string]func(*mesh) (release func()){
		"refuses": func(m *mesh) func() { m.agent.SetReachable(false); return func() {} },
		"hangs": func(m *mesh) func() {
			m.agent.Intercept(hang)
			return func() {}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(t)
				defer down(m)()
				conn := m.connect(resolver.WithStartTimeout(2 * time.Second))
				defer conn.Close()
				start := time.Now()
				err := call(conn)
				if took := time.Since(start); took > 2*time.Second {
					t.Errorf("the call failed after %v, want 2s at most", took)
				}
				if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "consul at 127.0.0.1:8500") {
					t.Errorf("error is %v, want Unavailable that names Consul and its address", err)
				}
			})
		})
	}
}

// Case P10
func TestServiceWithoutInstancesFailsSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		conn := m.connect()
		defer conn.Close()
		start := time.Now()
		err := call(conn)
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), `no healthy instance of "catalog"`) || !strings.Contains(err.Error(), "ACLs") {
			t.Errorf("error is %v, want Unavailable that names the service and mentions ACLs", err)
		}
		if took := time.Since(start); took > 0 {
			t.Errorf("the call failed after %v, want at once", took)
		}
		m.start(1) // and it gets well by itself
		synctest.Wait()
		mustCall(t, conn, 1)
	})
}

// R6, and the grace time of G1: an empty answer is believed when it has stood
// longer than two heartbeats, and then it is.
//
// Case R6: Removal of the last instance is held for the grace time, then believed.
func TestEmptyAnswerIsHeldForTheGraceTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.start(1)
		conn := m.connect()
		defer conn.Close()
		mustCall(t, conn, 1)
		if err := m.agent.Deregister("catalog-1"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(12 * time.Second) // two heartbeats, both 20 % late
		mustCall(t, conn, 1)
		m.register(1, consultest.Service{})
		time.Sleep(time.Minute)
		mustCall(t, conn, 1)
		if err := m.agent.Deregister("catalog-1"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(16 * time.Second)
		if err := call(conn); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "no healthy instance") {
			t.Errorf("after the grace time the call answers %v, want Unavailable", err)
		}
		m.register(1, consultest.Service{})
		synctest.Wait()
		mustCall(t, conn, 1)
	})
}

// R8: answers that differ only in order, check output or index cause zero
// UpdateState calls.
//
// Case R8: Equal answers are not published.
func TestEqualAnswersAreNotPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &scripted{}
		cc := &recorder{}
		r := build(t, resolver.NewBuilder(d), "consul:///catalog", cc)
		defer r.Close()
		one := catalog.Instance{ID: "1", Address: "10.0.0.1:80", Weight: 1, Metadata: map[string]string{"a": "b"}}
		two := catalog.Instance{ID: "2", Address: "10.0.0.2:80", Weight: 1}
		for index := range uint64(10) {
			d.report(catalog.Snapshot{Index: index, Instances: []catalog.Instance{one, two}})
			d.report(catalog.Snapshot{Index: index, Instances: []catalog.Instance{two, one}})
			synctest.Wait()
		}
		if n := cc.updates(); n != 1 {
			t.Errorf("%d updates of twenty equal answers, want 1", n)
		}
	})
}

// R9: a change of weight, tag or metadata opens and closes zero connections.
//
// Case R9: Changed weight, tag, metadata keep connections.
func TestChangedAttributesKeepConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.start(1)
		m.start(2)
		conn := m.connect()
		defer conn.Close()
		mustCall(t, conn, 10)
		synctest.Wait() // for both connections
		dialed := m.dialed()
		for i := range 10 {
			m.register(1, consultest.Service{
				Weights: consultest.Weights{Passing: i + 2, Warning: 1},
				Tags:    []string{fmt.Sprint("tag", i)},
				Meta:    map[string]string{"turn": fmt.Sprint(i)},
			})
			synctest.Wait()
			mustCall(t, conn, 10)
		}
		if n := m.dialed(); n != dialed {
			t.Errorf("%d connections were opened by changes of weight, tag and metadata", n-dialed)
		}
	})
}

// R10: Close returns within 100 ms while a 10-minute query is open, and leaves no
// goroutine (100 build/close cycles; idle cycles).
//
// Case R10: Close is quick within an open query and leaves nothing.
func TestCloseIsQuickAndLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.start(1)
		before := 0
		for i := range 100 {
			conn := m.connect()
			mustCall(t, conn, 1)
			start := time.Now()
			if err := conn.Close(); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took > 100*time.Millisecond {
				t.Fatalf("closing took %v", took)
			}
			synctest.Wait()
			if n := runtime.NumGoroutine(); i == 0 {
				before = n
			} else if n > before+2 {
				t.Fatalf("%d goroutines after %d cycles, %d after the first", n, i+1, before)
			}
		}
	})
}

// Case R10
// Case R20
func TestIdleChannelLetsGoAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.start(1)
		options := append(m.options(m.directory()), grpc.WithIdleTimeout(time.Minute))
		conn, err := grpc.NewClient("consul:///catalog", options...)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for range 3 {
			mustCall(t, conn, 1)
			time.Sleep(3 * time.Minute)
			asked := len(m.agent.Queries())
			time.Sleep(10 * time.Minute)
			if n := len(m.agent.Queries()); n != asked {
				t.Errorf("an idle channel sent %d queries", n-asked)
			}
		}
	})
}

// R11: a thousand ResolveNow calls a second cause at most one extra query and
// never shorten the back-off.
//
// Case R11: ResolveNow costs nothing and shortens no back-off.
func TestResolveNowIsPatient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.agent.SetReachable(false)
		r := build(t, resolver.NewBuilder(m.directory(), resolver.WithLogger(silent)), "consul:///catalog", &recorder{})
		defer r.Close()
		time.Sleep(time.Minute)
		before := len(m.agent.Queries())
		for range 60_000 {
			r.ResolveNow(grpcresolver.ResolveNowOptions{})
			time.Sleep(time.Millisecond)
		}
		if n := len(m.agent.Queries()) - before; n > 60/7 {
			t.Errorf("%d queries in a minute of ResolveNow, want the back-off's 4 to 8", n)
		}
	})
}

// Case R12: Channels to one service share one query; 300 watches share 64 connections, counted
// where the client opens them.
func TestChannelsShareOneWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.start(1)
		builder := resolver.NewBuilder(m.directory(), resolver.WithLogger(silent))
		var conns []*grpc.ClientConn
		for range 10 {
			conn, err := grpc.NewClient("consul:///catalog", []grpc.DialOption{grpc.WithResolvers(builder),
				grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(m.dial)}...)
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
			mustCall(t, conn, 1)
		}
		if n := len(m.agent.Queries()); n > 2 {
			t.Errorf("%d queries for ten channels to one service, want the first and the one that blocks", n)
		}
		for _, conn := range conns {
			conn.Close()
		}
		asked := len(m.agent.Queries())
		time.Sleep(10 * time.Minute)
		if n := len(m.agent.Queries()); n != asked {
			t.Errorf("%d queries after the last channel was closed", n-asked)
		}
	})
}

// R14: with HTTPS_PROXY set (TestMain does) the policy still sees every endpoint
// with its attributes. The policy here connects to none of them.
//
// Case R14: HTTPS_PROXY does not hide the endpoints.
func TestProxyOfTheEnvironmentHidesNoEndpoint(t *testing.T) {
	m := newMesh(t)
	m.register(1, consultest.Service{})
	m.register(2, consultest.Service{})
	conn, err := grpc.NewClient("consul:///catalog?policy=grpc:"+onlooker{}.Name(),
		append(resolver.DialOptions(m.directory(), resolver.WithLogger(silent)), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Connect()
	endpoints := <-seen
	if len(endpoints) != 2 {
		t.Fatalf("the policy sees %d endpoints, want 2", len(endpoints))
	}
	for i, e := range endpoints {
		if instance := balancer.InstanceOf(e); instance == nil || e.Addresses[0].Addr != fmt.Sprintf("10.0.0.%d:80", i+1) {
			t.Errorf("the policy sees %v with instance %v", e.Addresses, instance)
		}
	}
}

// seen is what the onlooker was passed.
var seen = make(chan []grpcresolver.Endpoint, 1)

// onlooker is a policy that only looks.
type onlooker struct{ grpcbalancer.Balancer }

func init() { grpcbalancer.Register(onlooker{}) }

func (onlooker) Name() string { return "onlooker" }

func (o onlooker) Build(grpcbalancer.ClientConn, grpcbalancer.BuildOptions) grpcbalancer.Balancer {
	return o
}

func (onlooker) UpdateClientConnState(s grpcbalancer.ClientConnState) error {
	select {
	case seen <- s.ResolverState.Endpoints:
	default:
	}
	return nil
}

func (onlooker) ResolverError(error) {}
func (onlooker) ExitIdle()           {}
func (onlooker) Close()              {}

// Case R20
func TestDatacentersFailOverInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := &scripted{}, &scripted{}
		d := byDatacenter{"near": near, "far": far}
		cc := &recorder{}
		r := build(t, resolver.NewBuilder(d, resolver.WithLogger(silent)), "consul:///catalog?dc=near&dc=far", cc)
		defer r.Close()
		far.report(catalog.Snapshot{Instances: []catalog.Instance{{ID: "f", Address: "10.2.0.1:80", Weight: 1}}})
		synctest.Wait()
		if n := cc.updates(); n != 0 {
			t.Fatal("the second datacenter was taken before the first had its time")
		}
		near.report(catalog.Snapshot{Instances: []catalog.Instance{{ID: "n", Address: "10.1.0.1:80", Weight: 1}}})
		synctest.Wait()
		if got := cc.addresses(); got != "10.1.0.1:80" {
			t.Errorf("endpoints are %s, want those of the first datacenter", got)
		}
		near.report(catalog.Snapshot{})
		synctest.Wait()
		if got := cc.addresses(); got != "10.1.0.1:80" {
			t.Errorf("endpoints are %s, want those of the first datacenter for the grace time", got)
		}
		time.Sleep(16 * time.Second)
		if got := cc.addresses(); got != "10.2.0.1:80" {
			t.Errorf("endpoints are %s, want those of the second datacenter after it", got)
		}
		near.report(catalog.Snapshot{Instances: []catalog.Instance{{ID: "n", Address: "10.1.0.1:80", Weight: 1}}})
		synctest.Wait()
		near.fail(errors.New("no path to datacenter"))
		time.Sleep(16 * time.Second)
		if got := cc.addresses(); got != "10.2.0.1:80" {
			t.Errorf("endpoints are %s, want those of the second datacenter while the first is lost", got)
		}
		far.fail(errors.New("no path to datacenter"))
		time.Sleep(time.Hour)
		if got := cc.addresses(); got != "10.2.0.1:80" && got != "10.1.0.1:80" {
			t.Errorf("endpoints are %q, want the last list of a datacenter when all are lost", got)
		}
	})
}

// An empty answer before an outage does not shorten the grace time after it: an
// agent that comes back empty has no registrations yet.
//
// Case R6
func TestGraceBeginsAnewAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &scripted{}
		cc := &recorder{}
		r := build(t, resolver.NewBuilder(d, resolver.WithLogger(silent)), "consul:///catalog", cc)
		defer r.Close()
		d.report(catalog.Snapshot{Instances: []catalog.Instance{{ID: "1", Address: "10.0.0.1:80", Weight: 1}}})
		d.report(catalog.Snapshot{})
		time.Sleep(2 * time.Second)
		d.fail(errors.New("connection refused"))
		time.Sleep(20 * time.Second)
		d.report(catalog.Snapshot{})
		time.Sleep(14 * time.Second)
		if got := cc.addresses(); got != "10.0.0.1:80" {
			t.Errorf("endpoints are %q within the grace time, want the last list", got)
		}
		time.Sleep(2 * time.Second)
		if got := cc.addresses(); got != "" {
			t.Errorf("endpoints are %q after the grace time, want none", got)
		}
	})
}

// R4, after idleness: the last good list outlives the channel's sleep.
//
// Case R4
func TestIdleChannelComesBackDuringAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.start(1)
		conn, err := grpc.NewClient("consul:///catalog", append(m.options(m.directory()), grpc.WithIdleTimeout(time.Minute))...)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		mustCall(t, conn, 1)
		time.Sleep(3 * time.Minute)
		m.agent.SetReachable(false)
		mustCall(t, conn, 1)
	})
}

// R6, after idleness: what was believed to be gone does not come back.
//
// Case R6
func TestConfirmedRemovalIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &scripted{}
		builder := resolver.NewBuilder(d, resolver.WithLogger(silent))
		for turn, list := range [][]catalog.Instance{instances(1), nil, nil} {
			cc := &recorder{}
			r := build(t, builder, "consul:///catalog", cc)
			d.report(catalog.Snapshot{Instances: list})
			synctest.Wait()
			if got := cc.addresses(); turn == 2 && got != "" {
				t.Errorf("endpoints are %q of a service that was empty before, too", got)
			}
			time.Sleep(time.Minute)
			r.Close()
		}
	})
}

func TestPolicyInTheTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		for n := 1; n <= 3; n++ {
			m.start(n)
		}
		conn, err := grpc.NewClient("consul:///catalog?policy=round_robin", m.options(m.directory())...)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		mustCall(t, conn, 1)
		synctest.Wait()
		before := m.count(3)
		mustCall(t, conn, 30)
		for i, n := range m.count(3) {
			if n-before[i] != 10 {
				t.Errorf("instance %d got %d of 30 calls, want 10 in turn", i+1, n-before[i])
			}
		}
	})
}

func TestThePolicyOfATargetIsWrittenIntoTheServiceConfig(t *testing.T) {
	for name, test := range map[string]struct {
		write func(policy string) string
		want  string
	}{
		"by default":    {nil, `{"loadBalancingConfig": [{"meshlite_round_robin": {}}]}`},
		"by the option": {func(policy string) string { return `{"of": "` + policy + `"}` }, `{"of": "meshlite_round_robin"}`},
	} {
		t.Run(name, func(t *testing.T) {
			cc := &recorder{}
			r := build(t, resolver.NewBuilder(&scripted{}, resolver.WithServiceConfig(test.write)), "consul:///catalog?policy=round_robin", cc)
			defer r.Close()
			if cc.config != test.want {
				t.Errorf("service config is %s, want %s", cc.config, test.want)
			}
		})
	}
}

func TestWithoutPolicyNoServiceConfigIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &scripted{}
		cc := &recorder{}
		r := build(t, resolver.NewBuilder(d), "consul:///catalog", cc)
		defer r.Close()
		d.report(catalog.Snapshot{Instances: []catalog.Instance{{ID: "1", Address: "10.0.0.1:80", Weight: 3, Tags: []string{"x"}}}})
		synctest.Wait()
		state := cc.last()
		if state.ServiceConfig != nil {
			t.Error("a service config would displace the user's")
		}
		if len(state.Addresses) != 1 || len(state.Endpoints) != 1 {
			t.Fatalf("state is %+v, want one endpoint and one address", state)
		}
		if i := balancer.InstanceOf(state.Endpoints[0]); i == nil || i.Weight != 3 || i.Tags[0] != "x" {
			t.Errorf("the instance behind the endpoint is %+v", i)
		}
		if name := state.Addresses[0].ServerName; name != "" {
			t.Errorf("the address names %q, which would displace what the channel's owner pins", name)
		}
	})
}

// scripted is a directory that reports what a test passes to it.
type scripted struct {
	mu  sync.Mutex
	say func(catalog.Snapshot, error)
}

func (d *scripted) Watch(ctx context.Context, _ catalog.Query, report func(catalog.Snapshot, error)) {
	d.mu.Lock()
	d.say = report
	d.mu.Unlock()
	<-ctx.Done()
}

func (d *scripted) Name() string { return "script" }

func (d *scripted) report(s catalog.Snapshot) {
	synctest.Wait() // for the watch to be there
	d.mu.Lock()
	defer d.mu.Unlock()
	d.say(s, nil)
}

func (d *scripted) fail(err error) {
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.say(catalog.Snapshot{}, err)
}

type byDatacenter map[string]*scripted

func (d byDatacenter) Watch(ctx context.Context, q catalog.Query, report func(catalog.Snapshot, error)) {
	d[q.Datacenter].Watch(ctx, q, report)
}

func (d byDatacenter) Name() string { return "script" }

// recorder is gRPC's side of a resolver.
type recorder struct {
	grpcresolver.ClientConn
	mu     sync.Mutex
	states []grpcresolver.State
	config string
}

func (r *recorder) UpdateState(s grpcresolver.State) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.states = append(r.states, s)
	return nil
}

func (r *recorder) ReportError(error) {}

func (r *recorder) ParseServiceConfig(config string) *serviceconfig.ParseResult {
	r.config = config
	return &serviceconfig.ParseResult{}
}

func (r *recorder) updates() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.states)
}

func (r *recorder) last() grpcresolver.State {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.states) == 0 {
		return grpcresolver.State{}
	}
	return r.states[len(r.states)-1]
}

func (r *recorder) addresses() string {
	var all []string
	for _, e := range r.last().Endpoints {
		all = append(all, e.Addresses[0].Addr)
	}
	return strings.Join(all, " ")
}

func build(t testing.TB, b grpcresolver.Builder, target string, cc grpcresolver.ClientConn) grpcresolver.Resolver {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	r, err := b.Build(grpcresolver.Target{URL: *u}, cc, grpcresolver.BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustCall(t *testing.T, conn *grpc.ClientConn, times int) {
	t.Helper()
	for range times {
		if err := call(conn); err != nil {
			t.Fatal(err)
		}
	}
}

func hang(_ http.ResponseWriter, r *http.Request) bool {
	<-r.Context().Done()
	return true
}
