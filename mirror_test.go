package meshlite_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/meshtest"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// mirroring copies all calls of GetSweet and compares the answers, without a cache.
func mirroring(target string, ignore ...string) meshlite.Option {
	return meshlite.WithPolicy(&policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{"GetSweet": {
		Cache:  &policyv1.CacheRule{Ttl: proto.String("0s")},
		Mirror: &policyv1.MirrorRule{Target: &target, Percent: proto.Float64(100), Compare: proto.Bool(true), Ignore: ignore},
	}}})
}

// calm is when copies have ended, unless their target is stuck.
func calm() {
	time.Sleep(time.Second)
	synctest.Wait()
}

// callTimes makes n calls, one after the other.
func callTimes(ctx context.Context, t *testing.T, client catalogv1.CatalogServiceClient, n int) {
	t.Helper()
	for i := range n {
		if _, err := client.GetSweet(ctx, &catalogv1.GetSweetRequest{Id: fmt.Sprint(i)}); err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
		synctest.Wait()
	}
}

func TestCopiesGoToAnotherServiceAndCountNowhereElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := meshtest.New(t)
		serveVersion(mesh, "catalog", "1")
		next, _ := serveVersion(mesh, "catalog-next", "2")
		// The datacenter holds for the target, too; the filter is of the other service.
		conn := mesh.Client("catalog?dc=dc1&consistency=consistent&filter=Service.Meta.version+%3D%3D+1", mirroring("catalog-next"))
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer x")
		callTimes(ctx, t, catalogv1.NewCatalogServiceClient(conn), 20)
		calm()
		if md := *next.seen.Load(); next.calls.Load() != 20 || fmt.Sprint(md["authorization"], md["x-meshlite-mirror"]) != "[Bearer x] [1]" {
			t.Errorf("the target got %d calls, the last with %v", next.calls.Load(), md)
		}
		expect(t, mesh.Runtime, 20, "grpc_client_handled_total", "grpc_method=GetSweet")
		expect(t, mesh.Runtime, 20, "meshlite_endpoint_picks_total")
		expect(t, mesh.Runtime, 0, "meshlite_endpoint_picks_total", "service=catalog-next")
		expect(t, mesh.Runtime, 20, "meshlite_mirror_copies_total", "target=catalog-next", "grpc_code=OK")
		expect(t, mesh.Runtime, 20, "meshlite_mirror_answers_total", "result=different")
		expect(t, mesh.Runtime, 20, "meshlite_mirror_differences_total", "field=sweet.id")
		page := httptest.NewRecorder()
		adminPage(t, mesh.Runtime).ServeHTTP(page, localRequest(http.MethodGet, "/debug/meshlite", nil))
		if shown := strings.Join(strings.Fields(page.Body.String()), ""); !strings.Contains(shown, `"path":"sweet.id","count":20,"caller":"\"1\"","copy":"\"2\""`) {
			t.Errorf("the admin page has no sample: %.2000s", shown)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// An arm with weight 0 is enough, and it may come later.
func TestCopiesGoToASubsetWithoutCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &text{}
		mesh := meshtest.New(t)
		one, _ := serveVersion(mesh, "catalog", "1")
		two, _ := serveVersion(mesh, "catalog", "2")
		configure(t, mesh, speaksGRPC, twoVersions, `{"Kind": "service-splitter", "Name": "catalog", "Splits": [{"Weight": 100, "ServiceSubset": "v1"}]}`)
		client := catalogv1.NewCatalogServiceClient(mesh.Client("catalog", mirroring("catalog/v2"), meshlite.WithLogger(slog.New(slog.NewTextHandler(log, nil)))))
		callTimes(t.Context(), t, client, 10)
		calm()
		expect(t, mesh.Runtime, 10, "meshlite_mirror_copies_total", "grpc_code=Unavailable")
		if n := strings.Count(log.String(), "copies of calls fail"); n != 1 || !strings.Contains(log.String(), `has no subset \"v2\"`) {
			t.Errorf("%d lines: %s", n, log)
		}
		configure(t, mesh, split(100, 0))
		calm()
		callTimes(t.Context(), t, client, 10)
		calm()
		if one.calls.Load() != 20 || two.calls.Load() != 10 {
			t.Errorf("the instances got %d and %d calls, want 20 and 10", one.calls.Load(), two.calls.Load())
		}
		configure(t, mesh, split(50, 50)) // copies stay at their subset
		calm()
		callTimes(t.Context(), t, client, 10)
		calm()
		if n := one.calls.Load(); n < 24 || n > 26 || n+two.calls.Load() != 50 {
			t.Errorf("after a split the instances got %d and %d calls, want about 25 each, and 50 together", n, two.calls.Load())
		}
	})
}

func TestASubsetOfAServiceWithoutAChainIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := meshtest.New(t)
		one, _ := serveVersion(mesh, "catalog", "1")
		client := catalogv1.NewCatalogServiceClient(mesh.Client("catalog", mirroring("catalog/v2")))
		callTimes(t.Context(), t, client, 10)
		calm()
		expect(t, mesh.Runtime, 10, "meshlite_mirror_copies_total", "grpc_code=Unavailable")
		if one.calls.Load() != 10 {
			t.Errorf("the instance got %d calls, want those of the caller alone", one.calls.Load())
		}
	})
}

// Case T14
func TestAStuckInstanceOfAMirrorDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := meshtest.New(t)
		serveVersion(mesh, "catalog", "1")
		_, instance := serveVersion(mesh, "catalog-next", "2")
		instance.Hang()
		client := catalogv1.NewCatalogServiceClient(mesh.Client("catalog", mirroring("catalog-next")))
		callTimes(t.Context(), t, client, 1)
		calm()
		begin := time.Now()
		callTimes(t.Context(), t, client, 99)
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("callers have waited %v", waited)
		}
		expect(t, mesh.Runtime, 64, "meshlite_mirror_in_flight")
		expect(t, mesh.Runtime, 36, "meshlite_mirror_dropped_total", "reason=calls")
		time.Sleep(11 * time.Second)
		expect(t, mesh.Runtime, 64, "meshlite_mirror_copies_total", "grpc_code=DeadlineExceeded")
		callTimes(t.Context(), t, client, 10) // in flight when the channel is closed
	})
}

// Case T14
func TestAMirrorWithoutInstancesFailsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := meshtest.New(t)
		serveVersion(mesh, "catalog", "1")
		_, instance := serveVersion(mesh, "catalog-next", "2")
		client := catalogv1.NewCatalogServiceClient(mesh.Client("catalog", mirroring("catalog-next")))
		callTimes(t.Context(), t, client, 5)
		calm()
		instance.Kill()
		callTimes(t.Context(), t, client, 20)
		time.Sleep(20 * time.Second)
		sum, _ := measured(t, mesh.Runtime, "meshlite_mirror_copies_total")
		ok, _ := measured(t, mesh.Runtime, "meshlite_mirror_copies_total", "grpc_code=OK")
		if sum != 25 || ok != 5 {
			t.Errorf("of 25 copies %v have ended, and %v were answered, want 5", sum, ok)
		}
	})
}

// relay calls the next service, with metadata of its own, and then answers.
type relay struct {
	versioned
	next catalogv1.CatalogServiceClient
}

func (h *relay) GetSweet(ctx context.Context, request *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
	if _, err := h.next.GetSweet(metadata.NewOutgoingContext(ctx, metadata.Pairs("hop", h.version)), request); err != nil {
		return nil, err
	}
	return h.versioned.GetSweet(ctx, request)
}

func (h *relay) register(r grpc.ServiceRegistrar) { catalogv1.RegisterCatalogServiceServer(r, h) }

// A call goes from catalog by b to c, and its copy from catalog-next by the same b to c. The calls
// to c are mirrored: those of the copies are not.
//
// Case T14
func TestACopyIsNotMirroredAgainTwoHopsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := meshtest.New(t)
		c, _ := serveVersion(mesh, "c", "c")
		shadow, _ := serveVersion(mesh, "c-next", "shadow")
		to := func(service string, opts ...meshlite.ClientOption) catalogv1.CatalogServiceClient {
			return catalogv1.NewCatalogServiceClient(mesh.Client(service, opts...))
		}
		b := &relay{versioned: versioned{version: "b"}, next: to("c", mirroring("c-next"))}
		mesh.Serve("b", b.register)
		first := &relay{versioned: versioned{version: "1"}, next: to("b", uncachedCalls())}
		second := &relay{versioned: versioned{version: "2"}, next: to("b", uncachedCalls())}
		mesh.Serve("catalog", first.register)
		mesh.Serve("catalog-next", second.register)
		callTimes(t.Context(), t, to("catalog", mirroring("catalog-next")), 10)
		calm()
		if second.calls.Load() != 10 || b.calls.Load() != 20 || c.calls.Load() != 20 || shadow.calls.Load() != 10 {
			t.Errorf("%d copies, %d calls of b, %d of c and %d copies of these: want 10, 20, 20 and 10",
				second.calls.Load(), b.calls.Load(), c.calls.Load(), shadow.calls.Load())
		}
	})
}

