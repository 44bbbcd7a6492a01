package meshlite_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/internal/racetest"
	"github.com/meshlite-go/meshlite/meshtest"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

const speaksGRPC = `{"Kind": "service-defaults", "Name": "catalog", "Protocol": "grpc"}`

const twoVersions = `{"Kind": "service-resolver", "Name": "catalog", "Subsets": {
	"v1": {"Filter": "Service.Meta.version == 1"}, "v2": {"Filter": "Service.Meta.version == 2"}}}`

func split(v1, v2 int) string {
	return fmt.Sprintf(`{"Kind": "service-splitter", "Name": "catalog", "Splits": [
		{"Weight": %d, "ServiceSubset": "v1"}, {"Weight": %d, "ServiceSubset": "v2"}]}`, v1, v2)
}

// configure writes config entries.
func configure(t *testing.T, mesh *meshtest.Mesh, entries ...string) {
	t.Helper()
	for _, entry := range entries {
		if err := mesh.Agent.WriteConfig(entry); err != nil {
			t.Fatalf("%s: %v", entry, err)
		}
	}
}

// versioned answers with the version of its instance, and fails while failing is set.
type versioned struct {
	catalogv1.UnimplementedCatalogServiceServer
	version string
	seen    atomic.Pointer[metadata.MD]
	failing atomic.Bool
	stuck   atomic.Bool
	calls   atomic.Int64
}

func (v *versioned) GetSweet(ctx context.Context, _ *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
	v.calls.Add(1)
	md, _ := metadata.FromIncomingContext(ctx)
	v.seen.Store(&md)
	_ = grpc.SetHeader(ctx, metadata.Pairs("x-internal", "secret"))
	if v.stuck.Load() {
		<-ctx.Done()
	}
	if v.failing.Load() {
		return nil, status.Error(codes.Unavailable, "failing")
	}
	return &catalogv1.GetSweetResponse{Sweet: &catalogv1.Sweet{Id: v.version}}, nil
}

func (v *versioned) register(r grpc.ServiceRegistrar) { catalogv1.RegisterCatalogServiceServer(r, v) }

// serveVersion starts an instance of service whose metadata has a version.
func serveVersion(mesh *meshtest.Mesh, service, version string) (*versioned, *meshtest.Instance) {
	v := &versioned{version: version}
	registration := catalog.Registration{Instance: catalog.Instance{Service: service, Metadata: map[string]string{"version": version}}}
	return v, mesh.Serve(service, v.register, meshlite.WithRegistration(registration))
}

// splitCatalog serves two versions of catalog, with weights, to a client that caches nothing.
func splitCatalog(t *testing.T, v1, v2 int) (*meshtest.Mesh, catalogv1.CatalogServiceClient) {
	t.Helper()
	mesh := meshtest.New(t)
	serveVersion(mesh, "catalog", "1")
	serveVersion(mesh, "catalog", "2")
	configure(t, mesh, speaksGRPC, twoVersions, split(v1, v2))
	return mesh, catalogv1.NewCatalogServiceClient(mesh.Client("catalog", uncachedCalls()))
}

// answers calls n times and counts the versions that have answered; an error is one of its own.
func answers(ctx context.Context, client catalogv1.CatalogServiceClient, n int) map[string]int {
	counts := map[string]int{}
	for i := range n {
		answer, err := client.GetSweet(ctx, &catalogv1.GetSweetRequest{Id: fmt.Sprint(i)})
		if err != nil {
			counts[err.Error()]++
		}
		counts[answer.GetSweet().GetId()]++
	}
	delete(counts, "")
	return counts
}

// uncachedCalls keeps the cache out of what is counted.
func uncachedCalls() meshlite.Option {
	off := "0s"
	return meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{Cache: &policyv1.CacheRule{Ttl: &off}}})
}

func TestCallsGoByTheChainOfTheirService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := meshtest.New(t)
		serveVersion(mesh, "catalog", "1")
		two, _ := serveVersion(mesh, "catalog", "2")
		configure(t, mesh, speaksGRPC, twoVersions, split(90, 10), `{"Kind": "service-router", "Name": "catalog", "Routes": [{
			"Match": {"HTTP": {"Header": [{"Name": "x-canary", "Exact": "yes"}]}},
			"Destination": {"ServiceSubset": "v2", "RequestHeaders": {"Set": {"x-arm": "canary"}}, "ResponseHeaders": {"Remove": ["x-internal"], "Set": {"x-by": "mesh"}}}}]}`)
		client := catalogv1.NewCatalogServiceClient(mesh.Client("catalog", uncachedCalls()))
		if got := answers(t.Context(), client, 1000); got["1"]+got["2"] != 1000 || got["2"] < 99 || got["2"] > 101 {
			t.Errorf("a split of 90 and 10 gives %v", got)
		}
		canary := metadata.AppendToOutgoingContext(t.Context(), "x-canary", "yes")
		var header metadata.MD
		if _, err := client.GetSweet(canary, &catalogv1.GetSweetRequest{}, grpc.Header(&header)); err != nil {
			t.Fatal(err)
		}
		if md := *two.seen.Load(); len(md["x-arm"]) != 1 || md["x-arm"][0] != "canary" || header["x-internal"] != nil || len(header["x-by"]) != 1 {
			t.Errorf("the canary receives %v, its caller %v", md, header)
		}
	})
}

