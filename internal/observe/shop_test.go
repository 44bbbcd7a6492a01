package observe

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	"github.com/meshlite-go/meshlite/internal/programstest"
	"github.com/meshlite-go/meshlite/internal/shop"
	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
	"github.com/meshlite-go/meshlite/services/storefront"
)

// unasked are panels of what the shop does not have while it is well, by their titles, with
// the reason.
var unasked = map[string]string{
	"Concurrency":              "no contract of the shop has a concurrency limit",
	"Refused for concurrency":  "no contract of the shop has a concurrency limit",
	"Calls by verified caller": "the shop is in plaintext here, and such callers are not counted",
	"Panics":                   "no handler of the shop panics, and the series begins with the first",
}

// A real Prometheus finds the real shop through a real Consul: every panel of every
// dashboard has data, callers' faults alarm nobody, and when the catalog is killed what
// fires is that, and nothing of the inventory, which is well.
//
// Prometheus has the committed files, with all times sixty times as short; how long it
// takes with the times as they are is tested by promtool (M6).
//
// Case M6
// Case M7
// Case rules, dashboards: A real Prometheus finds the shop by Consul, evaluates every rule and
// has data for every panel; names, bounds and runbook are right.
func TestPrometheusWatchesTheShop(t *testing.T) {
	program(t, "prometheus")
	agenttest.Path(t)
	s, registry := open(t)
	instances := map[string][]*shop.Instance{}
	for _, service := range []string{"catalog", "catalog", "inventory", "inventory", "storefront"} {
		instance, err := s.Start(t.Context(), service)
		if err != nil {
			t.Fatal(err)
		}
		instances[service] = append(instances[service], instance)
	}
	routeCatalog(t, registry.Address, instances["catalog"])
	prometheus := startPrometheus(t, registry.Address)
	visit(t, s)

	eventually(t, 20*time.Second, func() string { return missingTargets(prometheus, instances) })
	eventually(t, 20*time.Second, func() string { return deadPanels(t, prometheus) })
	rulesAreWell(prometheus)
	// All classes of ends have been seen, and only what burns the budget may alarm.
	eventually(t, 10*time.Second, func() string {
		if faults := prometheus.query(`sum(rate(grpc_server_handled_total{job="storefront", code_class="client"}[5s])) > 5`); len(faults) == 0 {
			return "callers' own faults are not seen"
		}
		return ""
	})
	if burns := prometheus.query(`ALERTS{alertname=~"ErrorBudgetBurn|ServiceDown"}`); len(burns) != 0 {
		t.Errorf("nothing is wrong but callers, and %v", burns)
	}

	killed := time.Now()
	for _, instance := range instances["catalog"] {
		if err := instance.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 30*time.Second, func() string {
		var missing []string
		for _, alert := range []string{
			`ErrorBudgetBurn", severity="page", window="1h", side="client", grpc_service="sweetshop.catalog.v1.CatalogService"`,
			`ErrorBudgetBurn", severity="page", window="1h", side="server", job="storefront"`,
			`ServiceDown", severity="page", job="catalog"`,
		} {
			if len(prometheus.query(`ALERTS{alertstate="firing", alertname="`+alert+`}`)) == 0 {
				missing = append(missing, alert)
			}
		}
		return strings.Join(missing, "; ")
	})
	t.Logf("all pages are there %v after the kill, of times that are %d times as short", time.Since(killed).Round(100*time.Millisecond), faster)
	for _, expr := range []string{`ALERTS{alertname="ServiceDown", job!="catalog"}`, `ALERTS{alertname="ErrorBudgetBurn", grpc_service=~".*inventory.*"}`} {
		if wrong := prometheus.query(expr); len(wrong) != 0 {
			t.Errorf("the catalog is gone, and %v", wrong)
		}
	}
	rulesAreWell(prometheus)
}

// routeCatalog has each instance of the catalog be an arm of its routes.
func routeCatalog(t *testing.T, agent string, instances []*shop.Instance) {
	t.Helper()
	filter := func(i int) string {
		return fmt.Sprintf(`{"Filter": %q}`, fmt.Sprintf("Service.ID == %q", instances[i].ID))
	}
	for _, entry := range []string{
		`{"Kind": "service-defaults", "Name": "catalog", "Protocol": "grpc"}`,
		fmt.Sprintf(`{"Kind": "service-resolver", "Name": "catalog", "Subsets": {"v1": %s, "v2": %s}}`, filter(0), filter(1)),
		`{"Kind": "service-splitter", "Name": "catalog", "Splits": [{"ServiceSubset": "v1", "Weight": 50}, {"ServiceSubset": "v2", "Weight": 50}]}`,
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+agent+"/v1/config", strings.NewReader(entry))
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Fatalf("Consul answers %s to %s", response.Status, entry)
		}
	}
}

