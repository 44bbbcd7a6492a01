package retrymetrics_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/interceptors/retry"
	"github.com/meshlite-go/meshlite/interceptors/retry/retrymetrics"
	"github.com/meshlite-go/meshlite/internal/series/seriestest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func Example() {
	retrying, err := retry.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	registry := prometheus.NewRegistry()
	fmt.Println(registry.Register(retrymetrics.New(retrying.Stats)))
	// Output: <nil>
}

// Case metrics
func TestTheLeastBudgetIsMeasured(t *testing.T) {
	stats := func() []retry.Stats {
		return []retry.Stats{
			{Method: "/shop.Catalog/GetSweet", Budget: 100},
			{Method: "/shop.Catalog/GetSweet", Budget: 2.5}, // of another channel
			{Method: "/shop.Catalog/\xfe", Budget: 4},       // two that are one to Prometheus
			{Method: "/shop.Catalog/\xff", Budget: 3},
			{Method: "other"},
		}
	}
	want := `
# HELP meshlite_retry_budget_tokens Retries that the budget of a method has left, at the channel that has the fewest.
# TYPE meshlite_retry_budget_tokens gauge
meshlite_retry_budget_tokens{grpc_method="GetSweet",grpc_service="shop.Catalog"} 2.5
meshlite_retry_budget_tokens{grpc_method="?",grpc_service="shop.Catalog"} 3
meshlite_retry_budget_tokens{grpc_method="other",grpc_service="other"} 0
`
	if err := testutil.CollectAndCompare(retrymetrics.New(stats), strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	if n := testutil.CollectAndCount(retrymetrics.New(nil)); n != 0 {
		t.Errorf("%d series of nothing", n)
	}
}

func TestASecondCollectorIsRefused(t *testing.T) {
	stats := func() []retry.Stats { return []retry.Stats{{Method: "/p.S/M"}} }
	seriestest.RefusesASecond(t, func() prometheus.Collector { return retrymetrics.New(stats) })
}
