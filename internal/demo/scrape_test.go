package demo

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

const metricsText = `# HELP grpc_server_handled_total Calls ended, by code.
# TYPE grpc_server_handled_total counter
grpc_server_handled_total{code_class="ok",grpc_code="OK",grpc_method="Check",grpc_service="grpc.health.v1.Health",grpc_type="unary"} 99
grpc_server_handled_total{code_class="ok",grpc_code="OK",grpc_method="GetSweet",grpc_service="sweetshop.catalog.v1.CatalogService",grpc_type="unary"} 20
grpc_server_handled_total{code_class="server",grpc_code="Unavailable",grpc_method="ListSweets",grpc_service="sweetshop.catalog.v1.CatalogService",grpc_type="unary"} 1.5e+06
grpc_server_started_total{grpc_method="GetSweet",grpc_service="sweetshop.catalog.v1.CatalogService",grpc_type="unary"} 7
meshlite_cache_requests_total{grpc_method="GetSweet",grpc_service="sweetshop.catalog.v1.CatalogService",result="hit"} 12 1700000000000
meshlite_cache_requests_total{grpc_method="ListSweets",grpc_service="sweetshop.catalog.v1.CatalogService",result="hit"} 30
meshlite_cache_requests_total{grpc_method="GetSweet",grpc_service="sweetshop.catalog.v1.CatalogService",result="miss"} 5
meshlite_cache_requests_total{grpc_method="GetSweet",grpc_service="sweetshop.catalog.v1.CatalogService",result="bypass"} NaN
`

func TestReadFigures(t *testing.T) {
	for service, want := range map[string]figures{
		"catalog":   {calls: 1_500_020, hits: 42, misses: 5},
		"inventory": {hits: 42, misses: 5},
	} {
		got, err := readFigures(strings.NewReader(metricsText), service)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", service, got, err, want)
		}
	}
}

func TestScrape(t *testing.T) {
	healthy := true
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !healthy {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprint(w, metricsText)
	}))
	defer server.Close()
	s := newScraper()
	defer s.close()
	address := server.Listener.Addr().String()
	if got, err := s.scrape(t.Context(), "catalog", address); err != nil || got.hits != 42 {
		t.Errorf("got %+v, %v", got, err)
	}
	healthy = false
	if _, err := s.scrape(t.Context(), "catalog", address); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("got %v, want the status", err)
	}
}

func TestContractLimit(t *testing.T) {
	l, err := contractLimit()
	if err != nil {
		t.Fatal(err)
	}
	if l.key != "customer-id" || l.calls == 0 || l.burst == 0 || l.period <= 0 {
		t.Errorf("got %+v, want the limit by customer-id", l)
	}
	if got, want := l.allows(10*l.period), 10*l.calls+l.burst; got != want {
		t.Errorf("ten periods allow %d, want %d", got, want)
	}
	if got := l.allows(0); got != l.burst {
		t.Errorf("no time allows %d, want the burst %d", got, l.burst)
	}
}
