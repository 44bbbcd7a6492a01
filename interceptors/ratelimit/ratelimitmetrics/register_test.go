package ratelimitmetrics_test

import (
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit/ratelimitmetrics"
)

// A collector that describes nothing could be registered twice, and every scrape
// after that would fail.
func TestASecondCollectorIsRefused(t *testing.T) {
	limiter := used(t, 3)
	limiters := func() []*ratelimit.Limiter { return []*ratelimit.Limiter{limiter} }
	registry := prometheus.NewPedanticRegistry() // also fails on what is collected and not described
	if err := registry.Register(ratelimitmetrics.New(limiters)); err != nil {
		t.Fatal(err)
	}
	if families, err := registry.Gather(); err != nil || len(families) == 0 {
		t.Errorf("gathered %d families, %v", len(families), err)
	}
	if err := registry.Register(ratelimitmetrics.New(limiters)); !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
		t.Errorf("a second one of the same metrics: %v, want it refused", err)
	}
}
