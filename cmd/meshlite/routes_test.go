package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

func configure(t *testing.T, agent *consultest.Server, entries ...string) {
	t.Helper()
	for _, entry := range entries {
		if err := agent.WriteConfig(entry); err != nil {
			t.Fatal(err)
		}
	}
}

// versions has catalog split over two subsets.
func versions(t *testing.T, agent *consultest.Server) {
	t.Helper()
	configure(t, agent, `{"Kind":"service-defaults","Name":"catalog","Protocol":"grpc"}`,
		`{"Kind":"service-resolver","Name":"catalog","Subsets":{"v1":{"Filter":"Service.Meta.version == 1"},"v2":{"Filter":"Service.Meta.version == 2"}}}`,
		`{"Kind":"service-splitter","Name":"catalog","Splits":[{"Weight":90,"ServiceSubset":"v1","RequestHeaders":{"Set":{"x-arm":"v1"}}},{"Weight":10,"ServiceSubset":"v2"}]}`)
}

// splits are those in Consul, as text.
func splits(t *testing.T) string {
	t.Helper()
	r := runTool(t, "routes", "catalog", "--no-clients", "-o", "json")
	var chain struct {
		Routes []struct {
			Arms []struct {
				Name   string
				Weight float64
			}
		}
	}
	if err := json.Unmarshal([]byte(r.out), &chain); err != nil {
		t.Fatalf("%v: %s%s", err, r.out, r.err)
	}
	var all []string
	for _, arm := range chain.Routes[len(chain.Routes)-1].Arms {
		all = append(all, fmt.Sprintf("%s=%g", arm.Name, arm.Weight))
	}
	return strings.Join(all, " ")
}

