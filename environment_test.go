package meshlite_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/meshtest"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	inventoryv1 "github.com/meshlite-go/meshlite/proto/sweetshop/inventory/v1"
)

// text is a log that tests can read. It is safe for concurrent use.
type text struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *text) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *text) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

func registerShop(s *shop) func(grpc.ServiceRegistrar) {
	return func(r grpc.ServiceRegistrar) { catalogv1.RegisterCatalogServiceServer(r, s) }
}

// What is off does nothing, is logged once, and is in the metrics and on the admin page.
//
// Case T kill switches: MESHLITE_DISABLE turns single concerns off, for what is built then;
// logs, metrics and the admin page say so; authorization cannot be turned off.
func TestTheEnvironmentTurnsConcernsOff(t *testing.T) {
	for _, off := range []string{"", "cache, retry"} {
		t.Setenv("MESHLITE_DISABLE", off)
		log := &text{}
		mesh := meshtest.New(t)
		instance := mesh.Serve("catalog", registerShop(&shop{name: "a"}))
		connect := func() catalogv1.CatalogServiceClient {
			return catalogv1.NewCatalogServiceClient(mesh.Client("catalog", meshlite.WithLogger(slog.New(slog.NewTextHandler(log, nil)))))
		}
		client := connect()
		connect()
		get(t, client, "x")
		get(t, client, "x")
		wantCalls, wantTries, want := 1, 3, 0.0
		if off != "" {
			wantCalls, wantTries, want = 2, 1, 1.0
		}
		if n := instance.Calls(); n != wantCalls {
			t.Errorf("off: %q: %d of 2 calls reached the handler, want %d", off, n, wantCalls)
		}
		instance.Fail(codes.Unavailable)
		before := instance.Calls()
		if _, err := client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "y"}); status.Code(err) != codes.Unavailable {
			t.Errorf("off: %q: %v", off, err)
		}
		if n := instance.Calls() - before; n != wantTries {
			t.Errorf("off: %q: a call was tried %d times, want %d", off, n, wantTries)
		}
		page := httptest.NewRecorder()
		adminPage(t, mesh.Runtime).ServeHTTP(page, localRequest(http.MethodGet, "/debug/meshlite", nil))
		for _, name := range []string{"cache", "retry"} {
			expect(t, mesh.Runtime, want, "meshlite_disabled", "concern="+name)
			if n := strings.Count(log.String(), "concern="+name+" variable=MESHLITE_DISABLE"); n != int(want) {
				t.Errorf("off: %q: %d lines of %s, want %v:\n%s", off, n, name, want, log)
			}
		}
		for _, name := range []string{"tracing", "logging", "deadline", "mirror", "ratelimit", "concurrency", "balancer.ejection", "balancer.slowstart", "balancer.zone"} {
			expect(t, mesh.Runtime, 0, "meshlite_disabled", "concern="+name)
		}
		if shown := strings.Join(strings.Fields(page.Body.String()), ""); strings.Contains(shown, `"disabled":["cache","retry"]`) != (off != "") {
			t.Errorf("off: %q: the admin page has %.300s", off, shown)
		}
	}
}

// On a server, too: limits of rate and of running handlers, and deadlines.
//
// Case T kill switches
func TestTheEnvironmentTurnsConcernsOfServersOff(t *testing.T) {
	policy := meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{
		Timeout: proto.String("1s"), TimeoutSide: policyv1.Side_SIDE_SERVER, Cache: &policyv1.CacheRule{Ttl: proto.String("0s")},
		RateLimits: []*policyv1.RateLimitRule{{Name: "all", Limit: proto.Uint64(1), Period: proto.String("24h")}},
	}})
	for _, off := range []string{"", "ratelimit", "ratelimit,deadline,concurrency,logging,tracing"} {
		t.Setenv("MESHLITE_DISABLE", off)
		synctest.Test(t, func(t *testing.T) {
			mesh := meshtest.New(t)
			server := mesh.Serve("catalog", registerShop(&shop{name: "a"}), policy)
			client := catalogv1.NewCatalogServiceClient(mesh.Client("catalog"))
			get(t, client, "1")
			_, err := client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "2"})
			if limited := status.Code(err) == codes.ResourceExhausted; limited != (off == "") {
				t.Errorf("off: %q: a call beyond the limit answers %v", off, err)
			}
			if off == "" {
				return
			}
			server.Slow(1500 * time.Millisecond)
			_, err = client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "3"})
			if late := status.Code(err) == codes.DeadlineExceeded; late != (off == "ratelimit") {
				t.Errorf("off: %q: a call of 1.5 s answers %v", off, err)
			}
		})
	}
}

// stock is an inventory where everything can be reserved.
type stock struct {
	inventoryv1.UnimplementedInventoryServiceServer
}

func (stock) Reserve(context.Context, *inventoryv1.ReserveRequest) (*inventoryv1.ReserveResponse, error) {
	return &inventoryv1.ReserveResponse{}, nil
}

