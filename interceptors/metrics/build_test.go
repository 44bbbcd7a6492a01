package metrics_test

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/interceptors/deadline"
	"github.com/meshlite-go/meshlite/interceptors/metrics"
	"github.com/meshlite-go/meshlite/interceptors/recovery"
	"github.com/meshlite-go/meshlite/interceptors/retry"
	"github.com/meshlite-go/meshlite/internal/racetest"
	_ "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1" // a contract to be linked with
)

// M3: two channels or servers with one registerer share its collectors.
//
// Case M3: One registerer, shared collectors; conflicts are errors when built.
func TestTwoOnOneRegistererShareItsCollectors(t *testing.T) {
	registry := prometheus.NewRegistry()
	for range 2 {
		serve(t, newMetrics(t, metrics.WithRegisterer(registry)), method)
	}
	if got := sum(t, registry, "grpc_server_started_total"); got != 2 {
		t.Errorf("started %v, want 2", got)
	}
	prefixed := prometheus.WrapRegistererWithPrefix("shop_", registry)
	for range 2 {
		serve(t, newMetrics(t, metrics.WithRegisterer(prefixed)), method)
	}
	if got := sum(t, registry, "shop_grpc_server_started_total"); got != 2 {
		t.Errorf("started under a prefix %v, want 2", got)
	}
}

// M3: a real conflict or a missing label function is an error when built, never
// a panic in a call.
//
// Case M3
func TestWhatCannotWorkIsRefusedWhenBuilt(t *testing.T) {
	value := func(*interceptors.CallMeta) string { return "sweets" }
	tests := []struct {
		name     string
		existing prometheus.Collector
		opts     []metrics.Option
		want     string
	}{
		{"other labels", prometheus.NewCounterVec(prometheus.CounterOpts{Name: "grpc_server_started_total"}, []string{"a"}), nil, "grpc_server_started_total"},
		{"other kind", prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "grpc_client_started_total", Help: "Calls begun."},
			[]string{"grpc_type", "grpc_service", "grpc_method"}), nil, "*prometheus.GaugeVec"},
		{"other extra labels", nil, []metrics.Option{metrics.WithLabel("team", value)}, "grpc_client_started_total"},
		{"missing label function", nil, []metrics.Option{metrics.WithLabel("team", nil)}, `WithLabel("team", nil)`},
		{"label that is taken", nil, []metrics.Option{metrics.WithLabel("grpc_code", value)}, "grpc_code"},
		{"label that is no name", nil, []metrics.Option{metrics.WithLabel("\xff", value)}, "label"},
		{"nil registerer", nil, []metrics.Option{metrics.WithRegisterer(nil)}, "WithRegisterer(nil)"},
		{"no bucket", nil, []metrics.Option{metrics.WithBuckets()}, "WithBuckets()"},
		{"buckets out of order", nil, []metrics.Option{metrics.WithBuckets(1, 1)}, "position 1"},
		{"bucket that is no number", nil, []metrics.Option{metrics.WithBuckets(math.NaN())}, "position 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			registry := prometheus.NewRegistry()
			if tt.existing != nil {
				registry.MustRegister(tt.existing)
			} else {
				newMetrics(t, metrics.WithRegisterer(registry))
			}
			_, err := metrics.New(append([]metrics.Option{metrics.WithRegisterer(registry)}, tt.opts...)...)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one that names %s", err, tt.want)
			}
		})
	}
}

// counting is a registry that knows how many collectors it holds.
type counting struct {
	*prometheus.Registry
	held int
}

func (c *counting) Register(collector prometheus.Collector) error {
	err := c.Registry.Register(collector)
	if err == nil {
		c.held++
	}
	return err
}

func (c *counting) Unregister(collector prometheus.Collector) bool {
	c.held--
	return c.Registry.Unregister(collector)
}

func TestRefusedMetricsLeaveNothingRegistered(t *testing.T) {
	registry := &counting{Registry: prometheus.NewRegistry()}
	if err := registry.Register(prometheus.NewCounter(prometheus.CounterOpts{Name: "meshlite_panics_total"})); err != nil {
		t.Fatal(err)
	}
	if _, err := metrics.New(metrics.WithRegisterer(registry)); err == nil {
		t.Fatal("the conflict was accepted")
	}
	if registry.held != 1 {
		t.Errorf("%d collectors are registered, want the one that was there", registry.held)
	}
}

