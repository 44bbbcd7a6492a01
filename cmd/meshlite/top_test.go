package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"unicode/utf8"

	"github.com/meshlite-go/meshlite"
)

// serveMetrics serves one text after the other on /metrics, the last one for ever.
func serveMetrics(t *testing.T, texts ...string) (address string) {
	t.Helper()
	var asked atomic.Int64
	return servePage(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" || r.Header.Get("Authorization")+r.Header.Get("X-Consul-Token") != "" {
			http.Error(w, "unexpected", http.StatusTeapot)
			return
		}
		_, _ = io.WriteString(w, texts[min(int(asked.Add(1)), len(texts))-1])
	}))
}

// handled is a page of a server that has answered and failed so many calls of Get, in 0.1 s
// or less, and in up to 1 s.
func handled(answered, failed, fast int) string {
	const get = `grpc_type="unary",grpc_service="a.v1.S",grpc_method="Get"`
	all := answered + failed
	return fmt.Sprintf(`meshlite_build_info{version="x"} 1
# TYPE grpc_server_handled_total counter
grpc_server_handled_total{%[1]s,grpc_code="OK",code_class="ok"} %[2]d
grpc_server_handled_total{%[1]s,grpc_code="Unknown",code_class="server"} %[3]d
# TYPE grpc_server_handling_seconds histogram
grpc_server_handling_seconds_bucket{%[1]s,code_class="ok",le="0.1"} %[4]d
grpc_server_handling_seconds_bucket{%[1]s,code_class="ok",le="1"} %[5]d
grpc_server_handling_seconds_bucket{%[1]s,code_class="ok",le="+Inf"} %[5]d
grpc_server_handling_seconds_sum{%[1]s,code_class="ok"} 1
grpc_server_handling_seconds_count{%[1]s,code_class="ok"} %[5]d
# TYPE grpc_server_in_flight gauge
grpc_server_in_flight{%[1]s} 7
# TYPE meshlite_cache_requests_total counter
meshlite_cache_requests_total{grpc_service="a.v1.S",grpc_method="Get",result="hit"} %[2]d
meshlite_cache_requests_total{grpc_service="a.v1.S",grpc_method="Get",result="miss"} %[3]d
`, get, answered, failed, fast, all)
}

// cells are those of the first row that begins with name.
func cells(t *testing.T, out, name string) string {
	t.Helper()
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[0] == name {
			return strings.Join(fields[2:], " ") // without the rate, which no test knows
		}
	}
	t.Errorf("there is no row %s in\n%s", name, out)
	return ""
}

func TestTopOfProcessesThatConsulKnows(t *testing.T) {
	agent := openAgent(t)
	openReflectingShop(t, "catalog", 1, meshlite.WithMetricsAddress("127.0.0.1:0"), meshlite.WithRuntime(newRuntime(t)))
	enlistClient(t, agent, "storefront", "storefront-1", "127.0.0.1:81", openClient(t, 0))
	ctx, stop := context.WithCancel(t.Context())
	calling := make(chan result, 1)
	go func() {
		calling <- meshliteWith(ctx, "", "call", "--plaintext", "consul:///catalog", sweetMethod, "-d", `{"id": "x"}`, "-n", "1000000")
	}()
	eventually(t, func() bool { // until calls were made between the readings
		r := runTool(t, "top", "--once", "--interval", "200ms")
		for line := range strings.Lines(r.out) {
			if n := utf8.RuneCountInString(line); n > 81 {
				t.Errorf("%d columns: %s", n, line)
			}
		}
		row := cells(t, r.out, "catalog")
		return r.code == 0 && r.err == "" && strings.HasPrefix(row, "100% ") && cells(t, r.out, "storefront") != ""
	})
	runTool(t, "top", "catalog", "--methods", "--once", "--interval", "100ms").want(t, 0, "\n  GetSweet ", "")
	stop()
	<-calling
}

// Two instances, of which one fails some calls and has slow ones, one that is new, and two
// that cannot be asked. How long it was between two readings, no test knows.
func TestTopInWords(t *testing.T) {
	agent := openAgent(t)
	enlistClient(t, agent, "shop", "shop-1", "127.0.0.1:81", serveMetrics(t, handled(100, 5, 105), handled(130, 5, 135)))
	enlistClient(t, agent, "shop", "shop-2", "127.0.0.1:82", serveMetrics(t, handled(100, 5, 105), handled(5, 5, 0)))
	gone := closedPort(t)
	enlistClient(t, agent, "shop", "shop-3", "127.0.0.1:83", gone)
	enlistClient(t, agent, "shop", "shop-4", "127.0.0.1:84", serveMetrics(t, "up 1\n"))
	r := runTool(t, "top", "shop", "--once", "--interval", "100ms")
	r.want(t, 0, "  4 processes, 2 not asked, over ", "")
	r.want(t, 0, "\nSERVICE  CALLS/S     OK   P50   P95   P99 ACTIVE SHARE CACHE REFUSED\n", "")
	r.want(t, 0, "\n  shop-3 connection refused: has it ended?\n  shop-4 it has no metrics of calls: is it a meshlite program?\n", "")
	r.want(t, 0, "\ncannot ask shop-3 ("+gone+"): connection refused", "")
	// The second has begun anew, so that all of its calls count.
	for name, want := range map[string]string{"shop-1": "100% 50ms 95ms 99ms 7", "shop-2": "50.0% 550ms 955ms 991ms 7"} {
		if got := cells(t, r.out, name); !strings.HasPrefix(got, want) {
			t.Errorf("%s has %s, want %s", name, got, want)
		}
	}
	if got := cells(t, r.out, "shop"); !strings.Contains(got, " 14 ") {
		t.Errorf("the service has %s, want 14 calls in flight", got)
	}
}

