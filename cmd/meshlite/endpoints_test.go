package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

func TestEndpoints(t *testing.T) {
	agent := openAgent(t)
	if err := agent.Register(consultest.Service{ID: "catalog-1", Name: "catalog", Address: "::1", Port: 80,
		Tags: []string{"v2", "canary"}, Meta: map[string]string{"zone": "a"}, Weights: consultest.Weights{Passing: 3, Warning: 2}}); err != nil {
		t.Fatal(err)
	}
	enlist(t, agent, "catalog", "catalog-2", "10.0.0.2:80", "critical")
	enlist(t, agent, "catalog", "zero", "", "passing")
	enlist(t, agent, "catalog", "catalog-3", "10.0.0.3:80", "warning")
	const table = `ADDRESS      ID         NODE        DC   ZONE  WEIGHT  STATUS                           TAGS
-            zero       consultest  dc1  -     1       passing, not called: no address  -
10.0.0.2:80  catalog-2  consultest  dc1  -     1       critical                         -
10.0.0.3:80  catalog-3  consultest  dc1  -     1       warning                          -
[::1]:80     catalog-1  consultest  dc1  a     3       passing                          canary,v2
`
	address := os.Getenv("CONSUL_HTTP_ADDR")
	for args, want := range map[string]result{
		"catalog":           {0, table, "clients call 1 of 4: `meshlite check catalog` says why\n"},
		"catalog --warning": {0, table, "clients call 2 of 4"},
		"catalog --consistency consistent --dc dc1":           {0, table, ""},
		"consul:///catalog":                                   {0, table, ""},
		"consul://" + address + "/catalog?policy=round_robin": {0, table, ""},
		"catalog --tag canary --tag v2":                       {0, "STATUS   TAGS\n[::1]:80  catalog-1", ""},
		"consul:///catalog?tag=canary":                        {0, "STATUS   TAGS\n[::1]:80  catalog-1", ""},
		"catalog --tag nobody":                                {0, "ADDRESS", `has "catalog", but no matching instance: are tags and filter right?`},
		"catalogue":                                           {1, "", `has no service "catalogue": is it catalog?`},
		"payments":                                            {1, "", "has no service \"payments\": is the name right, and is it running? `meshlite services` lists what is there"},
		"catalog --dc nowhere":                                {1, "", `has no datacenter "nowhere" (No path to datacenter)`},
		"catalog --http-addr " + closedPort(t):                {1, "", "refused the connection"},
	} {
		t.Run(args, func(t *testing.T) {
			r := runTool(t, append([]string{"endpoints"}, strings.Fields(args)...)...)
			r.want(t, want.code, want.out, want.err)
			if want.code == 1 && r.out != "" {
				t.Errorf("stdout %q, want nothing", r.out)
			}
		})
	}
}

