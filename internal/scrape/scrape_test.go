package scrape

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var inf = math.Inf(1)

// The values are those of histogram_quantile.
func TestQuantile(t *testing.T) {
	for _, test := range []struct {
		name   string
		h      Histogram
		q      float64
		want   float64
		beyond bool
	}{
		{"absent", nil, 0.5, math.NaN(), false},
		{"empty", Histogram{0.1: 0, inf: 0}, 0.5, math.NaN(), false},
		{"no bounds", Histogram{inf: 3}, 0.5, math.NaN(), false},
		{"first bucket", Histogram{0.1: 4, 0.2: 0, inf: 0}, 0.5, 0.05, false},
		{"within", Histogram{0.1: 2, 0.2: 4, 0.4: 4, inf: 0}, 0.5, 0.175, false},
		{"at a bound", Histogram{0.1: 5, 0.2: 5, inf: 0}, 0.5, 0.1, false},
		{"behind an empty bucket", Histogram{0.1: 5, 0.2: 0, 0.4: 5, inf: 0}, 0.75, 0.3, false},
		{"all of it", Histogram{0.1: 5, 0.2: 5, inf: 0}, 1, 0.2, false},
		{"beyond the last", Histogram{0.1: 1, 10: 1, inf: 2}, 0.99, 10, true},
		{"all beyond", Histogram{0.1: 0, 10: 0, inf: 2}, 0.5, 10, true},
		{"rates", Histogram{0.1: 0.5, 0.2: 0.5, inf: 0}, 0.75, 0.15, false},
		{"a bound of 0", Histogram{0: 2, 1: 0, inf: 0}, 0.5, 0, false},
	} {
		got, beyond := test.h.Quantile(test.q)
		if !(math.Abs(got-test.want) < 1e-12 || math.IsNaN(got) && math.IsNaN(test.want)) || beyond != test.beyond {
			t.Errorf("%s: got %v, %v, want %v, %v", test.name, got, beyond, test.want, test.beyond)
		}
	}
}

// A mean of quantiles would be 0.55.
func TestQuantileOfSeveralProcesses(t *testing.T) {
	var sum Figures
	sum.Add(Figures{Latency: Histogram{0.1: 98, 0.2: 0, inf: 0}})
	sum.Add(Figures{Latency: Histogram{0.1: 0, 1: 2, inf: 0}}) // with other bounds
	if got, _ := sum.Latency.Quantile(0.99); math.Abs(got-0.6) > 1e-12 {
		t.Errorf("p99 is %v, want 0.6", got)
	}
}

const labelsOfGet = `grpc_type="unary",grpc_service="a.v1.S",grpc_method="Get"`

// page is one of a server of Get, with counts of calls that were answered, failed and refused.
func page(ok, failed, refused int, more ...string) string {
	return fmt.Sprintf(`# TYPE grpc_server_handled_total counter
grpc_server_handled_total{%[1]s,grpc_code="OK",code_class="ok"} %[2]d
grpc_server_handled_total{%[1]s,grpc_code="Internal",code_class="server"} %[3]d
grpc_server_handled_total{%[1]s,grpc_code="ResourceExhausted",code_class="client"} %[4]d
grpc_server_handled_total{grpc_type="unary",grpc_service="grpc.health.v1.Health",grpc_method="Check",grpc_code="OK",code_class="ok"} 99
# TYPE meshlite_ratelimit_requests_total counter
meshlite_ratelimit_requests_total{grpc_service="a.v1.S",grpc_method="Get",limit="x",result="refused"} %[4]d
meshlite_ratelimit_requests_total{grpc_service="a.v1.S",grpc_method="Get",limit="x",result="admitted"} %[2]d
meshlite_ratelimit_requests_total{grpc_service="b.v1.T",grpc_method="Put",limit="x",result="refused"} %[2]d
`, labelsOfGet, ok, failed, refused) + strings.Join(more, "\n") + "\n"
}

