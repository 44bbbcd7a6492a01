package balancermetrics_test

import (
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshlite-go/meshlite/balancer/balancermetrics"
	"github.com/meshlite-go/meshlite/resolver"
)

// A collector that describes nothing could be registered twice, and every scrape
// after that would fail.
func TestASecondCollectorIsRefused(t *testing.T) {
	picks := func() []resolver.Picks { return []resolver.Picks{table("catalog", "", endpoint("10.0.0.1:80", 1))} }
	registry := prometheus.NewPedanticRegistry() // also fails on what is collected and not described
	if err := registry.Register(balancermetrics.New(picks)); err != nil {
		t.Fatal(err)
	}
	if families, err := registry.Gather(); err != nil || len(families) == 0 {
		t.Errorf("gathered %d families, %v", len(families), err)
	}
	if err := registry.Register(balancermetrics.New(picks)); !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
		t.Errorf("a second one of the same metrics: %v, want it refused", err)
	}
}