// Each datacenter has its own agent behind the one that is asked.
func TestEndpointsOfDatacenters(t *testing.T) {
	agent, other := openAgent(t), consultest.New(consultest.WithDatacenter("dc2"))
	defer other.Close()
	if err := agent.Join(other); err != nil {
		t.Fatal(err)
	}
	enlist(t, agent, "catalog", "catalog-1", "10.0.0.1:80", "passing")
	enlist(t, other, "catalog", "catalog-2", "10.0.0.2:80", "passing")
	enlist(t, other, "prices", "prices-1", "10.0.0.3:80", "passing")
	for _, args := range [][]string{{"catalog", "--dc", "dc2", "--dc", "dc1"}, {"consul:///catalog?dc=dc2&dc=dc1"}} {
		r := runTool(t, append([]string{"endpoints"}, args...)...)
		r.want(t, 0, "\n10.0.0.2:80  catalog-2  consultest  dc2  -     1       passing  -\n10.0.0.1:80  catalog-1  consultest  dc1 ", "")
	}
	runTool(t, "services", "--dc", "dc2").want(t, 0, "\nprices ", "")

	w := watchEndpoints(t, "catalog", "--dc", "dc1", "--dc", "dc2", "-o", "json")
	ids := map[string]bool{}
	for range 2 {
		var e struct {
			Instance struct{ ID, Datacenter string }
		}
		if err := json.Unmarshal([]byte(w.line(t)), &e); err != nil {
			t.Fatal(err)
		}
		ids[e.Instance.ID+" "+e.Instance.Datacenter] = true
	}
	if !ids["catalog-1 dc1"] || !ids["catalog-2 dc2"] {
		t.Errorf("it lists %v", ids)
	}
	if code := w.stop(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// R13: an address that is shared is called once.
func TestEndpointsAsJSON(t *testing.T) {
	agent := openAgent(t)
	enlist(t, agent, "catalog", "catalog-1", "10.0.0.1:80", "passing")
	enlist(t, agent, "catalog", "catalog-2", "10.0.0.1:80", "passing")
	enlist(t, agent, "catalog", "catalog-3", "10.0.0.3:80", "warning")
	for _, test := range []struct {
		flag     string
		callable []bool
		reasons  []string
	}{
		{"--warning=false", []bool{true, false, false}, []string{"", "same address as catalog-1", "warning"}},
		{"--warning", []bool{true, false, true}, []string{"", "same address as catalog-1", ""}},
	} {
		r := runTool(t, "endpoints", "catalog", "-o", "json", test.flag)
		r.want(t, 0, `"metadata": {}`, "")
		var output struct {
			Service   string
			Endpoints []struct {
				Address, ID, Service, Node, Datacenter, Region, Zone, Status, Reason string
				Weight                                                               int
				Callable                                                             bool
				Tags                                                                 []string
				Checks                                                               []struct {
					Name, Status, Output string
					Node                 bool
				}
			}
		}
		if err := json.Unmarshal([]byte(r.out), &output); err != nil || output.Service != "catalog" || len(output.Endpoints) != 3 {
			t.Fatalf("got %s (%v)", r.out, err)
		}
		for i, e := range output.Endpoints {
			if e.Callable != test.callable[i] || e.Reason != test.reasons[i] {
				t.Errorf("with %s the callable of %s is %v, %q", test.flag, e.ID, e.Callable, e.Reason)
			}
		}
		last := output.Endpoints[2]
		if last.Address != "10.0.0.3:80" || last.Node != "consultest" || last.Datacenter != "dc1" || last.Status != "warning" || last.Weight != 1 ||
			last.Tags == nil || len(last.Checks) != 2 || last.Checks[1].Name != "lease" || last.Checks[1].Status != "warning" ||
			!last.Checks[0].Node || last.Checks[1].Node {
			t.Errorf("the last is %+v", last)
		}
	}
}

// The status alone would say of these that they are called.
func TestEndpointsThatPassAndAreNotCalled(t *testing.T) {
	agent := openAgent(t)
	enlist(t, agent, "catalog", "catalog-1", "10.0.0.1:80", "passing")
	enlist(t, agent, "catalog", "catalog-2", "10.0.0.1:80", "passing")
	if err := agent.Register(consultest.Service{ID: "catalog-3", Name: "catalog", Address: "10.0.0.3", Port: 80, Weights: consultest.Weights{Passing: 1},
		Checks: []consultest.Check{{Name: "lease", TTL: time.Hour, Status: "warning"}}}); err != nil {
		t.Fatal(err)
	}
	runTool(t, "endpoints", "catalog", "--warning").want(t, 0, `WEIGHT  STATUS                                          TAGS
10.0.0.1:80  catalog-1  consultest  dc1  -     1       passing                                         -
10.0.0.1:80  catalog-2  consultest  dc1  -     1       passing, not called: same address as catalog-1  -
10.0.0.3:80  catalog-3  consultest  dc1  -     0       warning, not called: weight 0                   -
`, "clients call 1 of 3")
	w := watchEndpoints(t, "catalog")
	for range 4 {
		w.line(t)
	}
	if err := agent.Deregister("catalog-1"); err != nil {
		t.Fatal(err)
	}
	if got := w.line(t); got != "- 10.0.0.1:80  catalog-1" {
		t.Errorf("it says %q", got)
	}
	if got := w.line(t); got != "~ 10.0.0.1:80  catalog-2  status passing, not called: same address as catalog-1 -> passing" {
		t.Errorf("it says %q", got)
	}
	if code := w.stop(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// R16: without a token Consul hides that it hides something.
func TestEndpointsThatACLsHide(t *testing.T) {
	agent := consultest.New(consultest.WithACL("right", "weak"))
	t.Cleanup(agent.Close)
	address, err := agent.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	enlist(t, agent, "catalog", "catalog-1", "10.0.0.1:80", "passing")
	runTool(t, "endpoints", "catalog", "--http-addr", address).want(t, 1, "", `has no service "catalog", perhaps since consul at `+address+" has ACLs and no token is given: set CONSUL_HTTP_TOKEN")
	runTool(t, "services", "--http-addr", address).want(t, 0, "NAME", "has no service, perhaps since consul at "+address+" has ACLs and no token is given")
	w := watchEndpoints(t, "catalog", "--http-addr", address)
	if got := w.line(t); !strings.HasPrefix(got, "no instance of catalog yet: ") || !strings.Contains(got, "If Consul has ACLs, set CONSUL_HTTP_TOKEN") {
		t.Errorf("it says %q", got)
	}
	if code := w.stop(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// watching is a watch that goes on until its test ends.
type watching struct {
	lines *bufio.Scanner
	stop  func() int // gives the exit code
}

func watchEndpoints(t *testing.T, args ...string) watching {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, append([]string{"endpoints", "--watch"}, args...), nil, in, io.Discard)
		in.Close()
	}()
	stop := func() int { cancel(); out.Close(); return <-done }
	t.Cleanup(cancel)
	return watching{bufio.NewScanner(out), stop}
}

// line is the next one without its time.
func (w watching) line(t *testing.T) string {
	t.Helper()
	text := next(t, w.lines)
	if len(text) > 10 && text[2] == ':' && text[5] == ':' {
		return text[10:]
	}
	return text
}

func TestWatchReportsWhatChanges(t *testing.T) {
	agent := openAgent(t)
	enlist(t, agent, "catalog", "catalog-1", "10.0.0.1:80", "passing")
	w := watchEndpoints(t, "catalog")
	expect := func(want string) {
		t.Helper()
		if got := w.line(t); got != want {
			t.Errorf("it says %q, want %q", got, want)
		}
	}
	expect("ADDRESS      ID         NODE        DC   ZONE  WEIGHT  STATUS   TAGS")
	expect("10.0.0.1:80  catalog-1  consultest  dc1  -     1       passing  -")

	enlist(t, agent, "catalog", "catalog-2", "10.0.0.2:80", "passing")
	expect("+ 10.0.0.2:80  catalog-2  passing, weight 1, node consultest")
	if err := agent.SetStatus("catalog-2", consultest.HealthCritical); err != nil {
		t.Fatal(err)
	}
	expect("~ 10.0.0.2:80  catalog-2  status passing -> critical")
	if err := agent.Register(consultest.Service{ID: "catalog-1", Name: "catalog", Address: "10.0.0.9", Port: 80, Tags: []string{"v2"},
		Meta: map[string]string{"zone": "a"}, Weights: consultest.Weights{Passing: 5, Warning: 1}}); err != nil {
		t.Fatal(err)
	}
	expect("~ 10.0.0.9:80  catalog-1  address 10.0.0.1:80 -> 10.0.0.9:80, weight 1 -> 5, zone - -> a, tags - -> v2, metadata")
	if err := agent.Deregister("catalog-2"); err != nil {
		t.Fatal(err)
	}
	expect("- 10.0.0.2:80  catalog-2")

	agent.SetReachable(false)
	if got := w.line(t); !strings.HasPrefix(got, "! consul at ") || !strings.HasSuffix(got, "; what stands above may be out of date") {
		t.Errorf("it says %q", got)
	}
	agent.SetReachable(true)
	expect("! consul at " + os.Getenv("CONSUL_HTTP_ADDR") + " answers again")
	if err := agent.Deregister("catalog-1"); err != nil {
		t.Fatal(err)
	}
	expect("- 10.0.0.9:80  catalog-1")
	if code := w.stop(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestWatchAsJSON(t *testing.T) {
	agent := openAgent(t)
	enlist(t, agent, "catalog", "catalog-1", "10.0.0.1:80", "passing")
	w := watchEndpoints(t, "consul:///catalog", "-o", "json")
	type line struct {
		Time, Event, Error string
		Instance           *struct{ ID, Address, Status string }
	}
	expect := func(event, id, status string) (got line) {
		t.Helper()
		text := w.line(t)
		if err := json.Unmarshal([]byte(text), &got); err != nil || got.Event != event || got.Time == "" {
			t.Fatalf("it says %s, want %s (%v)", text, event, err)
		}
		if (id == "") != (got.Instance == nil) || id != "" && (got.Instance.ID != id || got.Instance.Status != status) {
			t.Errorf("it says %s, want %s %s", text, id, status)
		}
		return got
	}
	expect("added", "catalog-1", "passing")
	if err := agent.SetStatus("catalog-1", consultest.HealthWarning); err != nil {
		t.Fatal(err)
	}
	expect("changed", "catalog-1", "warning")
	if err := agent.Deregister("catalog-1"); err != nil {
		t.Fatal(err)
	}
	expect("removed", "catalog-1", "warning")
	lift := agent.Inject(consultest.NoLeader())
	if got := expect("unavailable", "", ""); !strings.Contains(got.Error, "No cluster leader") || strings.Contains(got.Error, "out of date") {
		t.Errorf("it says %+v", got)
	}
	lift()
	expect("available", "", "")
	if code := w.stop(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// The watch goes on, and only the look at the whole fails.
func TestWatchLooksAgain(t *testing.T) {
	agent := openAgent(t)
	enlist(t, agent, "catalog", "catalog-1", "10.0.0.1:80", "passing")
	w := watchEndpoints(t, "catalog")
	w.line(t)
	w.line(t)
	lift := agent.Inject(consultest.NoLeader().When(func(r *http.Request) bool { return !r.URL.Query().Has("index") }))
	enlist(t, agent, "catalog", "catalog-2", "10.0.0.2:80", "passing")
	if got := w.line(t); !strings.Contains(got, "No cluster leader") {
		t.Errorf("it says %q", got)
	}
	lift()
	w.line(t) // it answers again
	if got := w.line(t); got != "+ 10.0.0.2:80  catalog-2  passing, weight 1, node consultest" {
		t.Errorf("it says %q", got)
	}
	if code := w.stop(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// One outage fails in many ways: refused, reset, without a leader.
func TestWatchReportsAnOutageOnce(t *testing.T) {
	agent := openAgent(t)
	enlist(t, agent, "catalog", "catalog-1", "10.0.0.1:80", "passing")
	w := watchEndpoints(t, "catalog", "-o", "json")
	w.line(t)
	asked := make(chan struct{}, 100)
	lift := agent.Inject(consultest.ServerError(http.StatusInternalServerError, "one way").When(func(*http.Request) bool {
		asked <- struct{}{}
		return len(asked) == 1
	}))
	other := agent.Inject(consultest.NoLeader())
	if err := agent.SetStatus("catalog-1", consultest.HealthCritical); err != nil { // which ends the query under way
		t.Fatal(err)
	}
	if got := w.line(t); !strings.Contains(got, `"event":"unavailable"`) || strings.Contains(got, "out of date") {
		t.Errorf("it says %q", got)
	}
	for range 3 {
		<-asked
	}
	other()
	lift()
	if got := w.line(t); !strings.Contains(got, `"event":"available"`) {
		t.Errorf("it says %q", got)
	}
	if got := w.line(t); !strings.Contains(got, `"event":"changed"`) {
		t.Errorf("it says %q", got)
	}
	if code := w.stop(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// A watch can begin before Consul and before the service.
func TestWatchWaitsForConsulAndTheService(t *testing.T) {
	agent := openAgent(t)
	agent.SetReachable(false)
	w := watchEndpoints(t, "catalog")
	if got := w.line(t); !strings.HasPrefix(got, "! consul at ") || strings.Contains(got, "out of date") {
		t.Errorf("it says %q", got)
	}
	agent.SetReachable(true)
	if got := w.line(t); !strings.HasSuffix(got, " answers again") {
		t.Errorf("it says %q", got)
	}
	if got := w.line(t); !strings.HasPrefix(got, "no instance of catalog yet") {
		t.Errorf("it says %q", got)
	}
	enlist(t, agent, "catalog", "catalog-1", "10.0.0.1:80", "passing")
	if got := w.line(t); got != "+ 10.0.0.1:80  catalog-1  passing, weight 1, node consultest" {
		t.Errorf("it says %q", got)
	}
	if code := w.stop(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestWatchUntilCtrlC(t *testing.T) {
	agent := openAgent(t)
	enlist(t, agent, "catalog", "catalog-1", "10.0.0.1:80", "passing")
	command, lines := start(t, "endpoints", "catalog", "-w")
	next(t, lines)
	next(t, lines)
	if err := command.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := command.Wait(); err != nil {
		t.Error(err)
	}
}
