package observe

import (
	"context"
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/metrics"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	inventoryv1 "github.com/meshlite-go/meshlite/proto/sweetshop/inventory/v1"
	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
)

// Case rules, dashboards
func TestPromtoolTakesTheRules(t *testing.T) {
	promtool(t, "check", "rules")
}

// M6: A full outage pages within 5 minutes, one failure among ten calls a day does not.
//
// M7: Codes that are the caller's fault, and cancelled calls, do not burn the budget.
//
// And each alert fires when it should, and no other with it: see rules_test.
//
// Case M2 (from 0)
// Case M6: A full outage pages within 5 minutes, one failure among ten calls a day does not;
// each other alert fires when it should, and alone.
// Case M7: Callers' faults and cancelled calls burn no budget, and hide nobody who does.
func TestAlertsFireWhenTheyShould(t *testing.T) {
	if testing.Short() {
		t.Skip("plays days, which takes promtool half a minute")
	}
	for name := range files(t, filepath.Join(committed, "rules_test", "*.yml")) {
		t.Run(strings.TrimSuffix(name, ".yml"), func(t *testing.T) {
			t.Parallel()
			promtool(t, "test", "rules", filepath.Join("rules_test", name))
		})
	}
}

// promtool runs on files of deploy/prometheus, on the rules where none is named.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	if len(args) == 2 {
		for name := range files(t, filepath.Join(committed, "rules", "*.yml")) {
			args = append(args, filepath.Join("rules", name))
		}
	}
	command := exec.CommandContext(t.Context(), program(t, "promtool"), args...)
	command.Dir = committed
	if output, err := command.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, output)
	}
}

// Each alert says how bad it is and what to run next, has its part of the runbook, and is
// seen firing in a test.
//
// Case rules, dashboards
func TestEachAlertHelps(t *testing.T) {
	rules := files(t, filepath.Join(committed, "rules", "*.yml"))
	tests := files(t, filepath.Join(committed, "rules_test", "*.yml"))
	runbook := files(t, filepath.Join(committed, "RUNBOOK.md"))
	fired := all(tests, `ALERTS\{alertname="(\w+)", alertstate="firing", severity=`)
	sections := all(runbook, `(?m)^## (\w+)$`)
	alerts := all(rules, `- alert: (\w+)`)
	for _, text := range rules {
		for _, rule := range strings.Split(text, "- alert: ")[1:] {
			name, rule, _ := strings.Cut(rule, "\n")
			for what, pattern := range map[string]string{
				"a severity":                 `severity: (page|ticket)`,
				"a summary":                  `summary: ".{10,}"`,
				"a command of the tool":      "(?s)description: .*`meshlite (check|endpoints|intentions check|limits|cache stats|certs|routes)[^`]*`",
				"its section of the runbook": `runbook_url: https://\S+/deploy/prometheus/RUNBOOK\.md#` + strings.ToLower(name) + `\n?`,
			} {
				if !regexp.MustCompile(pattern).MatchString(rule) {
					t.Errorf("alert %s lacks %s", name, what)
				}
			}
		}
	}
	for name := range alerts {
		if !fired[name] {
			t.Errorf("no test sees %s firing", name)
		}
		if !sections[name] {
			t.Errorf("RUNBOOK.md has no section %s", name)
		}
	}
	for name := range sections {
		if !alerts[name] {
			t.Errorf("RUNBOOK.md has a section %s, and no alert has that name", name)
		}
	}
	if len(alerts) < 10 {
		t.Errorf("%d alerts were found, want all", len(alerts))
	}
}