// A process that was named is of the service that it says it is registered as.
func TestTopOfProcessesThatAreNamed(t *testing.T) {
	t.Setenv("CONSUL_HTTP_ADDR", closedPort(t))
	const shop = "meshlite_registered{agent=\"x\",service=\"shop\"} 1\n"
	one, two := serveMetrics(t, shop+handled(0, 0, 0), shop+handled(10, 0, 10)), serveMetrics(t, handled(0, 0, 0))
	r := runTool(t, "top", "--once", "--interval", "100ms", "--client", one, "--client", two)
	r.want(t, 0, "  2 processes, over ", "")
	if got, want := cells(t, r.out, "shop"), "100% 50ms 95ms 99ms 7 100% 0"; got != want {
		t.Errorf("the service has %s, want %s", got, want)
	}
	if got, want := cells(t, r.out, two), "- - - - 7 - 0"; got != want {
		t.Errorf("the other has %s, want %s", got, want)
	}
	client := serveMetrics(t, "meshlite_build_info 1\n", `grpc_client_handled_total{grpc_type="unary",grpc_service="a.v1.S",grpc_method="Get",grpc_code="OK",code_class="ok"} 3`+"\n")
	r = runTool(t, "top", "--once", "--outgoing", "--methods", "--interval", "100ms", "--client", client)
	if got, want := cells(t, r.out, "a.v1.S/Get"), "100% - - - 0 100% - 0"; got != want {
		t.Errorf("the method has %s, want %s", got, want)
	}
}

// topReading is the output of -o json. The help names each of its fields.
type topReading struct {
	Time     string
	Seconds  float64
	Services []struct {
		topReadingFigures
		Service   string
		Instances []struct {
			topReadingFigures
			ID, Address, Error string
			Share              *float64
		}
		Methods []struct {
			topReadingFigures
			Method string
			Share  *float64
		}
	}
	Errors []string
}

type topReadingFigures struct {
	Calls    *float64 `json:"calls_per_second"`
	Refused  *float64 `json:"refused_per_second"`
	InFlight *float64 `json:"in_flight"`
	P50      *float64 `json:"p50_ms"`
	P95      *float64 `json:"p95_ms"`
	P99      *float64 `json:"p99_ms"`
	Success  *float64
	Cache    *float64
}

func readTop(t *testing.T, text string) (output topReading) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&output); err != nil {
		t.Fatalf("got %s: %v", text, err)
	}
	return output
}

func TestTopAsJSON(t *testing.T) {
	agent := openAgent(t)
	enlistClient(t, agent, "shop", "shop-1", "127.0.0.1:81", serveMetrics(t, handled(100, 0, 100), handled(130, 10, 140)))
	enlistClient(t, agent, "shop", "shop-2", "127.0.0.1:82", closedPort(t))
	r := runTool(t, "top", "--once", "--interval", "100ms", "-o", "json")
	r.want(t, 0, "\n", "")
	output := readTop(t, r.out)
	if len(output.Services) != 1 || output.Services[0].Service != "shop" || len(output.Services[0].Instances) != 2 || len(output.Services[0].Methods) != 1 || output.Errors == nil || !(output.Seconds > 0) {
		t.Fatalf("got %s", r.out)
	}
	s := output.Services[0]
	one, two := s.Instances[0], s.Instances[1]
	if *s.Success != 0.75 || *s.P50 != 50 || *s.InFlight != 7 || *s.Cache != 0.75 || *s.Refused != 0 || !(*s.Calls > 0) ||
		one.ID != "shop-1" || *one.Share != 1 || one.Error != "" || two.Error == "" || two.Calls != nil || two.InFlight != nil || s.Methods[0].Method != "a.v1.S/Get" {
		t.Errorf("got %s", r.out)
	}
	var fields map[string]any
	help := runTool(t, "top", "--help").out
	if err := json.Unmarshal([]byte(r.out), &fields); err != nil {
		t.Fatal(err)
	}
	service := fields["services"].([]any)[0].(map[string]any)
	for _, object := range []any{fields, service, service["instances"].([]any)[1], service["methods"].([]any)[0]} {
		for field := range object.(map[string]any) {
			if !strings.Contains(strings.ToLower(help), field) {
				t.Errorf("the help does not name %s", field)
			}
		}
	}
}

// followTop runs until it is stopped, which is no failure.
func followTop(t *testing.T, args ...string) watching {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, append([]string{"top", "--interval", "100ms"}, args...), nil, in, io.Discard)
		in.Close()
	}()
	stop := func() int { cancel(); out.Close(); return <-done }
	t.Cleanup(cancel)
	return watching{bufio.NewScanner(out), stop}
}