// open builds the services and opens an empty shop on a real Consul.
func open(t *testing.T) (*shop.Shop, *shop.Registry) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and runs the services")
	}
	dir, err := programstest.Dir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	registry, err := shop.StartRegistry(t.Context(), shop.Consul)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(registry.Stop)
	s, err := shop.Open(registry, shop.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, registry
}

// visit has customers in the shop until the test ends: most want something that there is,
// some ask for what cannot be, and some leave before they are answered.
func visit(t *testing.T, s *shop.Shop) {
	t.Helper()
	runtime, err := meshlite.NewRuntime(meshlite.RuntimeConfig{})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := meshlite.NewClient("consul:///storefront", meshlite.WithPlaintext(), meshlite.WithDirectory(s.Directory()),
		meshlite.WithLogger(slog.New(slog.DiscardHandler)), meshlite.WithRuntime(runtime))
	if err != nil {
		t.Fatal(err)
	}
	client := storefrontv1.NewStorefrontServiceClient(conn)
	ctx, leave := context.WithCancel(context.Background())
	var customers sync.WaitGroup
	visits := []func(context.Context){
		func(ctx context.Context) { _, _ = client.Browse(ctx, &storefrontv1.BrowseRequest{}) },
		func(ctx context.Context) {
			_, _ = client.PlaceOrder(ctx, &storefrontv1.PlaceOrderRequest{SweetId: "lemon-sherbet", Grams: 1})
		},
		func(ctx context.Context) {
			_, _ = client.PlaceOrder(ctx, &storefrontv1.PlaceOrderRequest{SweetId: "no-such-sweet", Grams: 1})
		},
		func(ctx context.Context) { _, _ = client.PlaceOrder(ctx, &storefrontv1.PlaceOrderRequest{}) },
		func(ctx context.Context) {
			ctx, cancel := context.WithCancel(ctx)
			defer time.AfterFunc(time.Millisecond/4, cancel).Stop()
			_, _ = client.PlaceOrder(ctx, &storefrontv1.PlaceOrderRequest{SweetId: "lemon-sherbet", Grams: 1})
		},
	}
	for i, visit := range visits {
		customers.Go(func() {
			ctx := metadata.AppendToOutgoingContext(ctx, storefront.CustomerKey, fmt.Sprint("customer-", i))
			for ctx.Err() == nil {
				visit(ctx)
				select {
				case <-ctx.Done():
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
	}
	t.Cleanup(func() { leave(); customers.Wait(); conn.Close() })
}

// missingTargets returns what is not scraped as it should be.
func missingTargets(p *server, instances map[string][]*shop.Instance) string {
	want := map[string]string{}
	for service, all := range instances {
		for _, instance := range all {
			want[instance.Address] = service
		}
	}
	up := map[string]string{}
	for _, target := range p.query(`up{dc="dc1"} == 1`) {
		up[target.Metric["instance"]] = target.Metric["job"]
	}
	if !maps.Equal(up, want) {
		return fmt.Sprintf("the targets are %v, want %v", up, want)
	}
	return ""
}

// deadPanels returns which panels of which dashboards have no data.
func deadPanels(t *testing.T, p *server) string {
	t.Helper()
	var dead []string
	for name, d := range dashboards(t) {
		replace := []string{"$__rate_interval", "5s"}
		for _, v := range d.Templating.List {
			if v.Type != "query" {
				continue
			}
			metric, label := v.query(t)
			metric = strings.NewReplacer(replace...).Replace(metric)
			var values []string
			if err := p.get(t.Context(), "/api/v1/label/"+label+"/values?match[]="+url.QueryEscape(metric), &values); err != nil {
				t.Fatal(err)
			}
			if len(values) == 0 {
				return fmt.Sprintf("%s: the variable %s has no values", name, v.Name)
			}
			replace = append(replace, "$"+v.Name, "("+strings.Join(values, "|")+")")
		}
		for _, panel := range d.Panels {
			for _, target := range panel.Targets {
				expr := strings.NewReplacer(replace...).Replace(target.Expr)
				if len(p.query(expr)) == 0 && unasked[panel.Title] == "" {
					dead = append(dead, fmt.Sprintf("%s, %s: %s", name, panel.Title, expr))
				}
			}
		}
	}
	slices.Sort(dead)
	return strings.Join(dead, "\n")
}

// rulesAreWell sees that Prometheus has evaluated every rule without an error.
func rulesAreWell(p *server) {
	p.t.Helper()
	var answer struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	if err := p.get(p.t.Context(), "/api/v1/rules", &answer); err != nil {
		p.t.Fatal(err)
	}
	n := 0
	for _, group := range answer.Groups {
		for _, rule := range group.Rules {
			n++
			if rule.Health != "ok" {
				p.t.Errorf("%s is %s: %s", rule.Name, rule.Health, rule.LastError)
			}
		}
	}
	if n < 50 {
		p.t.Errorf("%d rules are evaluated, want all", n)
	}
}