// A bound that is none of the histograms' counts nothing, and one beyond what the policy
// allows a call to take is never passed.
//
// Case rules, dashboards
func TestTheLatencyObjectiveFitsBucketsAndPolicies(t *testing.T) {
	bounds := all(files(t, filepath.Join(committed, "rules", "*.yml")), `le="([^"]*)"`)
	if len(bounds) != 1 {
		t.Fatalf("the rules count below %v, want one bound", slices.Sorted(maps.Keys(bounds)))
	}
	for text := range bounds {
		bound, err := strconv.ParseFloat(text, 64)
		if err != nil || !slices.Contains(buckets(t), bound) {
			t.Errorf("le=%q is none of the bounds %v (%v)", text, buckets(t), err)
		}
		// Prometheus 3 writes 1 as 1.0.
		if !strings.Contains(text, ".") {
			t.Errorf("le=%q is written in two ways: take a bound with a fraction", text)
		}
		for method, timeout := range timeouts(t) {
			if most := timeout.Seconds() / 4; bound > most {
				t.Errorf("le=%q is more than a quarter of the %v of %s", text, timeout, method)
			}
		}
	}
}

// buckets are the bounds of the latency histograms.
func buckets(t *testing.T) (bounds []float64) {
	t.Helper()
	registry := prometheus.NewRegistry()
	m, err := metrics.New(metrics.WithRegisterer(registry))
	if err != nil {
		t.Fatal(err)
	}
	info := &grpc.UnaryServerInfo{FullMethod: catalogv1.CatalogService_GetSweet_FullMethodName}
	if _, err := m.UnaryServerInterceptor()(t.Context(), nil, info, func(context.Context, any) (any, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "grpc_server_handling_seconds" {
			for _, bucket := range family.GetMetric()[0].GetHistogram().GetBucket() {
				bounds = append(bounds, bucket.GetUpperBound())
			}
		}
	}
	return bounds
}

// timeouts are those in the contracts of the shop.
func timeouts(t *testing.T) map[protoreflect.FullName]time.Duration {
	t.Helper()
	found := map[protoreflect.FullName]time.Duration{}
	note := func(name protoreflect.FullName, policy *policyv1.MethodPolicy) {
		if policy == nil || policy.Timeout == nil {
			return
		}
		timeout, err := interceptors.ParseDuration(policy.GetTimeout())
		if err != nil {
			t.Fatal(err)
		}
		found[name] = timeout
	}
	for _, file := range []protoreflect.FileDescriptor{
		catalogv1.File_sweetshop_catalog_v1_catalog_proto, inventoryv1.File_sweetshop_inventory_v1_inventory_proto,
		storefrontv1.File_sweetshop_storefront_v1_storefront_proto,
	} {
		service := file.Services().Get(0)
		note(service.FullName(), proto.GetExtension(service.Options(), policyv1.E_Service).(*policyv1.ServicePolicy).GetDefault())
		for i := range service.Methods().Len() {
			method := service.Methods().Get(i)
			note(method.FullName(), proto.GetExtension(method.Options(), policyv1.E_Method).(*policyv1.MethodPolicy))
		}
	}
	if len(found) < 3 {
		t.Errorf("timeouts of %v, want those of all services", found)
	}
	return found
}

// A metric that does not exist makes an alert that never fires and a panel without lines.
//
// Case rules, dashboards
func TestRulesAndDashboardsNameRealMetrics(t *testing.T) {
	page := all(files(t, filepath.Join(committed, "METRICS.md")), "(?m)^\\| `([a-z_]+)` \\|")
	rules := files(t, filepath.Join(committed, "rules", "*.yml"))
	recorded := all(rules, `- record: (\S+)`)
	texts := files(t, filepath.Join(top, "deploy", "grafana", "dashboards", "*.json"))
	maps.Copy(texts, rules)
	for name := range all(texts, `\b((?:meshlite|grpc_(?:server|client))_[a-z_]+)(?:\{|\[|\)| [<>=/]|,| offset| unless)`) {
		if !page[regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")] && !page[name] {
			t.Errorf("%s is not in METRICS.md", name)
		}
	}
	for name := range all(texts, `\b((?:method|slo):\w+:\w+)`) {
		if !recorded[name] {
			t.Errorf("%s is not recorded", name)
		}
	}
}