// The timeout of a route ends a call with an error that names it, and is counted.
func TestARouteBoundsItsCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := meshtest.New(t)
		one, _ := serveVersion(mesh, "catalog", "1")
		one.stuck.Store(true)
		configure(t, mesh, speaksGRPC, `{"Kind": "service-router", "Name": "catalog", "Routes": [{
			"Match": {"HTTP": {"PathPrefix": "/"}}, "Destination": {"RequestTimeout": "100ms"}}]}`)
		client := catalogv1.NewCatalogServiceClient(mesh.Client("catalog", uncachedCalls()))
		begun := time.Now()
		_, err := client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "toffee"})
		if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), `(timeout of route "route 1", arm "catalog": 100ms)`) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(begun); took != 100*time.Millisecond {
			t.Errorf("the call took %v", took)
		}
		expect(t, mesh.Runtime, 1, "meshlite_timeouts_total", "timeout=route", "grpc_method=GetSweet")
	})
}

// Case T16: Chain deleted: plain discovery again, 0 failed calls.
func TestADeletedChainIsPlainDiscoveryAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := meshtest.New(t)
		serveVersion(mesh, "catalog", "1")
		serveVersion(mesh, "catalog", "2")
		client := catalogv1.NewCatalogServiceClient(mesh.Client("catalog", uncachedCalls()))
		phase := func(name string, want func(map[string]int) bool) {
			t.Helper()
			got := map[string]int{}
			for range 100 { // ten seconds of calls, all of which count as answered or not
				for answer, n := range answers(t.Context(), client, 10) {
					got[answer] += n
				}
				time.Sleep(100 * time.Millisecond)
			}
			if latest := answers(t.Context(), client, 100); got["1"]+got["2"] != 1000 || !want(latest) {
				t.Errorf("%s: %v, and at its end %v", name, got, latest)
			}
		}
		both := func(got map[string]int) bool { return got["1"] > 20 && got["2"] > 20 }
		phase("without a chain", both)
		configure(t, mesh, speaksGRPC, twoVersions, split(0, 100))
		phase("all to v2", func(got map[string]int) bool { return got["2"] == 100 })
		configure(t, mesh, split(100, 0))
		phase("all to v1", func(got map[string]int) bool { return got["1"] == 100 })
		for _, kind := range []string{"service-splitter", "service-resolver", "service-defaults"} {
			if err := mesh.Agent.DeleteConfig(kind, "catalog"); err != nil {
				t.Fatal(err)
			}
		}
		phase("deleted", both)
	})
}

// Case T6: A written splitter moves the traffic within 1 s, and 0 of 10,000 calls fail.
func TestAShiftMovesCallsWithinASecond(t *testing.T) {
	racetest.Skip(t)
	synctest.Test(t, func(t *testing.T) {
		mesh, client := splitCatalog(t, 100, 0)
		const rounds, each = 1000, 10
		begin := time.Now()
		var written atomic.Int64 // after begin; 0 is not yet
		go func() {
			time.Sleep(2 * time.Second)
			if err := mesh.Agent.WriteConfig(split(0, 100)); err != nil {
				t.Error(err)
			}
			written.Store(int64(time.Since(begin)))
		}()
		for i := range rounds {
			before, at := time.Since(begin), time.Duration(written.Load())
			got := answers(t.Context(), client, each)
			switch {
			case got["1"]+got["2"] != each:
				t.Fatalf("round %d: %v, want no failure", i, got)
			case at == 0 && before < 2*time.Second && got["1"] != each:
				t.Fatalf("round %d, before the shift: %v", i, got)
			case at > 0 && before > at+time.Second && got["2"] != each:
				t.Fatalf("round %d, %v after the shift: %v", i, before-at, got)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if time.Duration(written.Load())+2*time.Second > time.Since(begin) {
			t.Error("the shift came too late to be seen")
		}
	})
}

// Case T9: An answer cached from one destination is never served to a call that is routed to
// another.
func TestAKeptAnswerIsThatOfItsDestination(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := meshtest.New(t)
		one, _ := serveVersion(mesh, "catalog", "1")
		two, _ := serveVersion(mesh, "catalog", "2")
		configure(t, mesh, speaksGRPC, twoVersions, `{"Kind": "service-router", "Name": "catalog", "Routes": [{
			"Match": {"HTTP": {"Header": [{"Name": "x-canary", "Present": true}]}}, "Destination": {"ServiceSubset": "v2"}},
			{"Match": {"HTTP": {"PathPrefix": "/"}}, "Destination": {"ServiceSubset": "v1"}}]}`)
		ttl, scope, again := "1 hour", policyv1.CacheScope_CACHE_SCOPE_PUBLIC, uint32(3)
		client := catalogv1.NewCatalogServiceClient(mesh.Client("catalog", meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{
			Cache: &policyv1.CacheRule{Ttl: &ttl, Scope: scope}, Retry: &policyv1.RetryRule{MaxAttempts: &again},
		}})))
		canary := metadata.AppendToOutgoingContext(t.Context(), "x-canary", "yes")
		for range 3 {
			for want, ctx := range map[string]context.Context{"1": t.Context(), "2": canary} {
				answer, err := client.GetSweet(ctx, &catalogv1.GetSweetRequest{Id: "fudge"})
				if err != nil || answer.GetSweet().GetId() != want {
					t.Errorf("v%s: got %v, %v", want, answer, err)
				}
			}
		}
		if one.calls.Load() != 1 || two.calls.Load() != 1 {
			t.Errorf("the instances got %d and %d calls, want one each", one.calls.Load(), two.calls.Load())
		}
	})
}