func TestLabelIsAskedForOncePerMethod(t *testing.T) {
	registry := prometheus.NewRegistry()
	asked := 0
	m := newMetrics(t, metrics.WithRegisterer(registry), metrics.WithLabel("team", func(meta *interceptors.CallMeta) string {
		asked++
		if meta.Descriptor == nil {
			panic("no contract")
		}
		return "sweets\xff"
	}))
	for range 3 {
		serve(t, m, method)
	}
	if asked != 1 {
		t.Errorf("asked %d times, want 1", asked)
	}
	if got := sum(t, registry, "grpc_server_handled_total", "team", "sweets", "grpc_code", "OK"); got != 3 {
		t.Errorf("handled %v, want 3", got)
	}
	serve(t, m, "/unlinked.Service/Method")
	if got := sum(t, registry, "grpc_server_handled_total", "team", "panic"); got != 1 {
		t.Errorf("handled %v with a label function that panics, want 1", got)
	}
}

// M1: the number of series is flat under made-up names, of which a million are asked of a
// handler of unknown services, and as many as the unlinked may have of one that is served.
//
// Case M1: The number of series is flat under a million made-up methods, and under made-up
// user agents and peers.
func TestMadeUpMethodsAreCountedAsOther(t *testing.T) {
	racetest.Skip(t)
	many := 1_000_000
	if testing.Short() {
		many = 20_000
	}
	registry := prometheus.NewRegistry()
	m := newMetrics(t, metrics.WithRegisterer(registry))
	unknown := m.StreamServerInterceptor()
	series := func() int {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, family := range families {
			n += len(family.GetMetric())
		}
		return n
	}
	ask := func(name string) {
		info := &grpc.StreamServerInfo{FullMethod: name, IsClientStream: true, IsServerStream: true}
		_ = unknown(nil, stream{ctx: t.Context()}, info, func(any, grpc.ServerStream) error {
			return status.Error(codes.Unimplemented, "unknown")
		})
	}
	serveMany := func(n int) {
		for i := range n {
			name := fmt.Sprintf("/made.Up%d/Method", i)
			serve(t, m, name)
			m.Observe(t.Context(), &interceptors.CallMeta{FullMethod: name}, cache.Miss)
		}
	}
	ask("/made.Up/Method")
	serveMany(300)
	before := series()
	for i := range many {
		ask("/made.Up" + strconv.Itoa(i) + "/Method")
	}
	serveMany(20_000)
	serve(t, m, "/\xff\xfe/Method")
	serve(t, m, "/"+strings.Repeat("long", 1000)+"/Method")
	if after := series(); after != before {
		t.Errorf("%d series, before %d", after, before)
	}
	labels := []string{"grpc_method", "other", "grpc_type", "bidi_stream", "code_class", "client"}
	if got := sum(t, registry, "grpc_server_handled_total", labels...); got != float64(many+1) {
		t.Errorf("%v were counted as other, want %d", got, many+1)
	}
	serve(t, m, method)
	if got := sum(t, registry, "grpc_server_handled_total", "grpc_method", "GetSweet"); got != 1 {
		t.Errorf("a method of a linked contract was counted %v times, want 1", got)
	}
	ask(method)
	if got := sum(t, registry, "grpc_server_handled_total", "grpc_method", "GetSweet", "grpc_code", "Unimplemented", "code_class", "client"); got != 1 {
		t.Errorf("a linked method that is not served was counted %v times, want 1", got)
	}
}

func TestEventsAreCounted(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := newMetrics(t, metrics.WithRegisterer(registry))
	meta := &interceptors.CallMeta{Side: interceptors.Client, FullMethod: method}
	for _, e := range []interceptors.Event{
		&retry.Attempt{Code: codes.Unavailable, Verdict: retry.Again},
		&retry.Attempt{Code: codes.OK, Verdict: retry.Answered},
		&retry.Attempt{Code: codes.Code(99), Verdict: retry.Final},
		cache.Hit, verdict{"customer", "refused"}, &recovery.Panic{Value: "no sweets left"}, deadline.Exceeded{}, deadline.Exceeded{Route: true},
	} {
		m.Observe(t.Context(), meta, e)
	}
	for _, labels := range [][]string{
		{"grpc_client_attempts_total", "grpc_code", "Unavailable", "result", "again"},
		{"grpc_client_attempts_total", "grpc_code", "OK"},
		{"grpc_client_attempts_total", "grpc_code", "Unknown"},
		{"meshlite_cache_requests_total", "result", "hit"},
		{"meshlite_ratelimit_requests_total", "limit", "customer", "result", "refused"},
		{"meshlite_panics_total"},
		{"meshlite_timeouts_total", "timeout", "policy"},
		{"meshlite_timeouts_total", "timeout", "route"},
	} {
		labels = append(labels, "grpc_service", "sweetshop.catalog.v1.CatalogService", "grpc_method", "GetSweet")
		if got := sum(t, registry, labels[0], labels[1:]...); got != 1 {
			t.Errorf("%v: %v, want 1", labels, got)
		}
	}
}

func serve(t *testing.T, m *metrics.Metrics, name string) {
	t.Helper()
	_, err := m.UnaryServerInterceptor()(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: name},
		func(context.Context, any) (any, error) { return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
}