// reporting is the admin page of a client whose calls end as ended says.
func reporting(t *testing.T, ended func() (v1, failed1, v2, failed2 uint64)) (address string) {
	t.Helper()
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		v1, failed1, v2, failed2 := ended()
		arm := func(name string, succeeded, failed uint64) string {
			return fmt.Sprintf(`{"name":%q,"targets":[{"usable":3,"known":4,"picked":%d,"succeeded":%d,"failed":%d}]}`, name, succeeded+failed, succeeded, failed)
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"routes":[{"service":"catalog","routes":[{"name":"default","arms":[%s,%s]}]},{"service":"other","routes":[]}]}`, arm("v1", v1, failed1), arm("v2", v2, failed2))
	}))
	t.Cleanup(page.Close)
	return strings.TrimPrefix(page.URL, "http://")
}

// Case T7
func TestRoutes(t *testing.T) {
	agent := openAgent(t)
	runTool(t, "routes", "catalog").want(t, 0, "catalog has no routes", "")
	versions(t, agent)
	client := reporting(t, func() (uint64, uint64, uint64, uint64) { return 900, 0, 99, 1 })
	r := runTool(t, "routes", "catalog", "--client", client)
	for _, want := range []string{"channels: 1", "v1", "90%", "900", "100%", "v2", "10%", "99%", "3 of 4", "every call"} {
		if r.code != 0 || !strings.Contains(r.out, want) {
			t.Errorf("exit %d, no %q in\n%s%s", r.code, want, r.out, r.err)
		}
	}
	// Without a client the chain is shown alone, and why.
	runTool(t, "routes", "catalog").want(t, 0, "catalog in dc1", "without clients:")

	configure(t, agent, `{"Kind":"service-router","Name":"catalog","Routes":[{"Match":{"HTTP":{"QueryParam":[{"Name":"x","Present":true}]}},"Destination":{"ServiceSubset":"v2"}}]}`)
	runTool(t, "routes", "catalog").want(t, 0, "its chain is refused", "")
	address := openHealth(t, healthv1.HealthCheckResponse_SERVING, nil)
	host, port, _ := net.SplitHostPort(address)
	n, _ := strconv.Atoi(port)
	if err := agent.Register(consultest.Service{ID: "a", Name: "catalog", Address: host, Port: n}); err != nil {
		t.Fatal(err)
	}
	runTool(t, "check", "catalog").want(t, 1, "its routes are refused", "")
	runTool(t, "check", "catalog").want(t, 1, "QueryParam", "")
	runTool(t, "routes").want(t, 2, "", "takes SERVICE, not 0 arguments")
	runTool(t, "routes", "catalog", "--client", "x").want(t, 2, "", "write host:port")
}

// What the gateway obeys of a service of HTTP is shown, and is no fault: what it refuses is.
func TestRoutesOfAnHTTPService(t *testing.T) {
	agent := openAgent(t)
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	host, port, _ := net.SplitHostPort(web.Listener.Addr().String())
	n, _ := strconv.Atoi(port)
	if err := agent.Register(consultest.Service{ID: "a", Name: "web", Address: host, Port: n}); err != nil {
		t.Fatal(err)
	}
	router := func(destination string) string {
		return `{"Kind":"service-router","Name":"web","Routes":[{"Match":{"HTTP":{"PathPrefix":"/a/","QueryParam":[{"Name":"b","Exact":"1"}],"Methods":["GET"]}},"Destination":` + destination + `}]}`
	}
	configure(t, agent, `{"Kind":"service-defaults","Name":"web","Protocol":"http"}`, router(`{"PrefixRewrite":"/c/"}`))
	for _, want := range []string{"web in dc1", "/a/*, ?b=1, GET -> /c/"} {
		runTool(t, "routes", "web", "--no-clients").want(t, 0, want, "")
	}
	if r := runTool(t, "check", "web"); strings.Contains(r.out, "routes are refused") {
		t.Errorf("check says %s", r.out)
	}
	configure(t, agent, router(`{"RetryOn":["unavailable"]}`))
	runTool(t, "routes", "web", "--no-clients").want(t, 0, `RetryOn "unavailable": HTTP has no such condition`, "")
	runTool(t, "check", "web").want(t, 1, "its routes are refused", "")
	configure(t, agent, router(`{"IdleTimeout":"5s"}`))
	if r := runTool(t, "routes", "web", "--no-clients"); !strings.Contains(r.out, "IdleTimeout") || strings.Contains(r.out, "gRPC") {
		t.Errorf("routes says %s", r.out)
	}
}

func TestRoutesShift(t *testing.T) {
	versions(t, openAgent(t))
	runTool(t, "routes", "shift", "catalog", "v2=25").want(t, 0, "nothing is written", "")
	address := os.Getenv("CONSUL_HTTP_ADDR")
	dry := runTool(t, "routes", "shift", "catalog", "v2=25", "--http-addr", address, "-o", "json")
	dry.want(t, 0, `"undo": "meshlite routes shift catalog v1=90 v2=10 --http-addr `+address+` --apply"`, "")
	if got := splits(t); got != "v1=90 v2=10" {
		t.Fatalf("a dry run has written %s", got)
	}
	r := runTool(t, "routes", "shift", "catalog", "v2=25.5%", "--apply")
	r.want(t, 0, "to undo: meshlite routes shift catalog v1=90 v2=10 --apply", "")
	if got := splits(t); got != "v1=74.5 v2=25.5" {
		t.Errorf("after the shift: %s", got)
	}
	for _, tt := range []struct{ arg, want string }{
		{"v2", "write ARM=PERCENT"}, {"v2=101", "from 0 to 100"}, {"v2=-1", "from 0 to 100"}, {"v2=1.005", "steps of 0.01"}, {"v2=NaN", "from 0 to 100"}, {"=1", "write ARM=PERCENT"},
	} {
		runTool(t, "routes", "shift", "catalog", tt.arg).want(t, 2, "", tt.want)
	}
	runTool(t, "routes", "shift", "catalog", "v2=60", "v1=60").want(t, 2, "", "sum to 120")
	runTool(t, "routes", "shift", "catalog", "v2=60", "v1=30").want(t, 2, "", "sum to 90")
	runTool(t, "routes", "shift", "catalog", "v2=1", "v2=2").want(t, 2, "", "given twice")
	runTool(t, "routes", "shift", "catalog", "v3=10", "--apply").want(t, 1, "", `refuses the service-splitter of "catalog": "service \"catalog\" does not have a subset named \"v3\""`)
	runTool(t, "routes", "shift", "catalog", "v2=1", "--guard", "1s").want(t, 2, "", "--guard without --apply")
}

func TestAShiftOfAServiceWithoutASplitter(t *testing.T) {
	agent := openAgent(t)
	versions(t, agent)
	if err := agent.DeleteConfig("service-splitter", "catalog"); err != nil {
		t.Fatal(err)
	}
	runTool(t, "routes", "shift", "catalog", "v2=5", "--apply").want(t, 0, "consul config delete -kind service-splitter -name catalog", "")
	if got := splits(t); got != "catalog=95 v2=5" {
		t.Errorf("after the shift: %s", got)
	}
}

func TestTheGuardShiftsBackAnArmThatFails(t *testing.T) {
	versions(t, openAgent(t))
	var asked atomic.Uint64
	failing := reporting(t, func() (uint64, uint64, uint64, uint64) {
		n := asked.Add(1) * 200
		return n, n / 100, n * 8 / 10, n * 2 / 10
	})
	r := runTool(t, "routes", "shift", "catalog", "v2=50", "--apply", "--guard", "1m", "--client", failing)
	r.want(t, 1, "", "shifted back: v2 has answered 80.0% of 200 calls, the others 99.0%")
	if got := splits(t); got != "v1=90 v2=10" {
		t.Errorf("after the guard: %s", got)
	}
	healthy := reporting(t, func() (uint64, uint64, uint64, uint64) {
		n := asked.Add(1) * 200
		return n, n / 100, n, n / 90
	})
	runTool(t, "routes", "shift", "catalog", "v2=50", "--apply", "--guard", "3s", "--client", healthy).want(t, 0, "written", "no arm has failed more often")
	if got := splits(t); got != "v1=50 v2=50" {
		t.Errorf("after a guard without a reason: %s", got)
	}
	idle := reporting(t, func() (uint64, uint64, uint64, uint64) { return 1000, 0, 1000, 1000 }) // all before the shift
	runTool(t, "routes", "shift", "catalog", "v2=55", "--apply", "--guard", "1ms", "--client", idle).want(t, 0, "written", "no arm is judged")
	runTool(t, "routes", "shift", "catalog", "v2=60", "--apply", "--guard", "1ms", "--client", failing).want(t, 1, "written", "shifted back: v2 has answered 80.0%") // it is asked at the end, too
	runTool(t, "routes", "shift", "catalog", "v2=50", "--apply").want(t, 0, "written", "")
	runTool(t, "routes", "shift", "catalog", "v2=60", "--apply", "--guard", "3s", "--client", closedPort(t)).want(t, 1, "", "nothing is written: --guard: no client reports calls by this chain")
	if got := splits(t); got != "v1=50 v2=50" {
		t.Errorf("after a guard without a client: %s", got)
	}
}
