package meshlite_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/identity/intention"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/authz"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// measured adds what Prometheus would read of name, where the labels are among others
// those given as pairs: the values, or the counts of a histogram.
func measured(t *testing.T, r *meshlite.Runtime, name string, labels ...string) (sum float64, series int) {
	t.Helper()
	families, err := r.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			text := ""
			for _, l := range m.GetLabel() {
				text += l.GetName() + "=" + l.GetValue() + ","
			}
			if f.GetName() == name && !slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(text, l+",") }) {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
				series++
			}
		}
	}
	return sum, series
}

func expect(t *testing.T, r *meshlite.Runtime, want float64, name string, labels ...string) {
	t.Helper()
	if got, _ := measured(t, r, name, labels...); got != want {
		t.Errorf("%s%v is %v, want %v", name, labels, got, want)
	}
}

func await(t *testing.T, r *meshlite.Runtime, want float64, name string, labels ...string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		got, _ := measured(t, r, name, labels...)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s%v is %v after 10s, want %v", name, labels, got, want)
		}
	}
}

// M1, through the front door: what a peer makes up is one method, and one limit.
//
// Case M1
func TestMadeUpMethodsAreOne(t *testing.T) {
	m := newMesh(t)
	runtime := newRuntime(t)
	const limit = 20
	m.serve(&shop{name: "a"}, meshlite.WithRuntime(runtime), meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{
		RateLimits: []*policyv1.RateLimitRule{{Name: "all", Limit: proto.Uint64(limit), Period: proto.String("1h")}},
	}}))
	_, conn := m.client("consul:///catalog", uncached())
	call := func(method string) error {
		return conn.Invoke(t.Context(), method, &emptypb.Empty{}, &emptypb.Empty{})
	}
	for method, want := range map[string]string{
		"/made.Up/Method": "unknown service made.Up",
		"/sweetshop.catalog.v1.CatalogService/Steal": "unknown method Steal for service sweetshop.catalog.v1.CatalogService",
	} {
		if err := call(method); status.Code(err) != codes.Unimplemented || status.Convert(err).Message() != want {
			t.Errorf("%s: %v, want what gRPC says", method, err)
		}
	}
	for i := range limit - 2 {
		if err := call(fmt.Sprintf("/made.Up%d/Method", i)); status.Code(err) != codes.Unimplemented {
			t.Fatal(err)
		}
	}
	if err := call("/made.Up/Again"); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("beyond the limit: %v", err)
	}
	expect(t, runtime, limit, "grpc_server_handled_total", "grpc_method=other", "grpc_code=Unimplemented", "code_class=client")
	expect(t, runtime, limit, "meshlite_handler_seconds", "grpc_method=other")
	if _, n := measured(t, runtime, "meshlite_ratelimit_requests_total", "limit=all"); n != 2 {
		t.Errorf("%d series of the limit, want admitted and refused", n)
	}
}

// M4: a hit, a stale serve, a coalesced wait and a refusal are distinguished, and are calls
// but no work of the handler.
//
// Case M4: Hit, stale, coalesced and refused are distinguished, and are no work of the handler.
func TestHitsAndRefusalsAreNoWorkOfTheHandler(t *testing.T) {
	const limit = 40
	m := newMesh(t)
	runtime := newRuntime(t)
	begun, release := make(chan struct{}, limit), make(chan struct{})
	m.serve(&shop{name: "a", work: func() { begun <- struct{}{}; <-release }, header: func(id string) metadata.MD {
		if id == "old" {
			return metadata.Pairs("age", "3600") // past its time as soon as it comes
		}
		return nil
	}}, meshlite.WithRuntime(runtime), meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{
		Cache: &policyv1.CacheRule{
			Ttl: proto.String("1h"), StaleWhileRevalidate: proto.String("1h"),
			Side: policyv1.Side_SIDE_SERVER, Scope: policyv1.CacheScope_CACHE_SCOPE_PUBLIC,
		},
		RateLimits: []*policyv1.RateLimitRule{{Name: "all", Limit: proto.Uint64(limit), Period: proto.String("1h")}},
	}}))
	client, _ := m.client("consul:///catalog", uncached())
	of := []string{"grpc_method=GetSweet"}
	result := func(name string) float64 {
		n, _ := measured(t, runtime, "meshlite_cache_requests_total", "result="+name)
		return n
	}
	made := 0
	// A miss, and a call that waits for its answer. Nothing shows when it does, so a call
	// that came too late for that has hit, and the next key is tried.
	for result("coalesced") == 0 && made < limit/2 {
		var calls sync.WaitGroup
		for range 2 {
			calls.Go(func() { get(t, client, fmt.Sprint("key ", made)) })
		}
		<-begun
		await(t, runtime, 2, "grpc_server_in_flight", of...)
		release <- struct{}{}
		calls.Wait()
		made += 2
	}
	misses := float64(made / 2)
	close(release)
	get(t, client, "old")
	get(t, client, "old") // stale, and refreshed behind it
	for made += 2; made < limit; made++ {
		get(t, client, "key 0")
	}
	if _, err := client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "x"}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("beyond the limit: %v", err)
	}
	want := map[string]float64{"miss": misses + 1, "coalesced": 1, "stale": 1, "hit": limit - misses - 3}
	for name, n := range want {
		if got := result(name); got != n || n < 1 {
			t.Errorf("%v calls are counted as %s, want %v", got, name, n)
		}
	}
	expect(t, runtime, 1, "meshlite_ratelimit_requests_total", "result=refused")
	expect(t, runtime, limit, "grpc_server_handled_total", append(of, "code_class=ok")...)
	expect(t, runtime, 1, "grpc_server_handled_total", append(of, "code_class=client")...)
	await(t, runtime, misses+2, "meshlite_handler_seconds", of...) // the misses and the refresh
}