func read(t *testing.T, text string, seconds float64) *Sample {
	t.Helper()
	s, err := Read(strings.NewReader(text), time.Unix(0, 0).Add(time.Duration(seconds*1e9)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRates(t *testing.T) {
	started := func(at int) string { return fmt.Sprintf("process_start_time_seconds %d", at) }
	for _, test := range []struct {
		name                     string
		before, now              string
		calls, failures, refused float64
		success                  float64
	}{
		{"growth", page(100, 10, 0), page(170, 20, 20), 50, 5, 10, 0.9},
		{"nothing", page(100, 10, 7), page(100, 10, 7), 0, 0, 0, math.NaN()},
		{"all refused", page(0, 0, 0), page(0, 0, 8), 4, 0, 4, 1},
		{"begun anew", page(100, 10, 7), page(8, 0, 0), 4, 0, 0, 1},
		{"begun anew, with as many failures", page(100, 2, 7), page(6, 2, 7), 7.5, 1, 3.5, 1 - 1/7.5},
		{"another process, which has more", page(10, 0, 0, started(1)), page(20, 0, 0, started(2)), 10, 0, 0, 1},
		{"the same process", page(10, 0, 0, started(1)), page(20, 0, 0, started(1)), 5, 0, 0, 1},
		{"not called before", "meshlite_build_info 1\n", page(6, 0, 0), 3, 0, 0, 1},
		{"gone", page(6, 0, 0), "meshlite_build_info 1\n", 0, 0, 0, math.NaN()},
	} {
		all := read(t, test.now, 12).Since(read(t, test.before, 10), Server).All
		success := all.Success()
		if !all.Rated || all.Calls != test.calls || all.Failures != test.failures || all.Refused != test.refused ||
			success != test.success && !(math.IsNaN(success) && math.IsNaN(test.success)) {
			t.Errorf("%s: got %+v, success %v, want %+v", test.name, all, success, test)
		}
	}
}

// Without two readings, or time between them, there is no rate.
func TestFirstReadingHasNoRate(t *testing.T) {
	s := read(t, page(5, 0, 0, "grpc_server_in_flight{"+labelsOfGet+"} 3"), 1)
	for _, before := range []*Sample{nil, s} {
		r := s.Since(before, Server)
		if r.All.Rated || r.All.Calls != 0 || r.All.InFlight != 3 || !math.IsNaN(r.All.Success()) || r.Methods["a.v1.S/Get"].InFlight != 3 {
			t.Errorf("got %+v", r)
		}
	}
}

// histogram is one of Get, with what is in and below each bucket.
func histogram(kind string, tenth, second, all string) string {
	l := strings.Replace(labelsOfGet, "unary", kind, 1)
	return "# TYPE grpc_server_handling_seconds histogram\n" +
		"grpc_server_handling_seconds_bucket{" + l + `,code_class="ok",le="0.1"} ` + tenth + "\n" +
		"grpc_server_handling_seconds_bucket{" + l + `,code_class="ok",le="1"} ` + second + "\n" +
		"grpc_server_handling_seconds_bucket{" + l + `,code_class="ok",le="+Inf"} ` + all + "\n" +
		"grpc_server_handling_seconds_sum{" + l + `,code_class="ok"} 1` + "\n" +
		"grpc_server_handling_seconds_count{" + l + `,code_class="ok"} ` + all + "\n"
}

func TestRatesOfHistograms(t *testing.T) {
	for _, test := range []struct {
		name        string
		before, now string
		want        Histogram
	}{
		{"growth", histogram("unary", "1", "2", "2"), histogram("unary", "5", "8", "10"), Histogram{0.1: 2, 1: 1, inf: 1}},
		{"begun anew", histogram("unary", "9", "9", "9"), histogram("unary", "2", "4", "4"), Histogram{0.1: 1, 1: 1, inf: 0}},
		{"one bucket begun anew", histogram("unary", "2", "3", "3"), histogram("unary", "0", "4", "4"), Histogram{0.1: 0, 1: 2, inf: 0}},
		{"absent before", "meshlite_build_info 1\n", histogram("unary", "2", "2", "4"), Histogram{0.1: 1, 1: 0, inf: 1}},
		{"absent", page(1, 0, 0), page(2, 0, 0), Histogram{}},
		{"no number", histogram("unary", "NaN", "1", "1"), histogram("unary", "NaN", "3", "3"), Histogram{0.1: 0, 1: 1, inf: 0}},
	} {
		got := read(t, test.now, 2).Since(read(t, test.before, 0), Server).Methods["a.v1.S/Get"].Latency
		if fmt.Sprint(got) != fmt.Sprint(test.want) {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

// A stream lasts as long as it likes, which says nothing of how fast a service is.
func TestStreamsAreNotSlow(t *testing.T) {
	r := read(t, histogram("server_stream", "0", "0", "4"), 2).Since(read(t, "meshlite_build_info 1\n", 0), Server)
	if _, beyond := r.Methods["a.v1.S/Get"].Latency.Quantile(0.5); !beyond {
		t.Errorf("the method has %v", r.Methods)
	}
	if got, _ := r.All.Latency.Quantile(0.5); !math.IsNaN(got) {
		t.Errorf("all together have %v", got)
	}
}

func TestSides(t *testing.T) {
	text := page(0, 0, 0) + strings.ReplaceAll(`# TYPE meshlite_cache_requests_total counter
meshlite_cache_requests_total{M,result="hit"} N
meshlite_cache_requests_total{M,result="coalesced"} 1
meshlite_cache_requests_total{M,result="stale"} 1
meshlite_cache_requests_total{M,result="miss"} 3
meshlite_cache_requests_total{M,result="bypass"} 1
meshlite_cache_requests_total{M,result="shadow_hit"} 1
meshlite_concurrency_requests_total{grpc_service="a.v1.S",grpc_method="Get",result="refused"} 2
grpc_client_handled_total{grpc_type="unary",M,grpc_code="Unavailable"} 2
grpc_client_handled_total{grpc_type="unary",M,grpc_code="NotFound"} 2
meshlite_registered{agent="x",service="shop"} 1
`, "M", `grpc_service="b.v1.T",grpc_method="Put"`)
	before, now := strings.Replace(text, "} N", "} 0", 1), strings.Replace(text, "} N", "} 3", 1)
	now = strings.Replace(now, `grpc_code="Unavailable"} 2`, `grpc_code="Unavailable"} 3`, 1)
	s := read(t, now, 1)
	if s.Service != "shop" {
		t.Errorf("the service is %q", s.Service)
	}
	served, made := s.Since(read(t, before, 0), Server), s.Since(read(t, before, 0), Client)
	if served.All.CacheRatio() != 1 || made.Methods["b.v1.T/Put"].CacheRatio() != 1 || made.All.Calls != 1 || made.All.Success() != 0 {
		t.Errorf("served %+v, made %+v", served, made)
	}
	anew := s.Since(read(t, "process_start_time_seconds 1\nmeshlite_build_info 1\n", 0), Client)
	if anew.All.CacheRatio() != 0.5 || anew.All.Success() != 0.4 || anew.All.Refused != 0 {
		t.Errorf("since another process %+v", anew.All)
	}
	if got := s.Since(read(t, "process_start_time_seconds 1\nmeshlite_build_info 1\n", 0), Server).All.Refused; got != 2 {
		t.Errorf("refused %v, want 2", got)
	}
}

func TestPagesThatCannotBeRead(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "is it a meshlite program?",
		"process_start_time_seconds 1\n": "is it a meshlite program?",
		"up 1\n":                         "is it a meshlite program?",
		"<html>":                         "no page of metrics",
		`meshlite_build_info{version="x`: "no page of metrics",
	} {
		if _, err := Read(strings.NewReader(text), time.Time{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q in it", text, err, want)
		}
	}
	if s := read(t, "meshlite_build_info 1\nmeshlite_registered{service=\"a\"} 1\nmeshlite_registered{service=\"b\"} 1\n", 0); s.Service != "" {
		t.Errorf("of two services it is %q", s.Service)
	}
}

// Others have written it. Whatever they write, the figures can be written as JSON.
func FuzzRead(f *testing.F) {
	f.Add(page(1, 2, 3), page(2, 3, 4, "process_start_time_seconds 1"))
	f.Add(histogram("unary", "1", "2", "3"), histogram("bidi_stream", "NaN", "+Inf", "1e308"))
	f.Add(histogram("unary", "3", "2", "1"), strings.ReplaceAll(histogram("unary", "1", "2", "3"), `le="1"`, `le="-1e308"`))
	f.Add("meshlite_build_info 1\n", "grpc_server_in_flight{"+labelsOfGet+"} 1e308\ngrpc_server_in_flight{grpc_service=\"b\"} 1e308\n")
	f.Fuzz(func(t *testing.T, before, now string) {
		b, err := Read(strings.NewReader(before), time.Unix(1, 0))
		if err != nil {
			return
		}
		n, err := Read(strings.NewReader(now), time.Unix(2, 0))
		if err != nil {
			return
		}
		for _, side := range []Side{Server, Client} {
			all := n.Since(b, side).All
			for _, v := range []float64{all.Calls, all.Failures, all.InFlight, all.Served, all.Asked, all.Refused} {
				if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
					t.Fatalf("got %+v", all)
				}
			}
			for _, part := range []float64{all.Success(), all.CacheRatio()} {
				if part < 0 || part > 1 {
					t.Fatalf("a part is %v of %+v", part, all)
				}
			}
			last := 0.0
			for _, q := range []float64{0.5, 0.95, 0.99} {
				v, _ := all.Latency.Quantile(q)
				if math.IsInf(v, 0) || v < last {
					t.Fatalf("quantile %v is %v, after %v, of %v", q, v, last, all.Latency)
				}
				last = max(last, v)
				if math.IsNaN(last) {
					last = 0
				}
			}
		}
	})
}
