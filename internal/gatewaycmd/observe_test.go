package gatewaycmd

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// The page of metrics lists those that a gateway has, each with its labels, and none else.
func TestThePageListsTheMetricsOfAGateway(t *testing.T) {
	agent := agenttest.Start(t)
	serve(t, agent.Address, &shop{}, nil)
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	g := start(t, "--plaintext", "catalog", "--http-addr", agent.Address, "--http", "web=/web/,"+web.URL, "--limit", "address=100/1s")
	get(t, g.Address+getSweet+"x")
	get(t, g.Address+"/web/")

	_, text := get(t, "http://"+g.MetricsAddress+"/metrics", "Accept", "text/plain")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for name, family := range families {
		if !regexp.MustCompile(`^meshlite_(edge|gateway|http)_`).MatchString(name) {
			continue
		}
		var labels []string
		for _, pair := range family.GetMetric()[0].GetLabel() {
			labels = append(labels, pair.GetName())
		}
		slices.Sort(labels)
		found[name] = strings.Join(labels, ",")
	}
	page, err := os.ReadFile("../../deploy/prometheus/METRICS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "## Gateway\n")
	section, _, _ = strings.Cut(section, "\n## ")
	listed := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([^|]*) \\|").FindAllStringSubmatch(section, -1) {
		labels := regexp.MustCompile(`[a-z_]+`).FindAllString(row[2], -1)
		slices.Sort(labels)
		listed[row[1]] = strings.Join(labels, ",")
	}
	for name, labels := range found {
		if page, ok := listed[name]; !ok || page != labels {
			t.Errorf("%s has the labels %q, on the page (%v) %q", name, labels, ok, page)
		}
	}
	for name := range listed {
		if _, ok := found[name]; !ok {
			t.Errorf("%s is on the page, and the gateway does not export it", name)
		}
	}
	if grpc := families["grpc_client_handled_total"]; grpc == nil {
		t.Error("the calls of the gateway's channels are not exported")
	}
}

// The debug page has the contracts and the sites.
func TestTheDebugPageShowsServicesAndSites(t *testing.T) {
	agent := agenttest.Start(t)
	serve(t, agent.Address, &shop{}, nil)
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	g := start(t, "--plaintext", "catalog", "--http-addr", agent.Address, "--http", "web=/web/,"+web.URL)
	get(t, g.Address+"/web/")
	_, text := get(t, "http://"+g.MetricsAddress+"/debug/meshlite")
	var page struct {
		Gateway []struct {
			Service string
			Serving bool
		}
		Sites []struct {
			Name      string
			Requests  uint64
			Endpoints []struct{ Address string }
			Cache     *struct{ Misses uint64 }
		}
	}
	if err := json.Unmarshal([]byte(text), &page); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if len(page.Gateway) != 1 || page.Gateway[0].Service != "catalog" || !page.Gateway[0].Serving {
		t.Errorf("services are %+v, want the catalog, served", page.Gateway)
	}
	if len(page.Sites) != 1 || page.Sites[0].Name != "web" || page.Sites[0].Requests != 1 || len(page.Sites[0].Endpoints) != 1 || page.Sites[0].Cache == nil {
		t.Errorf("sites are %+v, want web, with one request, one instance and a cache", page.Sites)
	}
}

// A gateway with an identity serves its page by HTTPS, too, as itself, to whom the environment
// names.
//
// Case I13
func TestTheGatewaysPageIsServedAsItself(t *testing.T) {
	agent := agenttest.Start(t)
	directory, err := consul.New(consul.Config{Address: agent.Address})
	if err != nil {
		t.Fatal(err)
	}
	defer directory.Close()
	source, err := directory.Identity("ops")
	if err != nil {
		t.Fatal(err)
	}
	mtls, err := identity.New(source)
	if err != nil {
		t.Fatal(err)
	}
	defer mtls.Close()
	snapshot, err := source.Next(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("MESHLITE_ADMIN_IDENTITIES", snapshot.ID().String())
	g := start(t, "--identity", "gateway", "catalog", "--http-addr", agent.Address, "--descriptors", "catalog="+writeContract(t, nil), "--metrics-address", "127.0.0.1:0")
	for url, want := range map[string]int{"http://" + g.MetricsAddress + "/metrics": http.StatusOK, "http://" + g.MetricsAddress + "/debug/meshlite": http.StatusUnauthorized} {
		if response, body := get(t, url); response.StatusCode != want {
			t.Errorf("%s is answered with %s: %.200s, want %d", url, response.Status, body, want)
		}
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: mtls.ClientTLS("gateway")}}
	// Its handshakes wait for the gateway's first certificate.
	response, err := client.Get("https://" + g.MetricsAddress + "/debug/meshlite")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("ops is answered with %s, want 200", response.Status)
	}
}
