package retrymetrics_test

import (
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshlite-go/meshlite/interceptors/retry"
	"github.com/meshlite-go/meshlite/interceptors/retry/retrymetrics"
)

// A collector that describes nothing could be registered twice, and every scrape
// after that would fail.
func TestASecondCollectorIsRefused(t *testing.T) {
	stats := func() []retry.Stats { return []retry.Stats{{Method: "/p.S/M"}} }
	registry := prometheus.NewPedanticRegistry() // also fails on what is collected and not described
	if err := registry.Register(retrymetrics.New(stats)); err != nil {
		t.Fatal(err)
	}
	if families, err := registry.Gather(); err != nil || len(families) == 0 {
		t.Errorf("gathered %d families, %v", len(families), err)
	}
	if err := registry.Register(retrymetrics.New(stats)); !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
		t.Errorf("a second one of the same metrics: %v, want it refused", err)
	}
}