// A process that ends is reported, and the others go on. An object is a line.
func TestTopFollows(t *testing.T) {
	agent := openAgent(t)
	enlistClient(t, agent, "shop", "shop-1", "127.0.0.1:81", serveMetrics(t, handled(0, 0, 0), handled(10, 0, 10), "gone\n", handled(20, 0, 20)))
	w := followTop(t, "-o", "json")
	for _, want := range []string{"", "no page of metrics", ""} {
		output := readTop(t, next(t, w.lines))
		one := output.Services[0].Instances[0]
		if want == "" && (one.Error != "" || one.Calls == nil || !(*one.Calls > 0)) || !strings.HasPrefix(one.Error, want) {
			t.Errorf("got %+v, want the error %q", output, want)
		}
	}
	if code := w.stop(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	w = followTop(t, "shop")
	for range 2 {
		for _, want := range []string{"  1 process, over ", "SERVICE ", "shop ", "  shop-1 ", ""} {
			if line := next(t, w.lines); !strings.Contains(line, want) || want == "" && line != "" {
				t.Errorf("it says %q, want %q in it", line, want)
			}
		}
	}
	if code := w.stop(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestTopThatCannotBeHad(t *testing.T) {
	agent := openAgent(t)
	runTool(t, "top").want(t, 1, "", "lists no instance that publishes metrics_address: a program that is no server is in no directory")
	enlist(t, agent, "catalog", "catalog-1", "10.0.0.1:80", "passing")
	runTool(t, "top", "catalog").want(t, 1, "", `no instance of "catalog" publishes metrics_address: is it a meshlite server`)
	runTool(t, "top", "catlog").want(t, 1, "", `has no service "catlog": is it catalog?`)
	gone, large := closedPort(t), servePage(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.CopyN(w, strings.NewReader(strings.Repeat("\n", 9<<20)), 9<<20)
	}))
	r := runTool(t, "top", "--client", gone, "--client", large, "--client", servePage(t, http.NotFoundHandler()))
	r.want(t, 1, "", "cannot ask "+gone+": connection refused: has it ended?\n")
	r.want(t, 1, "", "cannot ask "+large+": an answer of more than 8 MiB\n")
	r.want(t, 1, "", ": 404 Not Found for /metrics: is it a meshlite program?\n")
	r.want(t, 1, "", "meshlite: no process could be asked: see above, and `meshlite check`")
	// Who is gone after the first reading is the whole of it with --once.
	runTool(t, "top", "--once", "--interval", "100ms", "--client", serveMetrics(t, handled(1, 0, 1), "<html>")).want(t, 1, "", "no process could be asked")
	enlistClient(t, agent, "prices", "elsewhere", "203.0.113.7:80", "127.0.0.1:9090")
	runTool(t, "top", "prices").want(t, 1, "", "its admin page is on the loopback of host 203.0.113.7")
	t.Setenv("CONSUL_HTTP_ADDR", closedPort(t))
	runTool(t, "top").want(t, 1, "", "refused the connection")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	meshliteWith(ctx, "", "top", "--once", "--client", gone).want(t, 130, "", "interrupted")
}

func TestFlagsOfTop(t *testing.T) {
	t.Setenv("CONSUL_HTTP_ADDR", closedPort(t)) // none of these asks for anything
	for args, want := range map[string]string{
		"consul:///catalog":    `service "consul:///catalog": write the name of a service`,
		"a b/c":                `service "b/c": write the name of a service`,
		"catalog --client a:1": `service "catalog" together with --client: leave one out`,
		"--client a":           `--client "a": write host:port`,
		"--client a:1 --dc d":  "--client together with --http-addr or --dc",
		"--interval 1":         `--interval "1": write a duration`,
		"--interval 0s":        "--interval 0s: write 100ms to 1h0m0s",
		"--interval 2h":        "--interval 2h0m0s: write 100ms to 1h0m0s",
		"--http-addr a":        `--http-addr "a": write host:port`,
		"--watch":              "unknown flag: --watch",
	} {
		t.Run(args, func(t *testing.T) {
			r := runTool(t, append([]string{"top"}, strings.Fields(args)...)...)
			r.want(t, 2, "", want)
			if r.out != "" || strings.Count(r.err, "\n") != 1 {
				t.Errorf("stdout %q, stderr %q, want one line", r.out, r.err)
			}
		})
	}
	runTool(t, "help").want(t, 0, "  top         Show how much services and their instances are called, how well and how fast\n", "")
	runTool(t, "__complete", "top", "--o").want(t, 0, "--once\t", "")
	runTool(t, "__complete", "top", "--interval", "").want(t, 0, ":4\n", "")
	agent := openAgent(t)
	enlist(t, agent, "catalog", "catalog-1", "10.0.0.1:80", "passing")
	enlist(t, agent, "prices", "prices-1", "10.0.0.1:81", "passing")
	runTool(t, "__complete", "top", "catalog", "").want(t, 0, "prices\n", "")
}