// What the cache answers reaches no network, and neither does what the client's limit refuses.
func TestWhatStaysInTheClientIsNotCopied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := meshtest.New(t)
		serveVersion(mesh, "catalog", "1")
		next, _ := serveVersion(mesh, "catalog-next", "2")
		client := catalogv1.NewCatalogServiceClient(mesh.Client("catalog", meshlite.WithPolicy(&policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{"GetSweet": {
			Cache:      &policyv1.CacheRule{Ttl: proto.String("1h"), Scope: policyv1.CacheScope_CACHE_SCOPE_PUBLIC},
			RateLimits: []*policyv1.RateLimitRule{{Name: "all", Limit: proto.Uint64(2), Period: proto.String("1h"), Side: policyv1.Side_SIDE_CLIENT}},
			Retry:      &policyv1.RetryRule{MaxAttempts: proto.Uint32(1)},
			Mirror:     &policyv1.MirrorRule{Target: proto.String("catalog-next"), Percent: proto.Float64(100)},
		}}})))
		refused := 0
		for _, id := range []string{"a", "a", "a", "b", "b", "c", "d"} {
			if _, err := client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: id}); err != nil {
				refused++
			}
		}
		calm()
		if next.calls.Load() != 2 || refused != 2 {
			t.Errorf("%d copies and %d refused calls, want 2 each", next.calls.Load(), refused)
		}
	})
}

// The instances of a target prove the name of their own service.
func TestAMirrorsTargetMustProveItsName(t *testing.T) {
	m := newMesh(t)
	quiet := identity.WithLogger(silent)
	own := &shop{name: "a"}
	m.serveSecured(own, m.identified("catalog", quiet))
	next := &versioned{version: "next"}
	server, err := meshlite.NewServer("catalog-next", m.identified("catalog-next", quiet), meshlite.WithDirectory(m.directory), meshlite.WithLogger(silent),
		meshlite.WithRuntime(newRuntime(t)), meshlite.WithDrain(0, time.Second))
	if err != nil {
		t.Fatal(err)
	}
	next.register(server)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	<-server.Ready()
	// An instance of catalog is listed as one of another service.
	lease, err := m.directory.Register(t.Context(), catalog.Registration{Instance: catalog.Instance{Service: "impostor", ID: "impostor", Address: m.instances("catalog")[0]}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lease.Deregister(context.Background()) })
	for target, code := range map[string]string{"catalog-next": "OK", "impostor": "Unavailable"} {
		client := tlsClient(t, m, "consul:///catalog", []meshlite.ClientOption{mirroring(target), m.identified("web", quiet)})
		get(t, client, "x")
		await(t, m.runtime, 1, "meshlite_mirror_copies_total", "target="+target, "grpc_code="+code)
	}
	if own.calls.Load() != 2 || next.calls.Load() != 1 {
		t.Errorf("catalog got %d calls and catalog-next %d, want 2 and 1", own.calls.Load(), next.calls.Load())
	}
}

func TestAMirrorThatIsTurnedOffPassesTheMarkOn(t *testing.T) {
	t.Setenv("MESHLITE_DISABLE", "mirror")
	synctest.Test(t, func(t *testing.T) {
		mesh := meshtest.New(t)
		one, _ := serveVersion(mesh, "catalog", "1")
		next, _ := serveVersion(mesh, "catalog-next", "2")
		client := catalogv1.NewCatalogServiceClient(mesh.Client("catalog", mirroring("catalog-next")))
		callTimes(metadata.NewIncomingContext(t.Context(), metadata.Pairs("x-meshlite-mirror", "1")), t, client, 1)
		calm()
		if md := *one.seen.Load(); next.calls.Load() != 0 || len(md["x-meshlite-mirror"]) != 1 {
			t.Errorf("%d copies, and the call of the handler of a copy has %v", next.calls.Load(), md)
		}
		expect(t, mesh.Runtime, 1, "meshlite_disabled", "concern=mirror")
	})
}

// A channel without a directory copies nothing, and says so.
func TestAChannelWithoutADirectoryMirrorsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &text{}
		mesh := meshtest.New(t)
		_, instance := serveVersion(mesh, "catalog", "1")
		next, _ := serveVersion(mesh, "catalog-next", "2")
		client := catalogv1.NewCatalogServiceClient(mesh.Client("passthrough:///"+instance.Address, mirroring("catalog-next"), meshlite.WithLogger(slog.New(slog.NewTextHandler(log, nil)))))
		callTimes(t.Context(), t, client, 3)
		calm()
		expect(t, mesh.Runtime, 3, "meshlite_mirror_copies_total", "grpc_code="+codes.FailedPrecondition.String())
		if n := strings.Count(log.String(), "copies of calls fail"); next.calls.Load() != 0 || n != 1 || !strings.Contains(log.String(), "write its own target as consul:///service") {
			t.Errorf("%d copies; %s", next.calls.Load(), log)
		}
	})
}

func TestAnExplanationHasTheMirror(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := meshtest.New(t)
		serveVersion(mesh, "catalog", "1")
		mesh.Client("catalog", mirroring("catalog-next", "sweet.name"))
		e := explanationOf(t, mesh.Runtime)
		if m := e.Mirror; m == nil || m.Target != "catalog-next" || m.Percent != 100 || !m.Compare || fmt.Sprint(m.Ignore) != "[sweet.name]" || m.Why != "" {
			t.Errorf("%+v", e.Mirror)
		}
	})
}
