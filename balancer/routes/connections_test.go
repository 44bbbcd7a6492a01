package routes_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/internal/balancertest"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/route"
)

// backend is a real server that counts.
type backend struct {
	address  string
	accepted atomic.Int64 // connections
	calls    atomic.Int64
	stop     func()
}

func (b *backend) Accept(l net.Listener) net.Listener { return &countingListener{l, b} }

type countingListener struct {
	net.Listener
	backend *backend
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.backend.accepted.Add(1)
	}
	return c, err
}

// start serves at address; empty is any.
func (b *backend) start(t *testing.T) {
	t.Helper()
	address := b.address
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	b.address = listener.Addr().String()
	server := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		b.calls.Add(1)
		return handler(ctx, req)
	}))
	healthpb.RegisterHealthServer(server, health.NewServer())
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(b.Accept(listener)) }()
	b.stop = sync.OnceFunc(func() { server.Stop(); <-served })
	t.Cleanup(b.stop)
}

// real is a channel over TCP with the router's interceptor in its simplest form.
type real struct {
	t        *testing.T
	router   *routes.Router
	cc       resolver.ClientConn
	conn     *grpc.ClientConn
	backends map[string][]*backend
	tables   map[string]*balancer.Table
	switches bool // to another policy, without a chain
}

func newReal(t *testing.T, sizes map[string]int) *real {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	router, err := routes.NewRouter(routes.WithFailbackDelay(200*time.Millisecond), routes.WithLogger(log))
	if err != nil {
		t.Fatal(err)
	}
	r := &real{t: t, router: router, backends: map[string][]*backend{}, tables: map[string]*balancer.Table{}}
	chains, built := manual.NewBuilderWithScheme("chains"), make(chan struct{})
	chains.BuildCallback = func(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) {
		r.cc = cc
		close(built)
	}
	for id, n := range sizes {
		r.tables[id] = balancer.NewTable().WithLogger(log)
		for range n {
			b := &backend{}
			b.start(t)
			r.backends[id] = append(r.backends[id], b)
		}
	}
	choose := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if err := router.Wait(ctx, cc); err != nil {
			return err
		}
		_, at, err := router.Choose(ctx, method)
		if err != nil {
			return err
		}
		record := attempt.New()
		record.SetRoute(at)
		for { // the call is idempotent
			err = invoker(attempt.NewContext(ctx, record), method, req, reply, cc, opts...)
			if err == nil || record.Number() == 5 {
				break
			}
			time.Sleep(time.Duration(record.Number()) * 5 * time.Millisecond)
			record = record.Next()
		}
		router.Count(at, err)
		if to := record.Route(); err == nil && to != nil && !r.switches && !r.has(to.Target, record.Picked().Address) {
			t.Errorf("a call that was sent to %q by %v went to %s", to.Target, at, record.Picked().Address)
		}
		return err
	}
	r.conn, err = grpc.NewClient("chains:///catalog", grpc.WithNoProxy(), grpc.WithResolvers(chains), grpc.WithUnaryInterceptor(choose),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"meshlite_routes": `+policies+`}]}`))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.conn.Close() })
	r.conn.Connect()
	<-built
	return r
}

// set is what a resolver does. The first target is the service without a chain.
func (r *real) set(chain *route.Chain, ids ...string) {
	r.router.Update(chain, nil)
	var targets []routes.TargetState
	for _, id := range ids {
		var instances []*catalog.Instance
		for i, b := range r.backends[id] {
			instances = append(instances, &catalog.Instance{ID: fmt.Sprint(id, "-", i), Address: b.address, Weight: 1})
		}
		t := routes.TargetState{ID: id, State: balancer.WithTable(balancertest.StateOf(instances...), r.tables[id])}
		if chain != nil {
			t.Target = chain.Targets[id]
		}
		targets = append(targets, t)
	}
	if chain == nil && r.switches {
		state := targets[0].State
		state.ServiceConfig = r.cc.ParseServiceConfig(`{"loadBalancingConfig": [{"meshlite_round_robin": {}}]}`)
		_ = r.cc.UpdateState(state)
		return
	}
	state := resolver.State{ServiceConfig: r.cc.ParseServiceConfig(`{"loadBalancingConfig": [{"meshlite_routes": ` + policies + `}]}`)}
	_ = r.cc.UpdateState(routes.WithTargets(state, chain, targets, r.router))
}

// has reports whether an instance of a target is at address.
func (r *real) has(target, address string) bool {
	return slices.ContainsFunc(r.backends[target], func(b *backend) bool { return b.address == address })
}

func (r *real) call() error {
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	_, err := healthpb.NewHealthClient(r.conn).Check(ctx, &healthpb.HealthCheckRequest{})
	return err
}

// during makes calls while do runs.
func (r *real) during(do func()) {
	r.t.Helper()
	var callers sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		callers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := r.call(); err != nil {
					r.t.Errorf("a call fails: %v", err)
					return
				}
			}
		})
	}
	do()
	close(done)
	callers.Wait()
}

// until waits for a condition that comes true by itself.
func (r *real) until(what string, holds func() bool) {
	r.t.Helper()
	for range 3000 {
		if holds() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.t.Fatalf("never: %s", what)
}

// calledMore reports whether targets have had n calls more, each.
func (r *real) calledMore(n int64, ids ...string) func() bool {
	before := map[*backend]int64{}
	for _, id := range ids {
		for _, b := range r.backends[id] {
			before[b] = b.calls.Load()
		}
	}
	return func() bool {
		for b, calls := range before {
			if b.calls.Load() < calls+n {
				return false
			}
		}
		return true
	}
}

func (r *real) accepted(id string) (n int64) {
	for _, b := range r.backends[id] {
		n += b.accepted.Load()
	}
	return n
}

func withService(c *route.Chain) *route.Chain {
	if c.Targets["service"] != nil {
		c.Targets["service"] = &route.Target{ID: "service", Service: "catalog", Datacenter: "dc1"}
	}
	return c
}

// Chains that change under load drop no call. Calls go where they were sent, and targets that stay
// keep their connections, unless the resolver names another policy while there is no chain.
//
// Case T5
// Case T16
func TestChainsChangeUnderLoad(t *testing.T) {
	for _, switches := range []bool{false, true} {
		t.Run(fmt.Sprint("switches=", switches), func(t *testing.T) { changeChains(t, switches) })
	}
}

func changeChains(t *testing.T, switches bool) {
	r := newReal(t, map[string]int{"service": 2, "v1": 2, "v2": 2})
	r.switches = switches
	r.during(func() {
		for range 5 {
			r.set(nil, "service")
			r.until("calls go to the service", r.calledMore(5, "service"))
			for weight := 10.0; weight <= 50; weight += 20 {
				r.set(withService(chainOf(arm("service", 100-weight), arm("v2", weight))), "service", "v2")
				r.until("calls go to the service and v2", r.calledMore(5, "service", "v2"))
			}
			r.set(withService(chainOf(arm("v1", 50), arm("service", 50))), "v1", "service")
			r.until("calls go to v1", r.calledMore(5, "service", "v1"))
		}
	})
	if n := r.accepted("service"); n != 2 && !switches {
		t.Errorf("2 instances of the target that stays have accepted %d connections", n)
	}
	var failed, succeeded uint64
	for _, a := range r.router.Stats().Routes[0].Arms {
		failed += a.Targets[0].Failed
		succeeded += a.Targets[0].Succeeded
	}
	if failed != 0 || succeeded == 0 {
		t.Errorf("%d calls are counted as failed, %d as succeeded", failed, succeeded)
	}
}

// A target whose instances are all lost fails over, and back when they are there again: no
// idempotent call fails.
//
// Case T4: Failover order by subset, service and datacenter; fail back.
func TestFailoverAndBackOverRealConnections(t *testing.T) {
	r := newReal(t, map[string]int{"v1": 2, "other": 2})
	r.set(chainOf(arm("v1", 100, "other")), "v1", "other")
	for range 20 {
		if err := r.call(); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.accepted("other"); n != 0 {
		t.Errorf("the failover target has accepted %d connections before it is needed", n)
	}
	reached := r.calledMore(5, "other")
	r.during(func() {
		for _, b := range r.backends["v1"] {
			b.stop()
		}
		r.until("calls go to the failover target", reached)
	})
	for _, b := range r.backends["v1"] {
		b.start(t)
	}
	back := r.calledMore(5, "v1")
	r.during(func() { r.until("calls are back", back) })
}