// M5: attempts are visible beside calls when retries run.
//
// Case M5: Attempts beside calls, with what followed.
func TestAttemptsAreCountedBesideCalls(t *testing.T) {
	m := newMesh(t)
	_, end := full(t, m)
	defer end()
	m.serve(&shop{name: "free"}, oneAtATime())
	m.runtime = newRuntime(t) // that of full has made a call
	client, _ := m.client("consul:///catalog?policy=round_robin", oneAtATime())
	calls, again := 0.0, 0.0
	for ; calls < 40 || again == 0 && calls < 4000; calls++ { // connections are made one after the other
		get(t, client, "x")
		again, _ = measured(t, m.runtime, "grpc_client_attempts_total", "result=again", "grpc_code=Unavailable")
	}
	expect(t, m.runtime, calls, "grpc_client_handled_total")
	expect(t, m.runtime, calls, "grpc_client_attempts_total", "result=answered", "grpc_code=OK")
	if all, _ := measured(t, m.runtime, "grpc_client_attempts_total"); again == 0 || all != calls+again {
		t.Errorf("%v attempts, %v of them tried again", all, again)
	}
	if left, n := measured(t, m.runtime, "meshlite_retry_budget_tokens", "grpc_method=GetSweet"); n != 1 || left <= 0 {
		t.Errorf("%v retries are left of %d budgets", left, n)
	}
}

// Case metrics
func TestSampledCallsLeadToTheirTraces(t *testing.T) {
	m := newMesh(t)
	const id = "4bf92f3577b34da6a3ce929d0e0e4736"
	traced := meshlite.WithTracing(tracer(id))
	m.serve(&shop{name: "a"}, meshlite.WithRuntime(m.runtime), traced)
	client, _ := m.client("consul:///catalog", traced)
	get(t, client, "x")
	leadTo(t, m.runtime, id)
}

// tracer traces every call by one id, and has no part in them.
type tracer string

func (tracer) Stage() interceptors.Stage { return interceptors.Tracing }

func (id tracer) Exemplar(context.Context) (traceID string, sampled bool) { return string(id), true }

// leadTo looks for exemplars of a trace.
func leadTo(t *testing.T, runtime *meshlite.Runtime, id string) {
	t.Helper()
	request := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	request.Header.Set("Accept", "application/openmetrics-text")
	page := httptest.NewRecorder()
	adminPage(t, runtime).ServeHTTP(page, request)
	for _, name := range []string{"grpc_client_handling_seconds", "grpc_server_handling_seconds", "meshlite_handler_seconds"} {
		if !regexp.MustCompile(name + `_bucket\{.*GetSweet.*# \{trace_id="` + id + `"\}`).MatchString(page.Body.String()) {
			t.Errorf("%s has no exemplar", name)
		}
	}
}

// The page in deploy/prometheus lists the metrics of a runtime, each with its labels, and
// after some traffic all of it is there.
//
// Case metrics: Every metric is on the page with its labels, and none else; sizes, native
// histograms, exemplars, nothing allocated.
func TestThePageListsEveryMetric(t *testing.T) {
	text, err := os.ReadFile("deploy/prometheus/METRICS.md")
	if err != nil {
		t.Fatal(err)
	}
	before, after, _ := strings.Cut(string(text), "## Gateway\n") // which internal/gatewaycmd compares
	_, after, _ = strings.Cut(after, "\n## ")
	listed := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([^|]*) \\|").FindAllStringSubmatch(before+after, -1) {
		labels := regexp.MustCompile(`[a-z_]+`).FindAllString(row[2], -1)
		slices.Sort(labels)
		listed[row[1]] = strings.Join(labels, ",")
	}
	m := newMesh(t)
	described := describe(m.runtime.Registry())
	for name, labels := range described {
		if page, found := listed[name]; !found {
			t.Errorf("%s is not on the page", name)
		} else if page != labels {
			t.Errorf("%s has the labels %q, on the page %q", name, labels, page)
		}
	}
	for name := range listed {
		if _, exists := described[name]; !exists {
			t.Errorf("%s is on the page and does not exist", name)
		}
	}
	useEverything(t, m)
	for name := range described {
		if _, n := measured(t, m.runtime, name); n == 0 {
			t.Errorf("%s tells nothing after all was used", name)
		}
	}
}

