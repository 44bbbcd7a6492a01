package resolvermetrics_test

import (
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/resolvermetrics"
)

// A collector that describes nothing could be registered twice, and every scrape
// after that would fail.
func TestASecondCollectorIsRefused(t *testing.T) {
	watches := func() []resolver.Stats { return []resolver.Stats{{Directory: "d", AnsweredAt: time.Now()}} }
	agents := func() []consul.Stats {
		return []consul.Stats{{Agent: "127.0.0.1:8500", Services: []consul.ServiceStats{{Service: "catalog"}}}}
	}
	registry := prometheus.NewPedanticRegistry() // also fails on what is collected and not described
	if err := registry.Register(resolvermetrics.New(watches, agents)); err != nil {
		t.Fatal(err)
	}
	if families, err := registry.Gather(); err != nil || len(families) == 0 {
		t.Errorf("gathered %d families, %v", len(families), err)
	}
	if err := registry.Register(resolvermetrics.New(watches, agents)); !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
		t.Errorf("a second one of the same metrics: %v, want it refused", err)
	}
}
