package demo

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/internal/shop"
)

const (
	// stretchedTo is a third of the demo as promtool sees it: the hour and the ten minutes that
	// TrafficSpike looks back, and a little.
	stretchedTo = 80 * time.Minute
	step        = 30 * time.Second // between two samples there
)

// curve is what one instance has counted.
type curve struct {
	service string
	points  []point
}

type point struct {
	at    time.Duration // since the load began
	calls float64
}

// value is that at a time, on the line between two samples. Before the first and after the last
// there is none.
func (c curve) value(at time.Duration) (float64, bool) {
	i, found := slices.BinarySearchFunc(c.points, at, func(p point, at time.Duration) int { return cmp.Compare(p.at, at) })
	switch {
	case found:
		return c.points[i].calls, true
	case i == 0 || i == len(c.points):
		return 0, false
	}
	a, b := c.points[i-1], c.points[i]
	return a.calls + (b.calls-a.calls)*float64(at-a.at)/float64(b.at-a.at), true
}

// curvesOf are those of a demo's samples, by instance.
func curvesOf(start time.Time, samples []sample) map[string]curve {
	found := map[string]curve{}
	for _, s := range samples {
		c := found[s.id]
		c.service = s.service
		c.points = append(c.points, point{s.at.Sub(start), float64(s.calls)})
		found[s.id] = c
	}
	for _, c := range found {
		slices.SortFunc(c.points, func(a, b point) int { return cmp.Compare(a.at, b.at) })
	}
	return found
}

// rateOf is the calls a second of a service from one time to another.
func rateOf(curves map[string]curve, service string, from, to time.Duration) (sum float64) {
	for _, c := range curves {
		a, began := c.value(from)
		b, lived := c.value(to)
		if c.service == service && began && lived {
			sum += (b - a) / (to - from).Seconds()
		}
	}
	return sum
}

// stretch writes curves until a time as input of promtool, on which third becomes stretchedTo. The
// calls are stretched too, so that the rates remain.
func stretch(curves map[string]curve, third, until time.Duration) string {
	factor := float64(stretchedTo) / float64(third)
	var text strings.Builder
	for id, c := range curves {
		labels := fmt.Sprintf(`dc="dc1", job=%q, instance=%q, grpc_service="sweetshop.%s", grpc_method="any", grpc_type="unary", grpc_code="OK", code_class="ok"`, c.service, id, c.service)
		fmt.Fprintf(&text, "      - series: grpc_server_handled_total{%s}\n        values:", labels)
		for at := time.Duration(0); at < time.Duration(float64(until)*factor); at += step {
			if v, ok := c.value(time.Duration(float64(at) / factor)); ok {
				fmt.Fprintf(&text, " %.0f", v*factor)
			} else {
				text.WriteString(" _")
			}
		}
		text.WriteString("\n")
	}
	return text.String()
}

// The doubling of the demo is seen: by what the metrics of its instances have counted, TrafficSpike
// fires for the services whose calls have doubled and for no other. Its abusive customer stays
// away, whose calls do not double. The catalog's callers have a cache, so its calls rise by half.
func TestTheDoublingFiresTrafficSpike(t *testing.T) {
	tool, err := exec.LookPath("promtool")
	switch {
	case testing.Short():
		t.Skip("plays the demo")
	case err != nil && os.Getenv("CI") != "":
		t.Fatal("no promtool on PATH: install prometheus")
	case err != nil:
		t.Skip("SKIPPED, the alert is not tried: no promtool on PATH: apt-get install prometheus")
	}
	dir := programs(t)
	play := func() *Result {
		// Five minutes of the rules are most of a second of it.
		r, err := Run(t.Context(), Options{Duration: 36 * time.Second, Registry: shop.Embedded, Programs: dir, Progress: t.Output(), slower: 2, polite: true})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	third := 12 * time.Second
	r := play()
	if r.late > r.Calls/50 { // a machine that stalls sends what was due at once, which is a spike
		t.Logf("once more: %d of %d calls were late", r.late, r.Calls)
		r = play()
	}
	curves := curvesOf(r.start, r.traffic)
	var doubles []string
	for _, service := range []string{"catalog", "inventory", "storefront"} {
		before, after := rateOf(curves, service, third/4, third), rateOf(curves, service, third*5/4, 2*third-time.Second)
		t.Logf("%s: %.1f calls a second, then %.1f", service, before, after)
		if after > 1.9*before {
			doubles = append(doubles, service)
		}
	}
	if !slices.Contains(doubles, "storefront") || slices.Contains(doubles, "catalog") {
		t.Fatalf("the calls of %v double, want those of the storefront and not of the catalog", doubles)
	}
	var wanted strings.Builder
	for _, service := range doubles {
		fmt.Fprintf(&wanted, "          - {labels: '{alertname=\"TrafficSpike\", job=%q}', value: 1}\n", service)
	}
	rules, err := filepath.Abs(filepath.Join("..", "..", "deploy", "prometheus", "rules", "traffic.yml"))
	if err != nil {
		t.Fatal(err)
	}
	// Before the doubling nothing fires.
	test := fmt.Sprintf(`rule_files: [%s]
evaluation_interval: 15s
tests:
  - interval: %v
    input_series:
%s
    promql_expr_test:
      - expr: ALERTS{alertstate="firing"}
        eval_time: %v
      - expr: group by (alertname, job) (max_over_time(ALERTS{alertstate="firing"}[1h]))
        eval_time: %v
        exp_samples:
%s`, rules, step, stretch(curves, third, 2*third), stretchedTo-step, stretchedTo+55*time.Minute, wanted.String())
	file := filepath.Join(t.TempDir(), "demo.yml")
	if err := os.WriteFile(file, []byte(test), 0o600); err != nil {
		t.Fatal(err)
	}
	if output, err := exec.CommandContext(t.Context(), tool, "test", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%.2000s", err, output)
	}
}
