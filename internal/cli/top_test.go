package cli

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/meshlite-go/meshlite/internal/scrape"
)

// calls are figures of n calls per second, of which failed fail; most take 3 ms, one in
// twenty 300 ms.
func calls(n, failed float64) scrape.Figures {
	return scrape.Figures{Rated: true, Calls: n, Failures: failed, InFlight: math.Round(n / 100),
		Latency: scrape.Histogram{0.001: 0, 0.005: n * 0.95, 0.1: 0, 0.5: n * 0.05, math.Inf(1): 0}}
}

// mesh is what an interval has brought of a shop.
func mesh() measured {
	services := map[string]*topService{}
	add := func(service string, p process, f scrape.Figures, methods map[string]scrape.Figures) {
		if services[service] == nil {
			services[service] = &topService{name: service, methods: map[string]scrape.Figures{}}
		}
		services[service].add(p, scrape.Rates{All: f, Methods: methods})
	}
	front := calls(1234.5, 0.05)
	front.Served, front.Asked, front.Refused = 98, 100, 12.34
	add("storefront", process{ID: "storefront-10-0-0-1-8080", Address: "10.0.0.1:9090"}, front, map[string]scrape.Figures{
		"sweetshop.storefront.v1.StorefrontService/Browse": calls(1200, 0), "sweetshop.storefront.v1.StorefrontService/PlaceOrder": calls(34.5, 0.05)})
	add("storefront", process{ID: "storefront-10-0-0-2-8080", Address: "10.0.0.2:9090"}, scrape.Figures{InFlight: 2}, nil) // new
	add("storefront", process{ID: "storefront-10-0-0-3-8080", Address: "10.0.0.3:9090", Error: "connection refused: has it ended?"}, scrape.Figures{}, nil)
	slow := calls(3, 1)
	slow.Latency = scrape.Histogram{10: 0, math.Inf(1): 3}
	add("catalog", process{ID: "catalog-10-128-100-200-50051", Address: "10.0.0.4:9090"}, slow, nil)
	add("catalog", process{ID: "odd\x1b[2J", Address: "10.0.0.5:9090"}, scrape.Figures{Rated: true}, nil)
	add("prices", process{ID: "prices-1", Address: "10.0.0.6:9090", Error: "its admin page is on the loopback of another host: run this there, or give it meshlite.WithMetricsAddress"}, scrape.Figures{}, nil)
	add("10.0.0.7:9090", process{Address: "10.0.0.7:9090"}, scrape.Figures{Rated: true, Calls: 2e6}, nil)
	return measured{time: time.Date(2026, 1, 2, 15, 4, 5, 0, time.Local), seconds: 2.0004, services: sortedServices(services)}
}

