package meshlite_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/interceptors/concurrency"
	"github.com/meshlite-go/meshlite/internal/limitspage"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// oneAtATime is a policy with a limit of one call, that is tried elsewhere as often as
// it takes.
func oneAtATime() meshlite.Option {
	return meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{
		Cache:       &policyv1.CacheRule{Ttl: proto.String("0s")},
		Retry:       &policyv1.RetryRule{MaxAttempts: proto.Uint32(3), Budget: proto.Float64(1)},
		Concurrency: &policyv1.ConcurrencyRule{Max: proto.Uint32(1)},
	}})
}

// full is an instance that has begun a call and does not end it before the test does.
func full(t *testing.T, m *mesh, opts ...meshlite.ServerOption) (s *shop, end func()) {
	t.Helper()
	begun, release, over := make(chan struct{}), make(chan struct{}), make(chan struct{})
	s = &shop{name: "full", work: func() { close(begun); <-release }}
	m.serve(s, append(opts, oneAtATime())...)
	client, _ := m.client("dns:///"+m.instances("catalog")[0], uncached())
	go func() {
		defer close(over)
		_, _ = client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "x"})
	}()
	<-begun
	return s, func() { close(release); <-over }
}

// An instance that is full refuses at once; its calls are answered by another, and it is
// not ejected for it.
//
// Case full instance: Its calls are answered by another, it is not ejected, and it answers
// hits.
func TestCallsThatAnInstanceRefusesAreAnsweredByAnother(t *testing.T) {
	m := newMesh(t)
	server := newRuntime(t)
	busy, end := full(t, m, meshlite.WithRuntime(server))
	defer end()
	m.serve(&shop{name: "free"}, oneAtATime())
	client, _ := m.client("consul:///catalog?policy=round_robin", oneAtATime())
	refused := func() bool {
		_, n := measured(t, server, "meshlite_concurrency_requests_total", "result=refused")
		return n > 0
	}
	for { // while the free one is not connected
		if _, err := client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "x"}); err == nil {
			break
		} else if status.Code(err) != codes.Unavailable {
			t.Fatal(err)
		}
	}
	for n := 0; n < 40 || !refused() && n < 4000; n++ { // connections are made one after the other
		if got := get(t, client, "x"); got != "free" {
			t.Fatalf("%s has answered", got)
		}
	}
	if n := busy.calls.Load(); n != 1 {
		t.Errorf("%d handlers of the full instance have begun, want the one", n)
	}
	page := scrape(t, server)
	for _, want := range []string{
		`meshlite_concurrency_limit{grpc_method="GetSweet",grpc_service="sweetshop.catalog.v1.CatalogService"} 1`,
		`meshlite_concurrency_in_flight{grpc_method="GetSweet",grpc_service="sweetshop.catalog.v1.CatalogService"} 1`,
		`meshlite_concurrency_requests_total{grpc_method="GetSweet",grpc_service="sweetshop.catalog.v1.CatalogService",result="admitted"} 1`,
		`meshlite_concurrency_requests_total{grpc_method="GetSweet",grpc_service="sweetshop.catalog.v1.CatalogService",result="refused"} `,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if page := scrape(t, m.runtime); !strings.Contains(page, `meshlite_ejections_total{reason="`+string(balancer.ConsecutiveFailures)+`",service="catalog"} 0`) {
		t.Error("the full instance was ejected")
	}
}

func TestTheAdminPageShowsConcurrency(t *testing.T) {
	m := newMesh(t)
	runtime := newRuntime(t)
	_, end := full(t, m, meshlite.WithRuntime(runtime))
	defer end()
	handler, err := runtime.Handler()
	if err != nil {
		t.Fatal(err)
	}
	page := httptest.NewRecorder()
	handler.ServeHTTP(page, localRequest(http.MethodGet, "/debug/meshlite", nil))
	var shown struct{ Concurrency limitspage.ConcurrencyPage }
	if err := json.Unmarshal(page.Body.Bytes(), &shown); err != nil {
		t.Fatal(err)
	}
	if all := shown.Concurrency.Limiters; len(all) != 1 || all[0].Name != "runtime" || len(all[0].Methods) != 1 || all[0].Methods[0].InFlight != 1 || all[0].Methods[0].Limit != 1 {
		t.Errorf("/debug/meshlite shows %+v", shown.Concurrency)
	}
}

// A limiter of the user's own takes the place of the runtime's.
func TestALimiterOfOnesOwn(t *testing.T) {
	m := newMesh(t)
	limiter, err := concurrency.New()
	if err != nil {
		t.Fatal(err)
	}
	_, end := full(t, m, meshlite.WithConcurrency(limiter))
	defer end()
	client, _ := m.client("consul:///catalog", uncached())
	_, err = client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "x"})
	if stats := limiter.Stats(); status.Code(err) != codes.Unavailable || len(stats) != 1 || stats[0].Refused != 1 {
		t.Errorf("error %v, figures %+v", err, stats)
	}
}
