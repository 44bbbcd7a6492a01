package concurrencymetrics_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/interceptors/concurrency"
	"github.com/meshlite-go/meshlite/interceptors/concurrency/concurrencymetrics"
	"github.com/meshlite-go/meshlite/internal/series/seriestest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func Example() {
	limiter, err := concurrency.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	registry := prometheus.NewRegistry()
	fmt.Println(registry.Register(concurrencymetrics.New(limiter.Stats)))
	// Output: <nil>
}

func TestLimitsAreMeasured(t *testing.T) {
	stats := func() []concurrency.Stats {
		return []concurrency.Stats{
			{Method: "/shop.Catalog/GetSweet", Limit: 20, InFlight: 3, Ignored: 1},
			{Method: "/shop.Catalog/\xfe", Limit: 5, InFlight: 1}, // two that are one to Prometheus
			{Method: "/shop.Catalog/\xff", Limit: 6, InFlight: 2},
			{Method: "other", Limit: 7},
		}
	}
	want := `
# HELP meshlite_concurrency_limit Calls of a method that may run at once.
# TYPE meshlite_concurrency_limit gauge
meshlite_concurrency_limit{grpc_method="GetSweet",grpc_service="shop.Catalog"} 20
meshlite_concurrency_limit{grpc_method="?",grpc_service="shop.Catalog"} 11
meshlite_concurrency_limit{grpc_method="other",grpc_service="other"} 7
# HELP meshlite_concurrency_in_flight Calls of a method with a limit that run.
# TYPE meshlite_concurrency_in_flight gauge
meshlite_concurrency_in_flight{grpc_method="GetSweet",grpc_service="shop.Catalog"} 3
meshlite_concurrency_in_flight{grpc_method="?",grpc_service="shop.Catalog"} 3
meshlite_concurrency_in_flight{grpc_method="other",grpc_service="other"} 0
# HELP meshlite_concurrency_ignored_priorities_total Priorities that were unknown, or of a caller who is not trusted.
# TYPE meshlite_concurrency_ignored_priorities_total counter
meshlite_concurrency_ignored_priorities_total{grpc_method="GetSweet",grpc_service="shop.Catalog"} 1
meshlite_concurrency_ignored_priorities_total{grpc_method="?",grpc_service="shop.Catalog"} 0
meshlite_concurrency_ignored_priorities_total{grpc_method="other",grpc_service="other"} 0
`
	if err := testutil.CollectAndCompare(concurrencymetrics.New(stats), strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	if n := testutil.CollectAndCount(concurrencymetrics.New(nil)); n != 0 {
		t.Errorf("%d series of nothing", n)
	}
}

func TestASecondCollectorIsRefused(t *testing.T) {
	stats := func() []concurrency.Stats { return []concurrency.Stats{{Method: "/p.S/M"}} }
	seriestest.RefusesASecond(t, func() prometheus.Collector { return concurrencymetrics.New(stats) })
}