// A process without its cache still invalidates what others have cached.
//
// Case T kill switches
func TestACacheThatIsOffStillInvalidates(t *testing.T) {
	policy := meshlite.WithPolicy(&policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{
		"sweetshop.inventory.v1.InventoryService/Reserve": {Invalidates: &policyv1.Invalidation{Methods: []string{"sweetshop.catalog.v1.CatalogService/GetSweet"}}},
	}})
	mesh := meshtest.New(t)
	instance := mesh.Serve("catalog", func(s grpc.ServiceRegistrar) {
		catalogv1.RegisterCatalogServiceServer(s, &shop{name: "a"})
		inventoryv1.RegisterInventoryServiceServer(s, stock{})
	})
	caches := catalogv1.NewCatalogServiceClient(mesh.Client("catalog", policy))
	t.Setenv("MESHLITE_DISABLE", "cache")
	changes := inventoryv1.NewInventoryServiceClient(mesh.Client("catalog", policy))
	get(t, caches, "x")
	get(t, caches, "x")
	if n := instance.Calls(); n != 1 {
		t.Fatalf("%d of 2 calls reached the handler, want 1", n)
	}
	if _, err := changes.Reserve(t.Context(), &inventoryv1.ReserveRequest{}); err != nil {
		t.Fatal(err)
	}
	before := instance.Calls()
	get(t, caches, "x")
	if n := instance.Calls() - before; n != 1 {
		t.Error("an answer that was invalidated is served")
	}
}

// Ejection can be turned off alone, whatever config has the policy.
//
// Case T kill switches
func TestTheEnvironmentTurnsEjectionOff(t *testing.T) {
	for name, option := range map[string]meshlite.ClientOption{
		"WithBalancer":             meshlite.WithBalancer("round_robin"),
		"WithServiceConfig":        meshlite.WithServiceConfig(`{"loadBalancingConfig": [{"meshlite_round_robin": {"ejection": {"consecutiveFailures": 3}}}]}`),
		"WithServiceConfig's name": meshlite.WithServiceConfig(`{"loadBalancingPolicy": "meshlite_round_robin"}`),
	} {
		for _, off := range []string{"", "balancer.ejection,balancer.slowstart,balancer.zone"} {
			t.Setenv("MESHLITE_DISABLE", off)
			synctest.Test(t, func(t *testing.T) {
				mesh := meshtest.New(t)
				ill := mesh.Serve("catalog", registerShop(&shop{name: "a"}))
				mesh.Serve("catalog", registerShop(&shop{name: "b"}))
				client := catalogv1.NewCatalogServiceClient(mesh.Client("catalog", option, uncached()))
				get(t, client, "x")
				synctest.Wait()
				ill.Fail(codes.Unavailable)
				for range 60 {
					time.Sleep(10 * time.Millisecond)
					_, _ = client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "x"})
				}
				if n, _ := measured(t, mesh.Runtime, "meshlite_ejections_total"); (n == 0) != (off != "") {
					t.Errorf("%s, off: %q: %v ejections", name, off, n)
				}
			})
		}
	}
}

// A name that is none, or of what must not be turned off, fails what is built, and the error
// has all names that can be: each stage is one of them, or is refused.
//
// Case T kill switches
func TestOnlyWhatIsSafeCanBeTurnedOff(t *testing.T) {
	never := map[interceptors.Stage]bool{
		interceptors.Authorization: true, interceptors.Recovery: true, interceptors.Metrics: true,
		interceptors.User: true, interceptors.Handler: true,
	}
	build := func(value string) error {
		t.Setenv("MESHLITE_DISABLE", value)
		conn, client := meshlite.NewClient("dns:///127.0.0.1:1", meshlite.WithPlaintext(), meshlite.WithRuntime(newRuntime(t)), meshlite.WithLogger(silent))
		_, server := meshlite.NewServer("catalog", meshlite.WithPlaintext(), meshlite.WithRuntime(newRuntime(t)), meshlite.WithLogger(silent))
		if conn != nil {
			conn.Close()
		}
		if (client == nil) != (server == nil) {
			t.Errorf("%q: a client is built with %v, a server with %v", value, client, server)
		}
		return client
	}
	for stage := interceptors.Tracing; stage <= interceptors.Explained; stage++ {
		if err := build(stage.String()); (err != nil) != never[stage] {
			t.Errorf("%v: %v", stage, err)
		}
	}
	for _, value := range []string{"cahce", "cache,authz", "authorization", "Cache", "balancer", "all", "*"} {
		err := build(value)
		if err == nil || !strings.Contains(err.Error(), "MESHLITE_DISABLE") || !strings.Contains(err.Error(), value) || !strings.Contains(err.Error(), "write some of explained, tracing, logging, routing, deadline, cache, mirror, retry, ratelimit, concurrency, balancer.ejection") {
			t.Errorf("%q: %v, want an error with the variable, the value and the names", value, err)
		}
	}
	for _, value := range []string{"", " ", ",", "cache,,retry,cache", " balancer.zone "} {
		if err := build(value); err != nil {
			t.Errorf("%q: %v", value, err)
		}
	}
}

