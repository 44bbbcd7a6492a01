package meshlite_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// A counter that begins with its first event is lost to rate(): those of a server's
// methods, with all codes, are there before the first call.
//
// Case M2 (from 0): Counters exist before the first event, with all codes.
func TestCountersOfAServerExistBeforeTheFirstCall(t *testing.T) {
	m := newMesh(t)
	own := newRuntime(t)
	m.serve(&shop{name: "a"}, meshlite.WithRuntime(own))
	for service, methods := range map[string][]string{
		"sweetshop.catalog.v1.CatalogService": {"GetSweet", "ListSweets"}, "grpc.health.v1.Health": {"Watch"},
	} {
		for _, method := range methods {
			of := []string{"grpc_service=" + service, "grpc_method=" + method}
			for name, want := range map[string]int{"grpc_server_started_total": 1, "grpc_server_in_flight": 1, "grpc_server_handled_total": 17, "meshlite_panics_total": 1} {
				sum, series := measured(t, own, name, of...)
				if series != want || sum != 0 {
					t.Errorf("%d series of %s%v, in all %v, want %d at 0", series, name, of, sum, want)
				}
			}
			if _, n := measured(t, own, "grpc_server_handled_total", append(of, "code_class=server")...); n != 6 {
				t.Errorf("%d codes of failures of %v, want 6", n, of)
			}
		}
	}
}

// A client has them from the first call of a method on.
//
// Case M2 (from 0)
func TestCountersOfAClientExistFromTheFirstCall(t *testing.T) {
	m := newMesh(t)
	own := newRuntime(t)
	m.serve(&shop{name: "a"})
	client, _ := m.client("consul:///catalog", meshlite.WithRuntime(own))
	if _, err := client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{}); err != nil {
		t.Fatal(err)
	}
	for code := codes.OK; code <= codes.Unauthenticated; code++ {
		want := 0.0
		if code == codes.OK {
			want = 1
		}
		sum, series := measured(t, own, "grpc_client_handled_total", "grpc_method=GetSweet", "grpc_code="+code.String())
		if series != 1 || sum != want {
			t.Errorf("%v: %d series, in all %v, want one at %v", code, series, sum, want)
		}
	}
}

// page is what a handler answers to a scrape.
func page(t *testing.T, handler http.Handler) string {
	t.Helper()
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, httptest.NewRequest("GET", "http://127.0.0.1/metrics", nil))
	if answer.Code != http.StatusOK {
		t.Fatalf("/metrics answers %d: %.200s", answer.Code, answer.Body)
	}
	return answer.Body.String()
}

func mustHandler(t *testing.T, r *meshlite.Runtime) http.Handler {
	t.Helper()
	handler, err := r.Handler()
	if err != nil {
		t.Fatal(err)
	}
	return handler
}

// once checks that each family is on a page, and is there once.
func once(t *testing.T, page string, families ...string) {
	t.Helper()
	for _, name := range families {
		if n := strings.Count(page, "# TYPE "+name+" "); n != 1 {
			t.Errorf("%s is %d times on the page, want once", name, n)
		}
	}
}

// The registries of a runtime and of the program can be gathered as one.
//
// Case M3 (program's own): The metrics stand beside a program's own, on one page or in one
// registry.
func TestMetricsStandBesideTheProgramsOwn(t *testing.T) {
	own := newRuntime(t)
	both := prometheus.Gatherers{prometheus.DefaultGatherer, own.Registry()}
	once(t, page(t, promhttp.HandlerFor(both, promhttp.HandlerOpts{})), "meshlite_build_info", "go_goroutines")
	once(t, page(t, mustHandler(t, own)), "meshlite_build_info", "go_goroutines", "process_start_time_seconds")
	own.Registry().MustRegister(collectors.NewGoCollector())
	once(t, page(t, mustHandler(t, own)), "meshlite_build_info", "go_goroutines", "process_start_time_seconds")
}

// With a Registerer, all is on the program's own page, and on the runtime's, with what
// was added to the runtime's registry later.
//
// Case M3 (program's own)
func TestMetricsAreInTheProgramsOwnRegistry(t *testing.T) {
	registry := prometheus.NewRegistry()
	added := func(name string) prometheus.Collector {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: "Of the program."})
	}
	registry.MustRegister(added("program_events_total"), collectors.NewGoCollector())
	own := configured(t, meshlite.RuntimeConfig{Registerer: registry})
	own.Registry().MustRegister(added("program_later_total"))
	once(t, page(t, promhttp.HandlerFor(registry, promhttp.HandlerOpts{})), "meshlite_build_info", "program_events_total", "program_later_total", "go_goroutines")
	once(t, page(t, mustHandler(t, own)), "meshlite_build_info", "program_events_total", "program_later_total", "go_goroutines", "process_start_time_seconds")

	// One that cannot be gathered from has the metrics, and the runtime's page has its own.
	wrapped := configured(t, meshlite.RuntimeConfig{Registerer: prometheus.WrapRegistererWithPrefix("second_", registry)})
	once(t, page(t, promhttp.HandlerFor(registry, promhttp.HandlerOpts{})), "meshlite_build_info", "second_meshlite_build_info")
	once(t, page(t, mustHandler(t, wrapped)), "meshlite_build_info", "process_start_time_seconds")
}

// What cannot be registered is an error of the runtime, which names the field and the fix.
//
// Case M3 (program's own)
func TestARegistererThatIsTakenIsAnError(t *testing.T) {
	registry := prometheus.NewRegistry()
	configured(t, meshlite.RuntimeConfig{Registerer: registry})
	taken, err := meshlite.NewRuntime(meshlite.RuntimeConfig{Registerer: registry})
	if taken != nil || err == nil || !strings.Contains(err.Error(), "RuntimeConfig.Registerer") || !strings.Contains(err.Error(), "WrapRegistererWith") {
		t.Errorf("%v, %v, want no runtime and an error that names the field and the fix", taken, err)
	}
}