func TestTopIn80Columns(t *testing.T) {
	const want = `15:04:05  7 processes, 2 not asked, over 2s
SERVICE              CALLS/S     OK   P50   P95   P99 ACTIVE SHARE CACHE REFUSED
10.0.0.7:9090           2.0M   100%     -     -     -      0           -       0
storefront              1234 99.99% 3.1ms 5.0ms 420ms     14         98%    12.3
  10-0-0-1-8080         1234 99.99% 3.1ms 5.0ms 420ms     12  100%   98%    12.3
  10-0-0-2-8080            -      -     -     -     -      2     -     -       -
  10-0-0-3-8080      connection refused: has it ended?
catalog                 3.00  66.6%  >10s  >10s  >10s      0           -       0
  …128-100-200-50051    3.00  66.6%  >10s  >10s  >10s      0  100%     -       0
  odd�[2J                  0      -     -     -     -      0    0%     -       0
prices                     -      -     -     -     -      -           -       -
  prices-1           its admin page is on the loopback of another host: run thi…

cannot ask storefront-10-0-0-3-8080 (10.0.0.3:9090): connection refused: has it
  ended?
cannot ask prices-1 (10.0.0.6:9090): its admin page is on the loopback of
  another host: run this there, or give it meshlite.WithMetricsAddress`
	if got := strings.Join(mesh().lines(80, 60, false), "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestTopByMethods(t *testing.T) {
	m := mesh()
	m.services = m.services[1:2]
	got := strings.Join(m.lines(80, 60, true)[1:5], "\n")
	if want := `SERVICE              CALLS/S     OK   P50   P95   P99 ACTIVE SHARE CACHE REFUSED
storefront              1234 99.99% 3.1ms 5.0ms 420ms     14         98%    12.3
  Browse                1200   100% 3.1ms 5.0ms 420ms     12   97%     -       0
  PlaceOrder            34.5 99.85% 3.1ms 5.0ms 420ms      0    3%     -       0`; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	// Where there is room, names are whole; where methods are called alike, services are named.
	m.services[0].methods["other.v1.Shop/Browse"] = calls(1, 0)
	for width, want := range map[int]string{80: "\n  …ontService/Browse ", 160: "\n  sweetshop.storefront.v1.StorefrontService/PlaceOrder "} {
		if got := strings.Join(m.lines(width, 60, true), "\n"); !strings.Contains(got, want) {
			t.Errorf("at %d columns:\n%s\nwant %q", width, got, want)
		}
	}
}

// Whatever the window is, nothing is wider, and no row of a service is lost in silence.
func TestTopFitsTheWindow(t *testing.T) {
	m := mesh()
	m.notes = strings.Repeat("consul is away ", 20) + "\n"
	for i := range 50 {
		s := topService{name: fmt.Sprintf("service-%d", i)}
		for j := range i {
			s.instances = append(s.instances, topInstance{process{ID: fmt.Sprintf("%s-%d", s.name, j)}, calls(1, 0)})
		}
		m.services = append(m.services, s)
	}
	for _, methods := range []bool{false, true} {
		for width := 1; width < 200; width += 13 {
			for height := 0; height < 70; height += 3 {
				lines := m.lines(width, height, methods)
				for _, line := range lines {
					if n := utf8.RuneCountInString(line); n > width && !strings.Contains(line, "more") {
						t.Fatalf("%d columns of %d: %q", n, width, line)
					}
				}
				if height >= 13 && len(lines) > height {
					t.Fatalf("%d lines of %d", len(lines), height)
				}
			}
		}
	}
	text := strings.Join(m.lines(80, 40, false), "\n")
	if !strings.Contains(text, "and 26 more services") {
		t.Errorf("got\n%s", text)
	}
	m.services = m.services[4+45:]
	text = strings.Join(m.lines(80, 60, false), "\n")
	if strings.Count(text, "  and ") != 5 || !strings.Contains(text, "  and 37 more") {
		t.Errorf("got\n%s", text)
	}
	if head := m.lines(60, 40, false)[1]; head != "SERVICE         CALLS/S     OK   P50   P99 ACTIVE REFUSED" {
		t.Errorf("at 60 columns it is %q", head)
	}
}

// What is not known is null, which is no 0.
func TestTopAsJSON(t *testing.T) {
	m := mesh()
	m.notes = "consul is away\n"
	text, err := json.Marshal(m.report())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"seconds":2.0004,"services":[{"service":"10.0.0.7:9090","calls_per_second":2000000,"success":1,"p50_ms":null,"p95_ms":null,"p99_ms":null,"in_flight":0,"cache":null,"refused_per_second":0,"instances":[{"address":"10.0.0.7:9090","share":1,`,
		`{"service":"storefront","calls_per_second":1234.5,"success":0.999959,"p50_ms":3.105263,"p95_ms":5,"p99_ms":420,"in_flight":14,"cache":0.98,"refused_per_second":12.34,"instances":[{"id":"storefront-10-0-0-1-8080","address":"10.0.0.1:9090","share":1,"calls_per_second":1234.5,`,
		`{"id":"storefront-10-0-0-2-8080","address":"10.0.0.2:9090","share":null,"calls_per_second":null,"success":null,"p50_ms":null,"p95_ms":null,"p99_ms":null,"in_flight":2,"cache":null,"refused_per_second":null}`,
		`"error":"connection refused: has it ended?","share":null,"calls_per_second":null,"success":null,"p50_ms":null,"p95_ms":null,"p99_ms":null,"in_flight":null,`,
		`"methods":[{"method":"sweetshop.storefront.v1.StorefrontService/Browse","share":0.972053,"calls_per_second":1200,`,
		`"methods":[]`,
		`"errors":["consul is away"]`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("there is no %s in\n%s", want, text)
		}
	}
}

func TestFiguresOfTop(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.004: "0.00", 0.5: "0.50", 9.99: "9.99", 9.996: "10.0", 99.94: "99.9", 99.96: "100", 1234.5: "1234", 999_999: "999999", 1.5e6: "1.5M", 1e15: "1e+15"} {
		if got := perSecond(v); got != want || len(got) > 7 {
			t.Errorf("%v per second is %q, want %q", v, got, want)
		}
	}
	for v, want := range map[float64]string{1: "100%", 0.999999: "99.99%", 0.99: "99.00%", 0.9899: "98.9%", 0: "0.0%", math.NaN(): "-"} {
		if got := successText(v); got != want {
			t.Errorf("success of %v is %q, want %q", v, got, want)
		}
	}
	for v, want := range map[float64]string{0: "0.0µs", 5.3e-6: "5.3µs", 0.000612: "612µs", 0.9996e-3: "1.0ms", 0.00999: "10ms", 0.123: "123ms", 1: "1.0s", 1.26: "1.3s", 62: "62s", 1e6: "9999s"} {
		if got := latencyText(v); got != want || utf8.RuneCountInString(got) > 5 {
			t.Errorf("%v s is %q, want %q", v, got, want)
		}
	}
}