// The environment sets what no option sets, and errors name the variable.
//
// Case T settings: What differs between places is set by MESHLITE_*, below the options of the
// program, and checked.
func TestTheEnvironmentSetsAddressesAndLocality(t *testing.T) {
	m := newMesh(t)
	t.Setenv("MESHLITE_LISTEN_ADDRESS", "127.0.0.1:0")
	t.Setenv("MESHLITE_METRICS_ADDRESS", "127.0.0.1:0")
	t.Setenv("MESHLITE_REGION", "eu")
	t.Setenv("MESHLITE_ZONE", "eu-1")
	of := func(opts ...meshlite.ServerOption) (address, region, zone, metrics string) {
		t.Helper()
		instance := m.serve(&shop{name: "a"}, opts...)
		registered := m.registered("catalog")[0]
		if err := instance.stop(); err != nil {
			t.Error(err)
		}
		return registered.Address, registered.Region, registered.Zone, registered.Metadata["metrics_address"]
	}
	if address, region, zone, metrics := of(); !strings.HasPrefix(address, "127.0.0.1:") || region != "eu" || zone != "eu-1" || metrics == "" {
		t.Errorf("registered at %s in %s, %s, with metrics at %q", address, region, zone, metrics)
	}
	if address, region, zone, metrics := of(meshlite.WithListenAddress("127.0.0.2:0"), meshlite.WithMetricsAddress(""), meshlite.WithLocality("us", "")); !strings.HasPrefix(address, "127.0.0.2:") || region != "us" || zone != "" || metrics != "" {
		t.Errorf("with options, registered at %s in %q, %q, with metrics at %q", address, region, zone, metrics)
	}
	for variable, value := range map[string]string{
		"MESHLITE_LISTEN_ADDRESS": "70000", "MESHLITE_METRICS_ADDRESS": "9090", "MESHLITE_LOG_LEVEL": "loud", "MESHLITE_REGION": "",
	} {
		t.Run(variable, func(t *testing.T) {
			t.Setenv(variable, value)
			_, err := meshlite.NewServer("catalog", meshlite.WithPlaintext(), meshlite.WithRuntime(newRuntime(t)), meshlite.WithLogger(silent))
			if value == "" {
				variable, value = "MESHLITE_ZONE", "eu-1"
			}
			if err == nil || !strings.Contains(err.Error(), variable+" \""+value+"\": ") {
				t.Errorf("%v, want an error that names the variable and the value", err)
			}
		})
	}
}

// The level of the mesh's own lines is the environment's, below and above that of the
// program's handler, and the program's own lines are left alone.
//
// Case T settings
func TestTheEnvironmentSetsTheLogLevel(t *testing.T) {
	for level, want := range map[string]bool{"": false, "debug": true, "ERROR": false} {
		t.Setenv("MESHLITE_LOG_LEVEL", level)
		log := &text{}
		logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelInfo}))
		mesh := meshtest.New(t)
		mesh.Serve("catalog", registerShop(&shop{name: "a"}), meshlite.WithLogger(logger))
		get(t, catalogv1.NewCatalogServiceClient(mesh.Client("catalog", meshlite.WithLogger(logger))), "x")
		logger.Debug("the program's own")
		if got := strings.Contains(log.String(), "level=DEBUG msg=call side=client"); got != want {
			t.Errorf("%q: a call is logged: %t, want %t:\n%s", level, got, want, log)
		}
		if got := strings.Contains(log.String(), "msg=serving"); got != (level != "ERROR") {
			t.Errorf("%q: the start of the server is logged: %t", level, got)
		}
		if strings.Contains(log.String(), "the program's own") {
			t.Errorf("%q: the level of the program's own lines has changed", level)
		}
	}
}

// A channel warns once for each method of unary calls without a deadline, and counts them.
//
// Case T deadlines: A unary call without a deadline is counted, and the first of a method
// logged.
func TestCallsWithoutADeadlineAreWarnedOfOnce(t *testing.T) {
	log := &text{}
	mesh := meshtest.New(t)
	mesh.Serve("catalog", registerShop(&shop{name: "a"}))
	conn := mesh.Client("catalog", meshlite.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
	health := healthv1.NewHealthClient(conn)
	check := func(ctx context.Context) {
		t.Helper()
		if _, err := health.Check(ctx, &healthv1.HealthCheckRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	bounded, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	check(bounded)
	stream, err := health.Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	// Its policy has a timeout.
	if _, err := catalogv1.NewCatalogServiceClient(conn).GetSweet(t.Context(), &catalogv1.GetSweetRequest{}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(log.String(), "no deadline") {
		t.Fatalf("it warns of calls that have one, or of a stream:\n%s", log)
	}
	check(t.Context())
	check(t.Context())
	if n := strings.Count(log.String(), "no deadline"); n != 1 || !strings.Contains(log.String(), "method=/grpc.health.v1.Health/Check") {
		t.Errorf("%d warnings of 2 calls, want 1 that names the method:\n%s", n, log)
	}
	expect(t, mesh.Runtime, 2, "grpc_client_without_deadline_total")
}