func TestARefusedChainFailsCallsOrLeavesTheLastOne(t *testing.T) {
	refused := `{"Kind": "service-router", "Name": "catalog", "Routes": [{
		"Match": {"HTTP": {"QueryParam": [{"Name": "x", "Present": true}]}}, "Destination": {"ServiceSubset": "v2"}}]}`
	t.Run("first", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			mesh := meshtest.New(t)
			serveVersion(mesh, "catalog", "1")
			configure(t, mesh, speaksGRPC, twoVersions, refused)
			client := catalogv1.NewCatalogServiceClient(mesh.Client("catalog"))
			_, err := client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{})
			if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "QueryParam") {
				t.Errorf("got %v, want UNAVAILABLE with what is refused", err)
			}
		})
	})
	t.Run("later", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			mesh, client := splitCatalog(t, 0, 100)
			answers(t.Context(), client, 1)
			configure(t, mesh, refused)
			time.Sleep(10 * time.Second)
			if got := answers(t.Context(), client, 100); got["2"] != 100 {
				t.Errorf("the last good chain is not in use: %v", got)
			}
			other := catalogv1.NewCatalogServiceClient(mesh.Client("catalog", uncachedCalls()))
			if got := answers(t.Context(), other, 100); got["2"] != 100 {
				t.Errorf("the last good chain is not that of a later channel: %v", got)
			}
		})
	})
	t.Run("while idle", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			mesh, client := splitCatalog(t, 0, 100)
			answers(t.Context(), client, 1)
			time.Sleep(time.Hour)
			configure(t, mesh, refused)
			if got := answers(t.Context(), client, 100); got["2"] != 100 {
				t.Errorf("the last good chain of an idle channel is not in use: %v", got)
			}
		})
	})
	t.Run("after plain discovery", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			mesh := meshtest.New(t)
			_, first := serveVersion(mesh, "catalog", "1")
			configure(t, mesh, speaksGRPC)
			client := catalogv1.NewCatalogServiceClient(mesh.Client("catalog", uncachedCalls()))
			if got := answers(t.Context(), client, 1); got["1"] != 1 {
				t.Fatalf("answers are %v", got)
			}
			configure(t, mesh, strings.Replace(refused, `"ServiceSubset": "v2"`, "", 1))
			time.Sleep(10 * time.Second)
			serveVersion(mesh, "catalog", "2")
			first.Leave()
			time.Sleep(30 * time.Second) // until the grace time of the first is over
			if got := answers(t.Context(), client, 10); got["2"] != 10 {
				t.Errorf("instances are not followed while the chain is refused: %v", got)
			}
		})
	})
}

func TestTheRouteIsInTheRecordOfTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := meshtest.New(t)
		serveVersion(mesh, "catalog", "2")
		configure(t, mesh, speaksGRPC, twoVersions, split(0, 100))
		ctx, record := attempt.FromOrNew(t.Context(), attempt.Unary)
		client := catalogv1.NewCatalogServiceClient(mesh.Client("catalog"))
		if _, err := client.GetSweet(ctx, &catalogv1.GetSweetRequest{}); err != nil {
			t.Fatal(err)
		}
		if at := record.Latest().Route(); at == nil || at.Arm != "v2" || at.Destination != "dc1/catalog/v2" {
			t.Errorf("the route is %+v", at)
		}
	})
}
