package gatewaycmd

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/internal/consulagent"
	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
)

// writeEntries writes config entries.
func writeEntries(t *testing.T, agent *consulagent.Agent, entries ...string) {
	t.Helper()
	for _, entry := range entries {
		if _, err := agent.Send(t.Context(), http.MethodPut, "/v1/config", json.RawMessage(entry)); err != nil {
			t.Fatal(err)
		}
	}
}

// startWeb starts an instance of web, which answers with its version and what it gets.
func startWeb(t *testing.T, agent *consulagent.Agent, version string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		fmt.Fprint(w, version, " ", r.RequestURI)
	}))
	t.Cleanup(server.Close)
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := agent.Send(t.Context(), http.MethodPut, "/v1/agent/service/register", map[string]any{
		"ID": "web-" + version, "Name": "web", "Address": u.Hostname(), "Port": port, "Meta": map[string]string{"version": version},
	}); err != nil {
		t.Fatal(err)
	}
}

// A plain HTTP service goes by the chain that a real Consul compiles, with what gRPC cannot mean,
// and metrics and the page show it.
func TestPlainServicesGoByTheirChain(t *testing.T) {
	t.Setenv(envLogLevel, "debug")
	agent := agenttest.Start(t)
	startWeb(t, agent, "1")
	startWeb(t, agent, "2")
	writeEntries(t, agent, `{"Kind": "service-defaults", "Name": "web", "Protocol": "http"}`,
		`{"Kind": "service-resolver", "Name": "web", "DefaultSubset": "v1", "Subsets": {"v1": {"Filter": "Service.Meta.version == \"1\""}, "v2": {"Filter": "Service.Meta.version == \"2\""}}}`,
		`{"Kind": "service-splitter", "Name": "web", "Splits": [{"Weight": 90, "ServiceSubset": "v1"}, {"Weight": 10, "ServiceSubset": "v2"}]}`,
		`{"Kind": "service-router", "Name": "web", "Routes": [{"Match": {"HTTP": {"PathPrefix": "/beta/", "QueryParam": [{"Name": "b", "Present": true}], "Methods": ["GET"]}},
			"Destination": {"ServiceSubset": "v2", "PrefixRewrite": "/"}}]}`)
	g := start(t, "--http-addr", agent.Address, "--http", "web=/web/")
	within(t, "the chain is obeyed", func() bool {
		_, body := get(t, g.Address+"/web/beta/a%2Fb?b")
		return body == "2 /a%2Fb?b"
	})
	second := 0
	for i := range 100 {
		if _, body := get(t, fmt.Sprint(g.Address, "/web/", i)); strings.HasPrefix(body, "2 ") {
			second++
		}
	}
	if second < 9 || second > 11 {
		t.Errorf("%d of 100 requests went to an arm of 10 %%", second)
	}
	_, metrics := get(t, "http://"+g.MetricsAddress+"/metrics", "Accept", "text/plain")
	for _, series := range []string{`meshlite_route_arm_share_ratio{arm="v2",route="default",service="web"} `, `meshlite_route_arm_calls_total{arm="v1",result="succeeded",route="default",service="web"} `, `meshlite_route_chains{service="web",state="current"} 1`} {
		if !strings.Contains(metrics, series) {
			t.Errorf("metrics have no %s", series)
		}
	}
	_, page := get(t, "http://"+g.MetricsAddress+"/debug/meshlite")
	var shown struct{ Routes []struct{ Service string } }
	if err := json.Unmarshal([]byte(page), &shown); err != nil || len(shown.Routes) != 1 || shown.Routes[0].Service != "web" {
		t.Errorf("%v: the page shows %+v", err, shown)
	}

	if log := g.log.String(); !strings.Contains(log, `"chain_route":"route 1","arm":"v2"`) {
		t.Errorf("the log does not name route and arm: %s", log)
	}

	t.Setenv("MESHLITE_DISABLE", "routing")
	plain := start(t, "--http-addr", agent.Address, "--http", "web=/web/")
	seen := map[string]bool{}
	for i := range 50 {
		_, body := get(t, fmt.Sprint(plain.Address, "/web/beta/", i, "?b"))
		version, path, _ := strings.Cut(body, " ")
		seen[version] = path == fmt.Sprint("/beta/", i, "?b")
	}
	if !seen["1"] || !seen["2"] {
		t.Errorf("without routes requests went to %v, want both versions", seen)
	}
}

// gRPC services behind a gateway go by their chain, by the headers that it forwards, and a timeout
// of a route is 504.
func TestServicesOfGRPCGoByTheirChain(t *testing.T) {
	agent := agenttest.Start(t)
	first, second := &shop{}, &shop{}
	serve(t, agent.Address, first, nil)
	port := portsOf(t, agent)[0]
	serve(t, agent.Address, second, nil)
	within(t, "both are listed", func() bool { return len(portsOf(t, agent)) == 2 })
	writeEntries(t, agent, `{"Kind": "service-defaults", "Name": "catalog", "Protocol": "grpc"}`,
		fmt.Sprintf(`{"Kind": "service-resolver", "Name": "catalog", "Subsets": {"a": {"Filter": "Service.Port == %d"}, "b": {"Filter": "Service.Port != %d"}}}`, port, port),
		`{"Kind": "service-splitter", "Name": "catalog", "Splits": [{"Weight": 75, "ServiceSubset": "a"}, {"Weight": 25, "ServiceSubset": "b"}]}`,
		`{"Kind": "service-router", "Name": "catalog", "Routes": [
			{"Match": {"HTTP": {"Header": [{"Name": "x-beta", "Exact": "1"}]}}, "Destination": {"ServiceSubset": "b"}},
			{"Match": {"HTTP": {"Header": [{"Name": "x-hurry", "Present": true}]}}, "Destination": {"RequestTimeout": "50ms"}}]}`)
	g := start(t, "--plaintext", "catalog", "--http-addr", agent.Address, "--forward-header", "x-beta,x-hurry")
	within(t, "the chain is obeyed", func() bool {
		before := first.calls.Load()
		for range 3 {
			if response, body := get(t, g.Address+getSweet+"x", "X-Beta", "1"); response.StatusCode != http.StatusOK {
				t.Log(response.StatusCode, body)
				return false
			}
		}
		return first.calls.Load() == before
	})
	a, b := first.calls.Load(), second.calls.Load()
	for i := range 100 {
		if response, body := get(t, fmt.Sprint(g.Address, getSweet, i)); response.StatusCode != http.StatusOK {
			t.Fatal(response.StatusCode, body)
		}
	}
	if a, b = first.calls.Load()-a, second.calls.Load()-b; a < 74 || a > 76 || a+b != 100 {
		t.Errorf("the arms of 75 %% and 25 %% have %d and %d of 100 calls", a, b)
	}
	if response, body := get(t, g.Address+getSweet+"slow", "X-Hurry", "1"); response.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("a call that takes too long for its route is answered %d %s", response.StatusCode, body)
	}
}

// portsOf are those of the instances of catalog.
func portsOf(t *testing.T, agent *consulagent.Agent) (ports []int) {
	t.Helper()
	text, err := agent.Send(t.Context(), http.MethodGet, "/v1/health/service/catalog?passing", nil)
	if err != nil {
		t.Fatal(err)
	}
	var listed []struct{ Service struct{ Port int } }
	if err := json.Unmarshal(text, &listed); err != nil {
		t.Fatal(err)
	}
	for _, one := range listed {
		ports = append(ports, one.Service.Port)
	}
	return ports
}