// describe gives the names of labels by the name of the metric, of all but what
// client_golang measures Go and the process.
func describe(registry *prometheus.Registry) map[string]string {
	all := make(chan *prometheus.Desc)
	go func() { defer close(all); registry.Describe(all) }()
	described := map[string]string{}
	shape := regexp.MustCompile(`fqName: "([^"]+)".*constLabels: \{(.*)\}, variableLabels: \{(.*)\}`)
	for desc := range all {
		found := shape.FindStringSubmatch(desc.String())
		if strings.HasPrefix(found[1], "go_") || strings.HasPrefix(found[1], "process_") {
			continue
		}
		fixed := regexp.MustCompile(`="[^"]*"`).ReplaceAllString(found[2], "")
		labels := regexp.MustCompile(`[a-z_]+`).FindAllString(fixed+" "+found[3], -1)
		slices.Sort(labels)
		described[found[1]] = strings.Join(labels, ",")
	}
	return described
}

// useEverything has traffic through all features of one runtime.
func useEverything(t *testing.T, m *mesh) {
	t.Helper()
	panics := false
	policy := meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{
		Retry:       &policyv1.RetryRule{MaxAttempts: proto.Uint32(2)},
		Concurrency: &policyv1.ConcurrencyRule{Max: proto.Uint32(10)},
		RateLimits:  []*policyv1.RateLimitRule{{Name: "all", Limit: proto.Uint64(3), Period: proto.String("1h")}},
	}})
	m.serve(&shop{name: "a", work: func() {
		if panics {
			panic("sweets everywhere")
		}
	}}, meshlite.WithRuntime(m.runtime), policy)
	authorized := authorizedBy(t, authz.WithIntentions(intention.Set{}))
	if _, err := meshlite.NewServer("private", meshlite.WithPlaintext(), meshlite.WithRuntime(m.runtime), meshlite.WithDirectory(m.directory), meshlite.WithInterceptors(authorized)); err != nil {
		t.Fatal(err)
	}
	mtls, err := identity.New(&identity.Feed{})
	if err != nil {
		t.Fatal(err)
	}
	unused, err := meshlite.NewClient("consul:///private", meshlite.WithTransportCredentials(mtls), meshlite.WithRuntime(m.runtime), meshlite.WithDirectory(m.directory))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unused.Close(); mtls.Close() })
	secured := newMesh(t)
	secured.serveSecured(&shop{name: "b"}, secured.identified("catalog", identity.WithLogger(silent)), meshlite.WithRuntime(m.runtime))
	get(t, tlsClient(t, secured, "consul:///catalog", []meshlite.ClientOption{uncached(), secured.identified("web")}), "x")
	client, conn := m.client("consul:///catalog", policy)
	get(t, client, "x")
	get(t, client, "x")
	// Without a deadline.
	if _, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	panics = true
	for _, want := range []codes.Code{codes.Internal, codes.Internal, codes.ResourceExhausted} {
		if _, err := client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "y"}); status.Code(err) != want {
			t.Fatalf("%v, want %v", err, want)
		}
	}
	// Too late.
	late, _ := m.client("consul:///catalog", meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{Timeout: proto.String("1us")}}))
	if _, err := late.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "z"}); status.Code(err) != codes.DeadlineExceeded {
		t.Fatalf("%v, want DEADLINE_EXCEEDED", err)
	}
	// By a chain of routes.
	for _, entry := range []string{speaksGRPC, `{"Kind": "service-defaults", "Name": "candy", "Protocol": "grpc"}`,
		`{"Kind": "service-resolver", "Name": "candy", "Redirect": {"Service": "catalog"}}`} {
		if err := m.agent.WriteConfig(entry); err != nil {
			t.Fatal(err)
		}
	}
	candy, _ := m.client("consul:///candy")
	if _, err := candy.GetSweet(t.Context(), &catalogv1.GetSweetRequest{}); status.Code(err) != codes.ResourceExhausted {
		t.Fatalf("%v, want what the instance of catalog answers", err)
	}
	for _, opts := range [][]grpc.CallOption{nil, {grpc.ForceCodecV2(encoding.GetCodecV2("proto"))}} { // the second is not copied
		mirrored, _ := m.client("consul:///catalog", mirroring("nowhere"))
		if _, err := mirrored.GetSweet(t.Context(), &catalogv1.GetSweetRequest{}, opts...); status.Code(err) != codes.ResourceExhausted {
			t.Fatalf("%v, want a refusal", err)
		}
	}
	await(t, m.runtime, 1, "meshlite_mirror_answers_total")
}
