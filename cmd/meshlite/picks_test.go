package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/balancer"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// openClient is a program that has called each target n times, and its admin page.
func openClient(t *testing.T, n int, targets ...string) (address string) {
	t.Helper()
	runtime := newRuntime(t)
	handler, err := runtime.Handler()
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range targets {
		conn := openChannel(t, target, runtime)
		for i := range n {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			id := fmt.Sprintf("%s %d", target, i) // one that is not in the cache
			if _, err := catalogv1.NewCatalogServiceClient(conn).GetSweet(ctx, &catalogv1.GetSweetRequest{Id: id}); err != nil {
				t.Fatal(err)
			}
			cancel()
		}
	}
	return servePage(t, handler)
}

// openChannel is a channel in plaintext with a directory of its own, which end with the test.
func openChannel(t *testing.T, target string, runtime *meshlite.Runtime, options ...meshlite.ClientOption) *grpc.ClientConn {
	t.Helper()
	silent := slog.New(slog.DiscardHandler)
	directory, err := consul.New(consul.Config{Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(directory.Close)
	conn, err := meshlite.NewClient(target, append(options, meshlite.WithPlaintext(), meshlite.WithDirectory(directory), meshlite.WithRuntime(runtime), meshlite.WithLogger(silent))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func servePage(t *testing.T, page http.Handler) (address string) {
	t.Helper()
	server := httptest.NewServer(page)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// servePicks is an admin page that reports picks.
func servePicks(t *testing.T, picks ...resolver.Picks) (address string) {
	t.Helper()
	text, err := json.Marshal(map[string]any{"cache": nil, "endpoints": append([]resolver.Picks{}, picks...)})
	if err != nil {
		t.Fatal(err)
	}
	return serveText(t, string(text))
}

func serveText(t *testing.T, text string) (address string) {
	t.Helper()
	return servePage(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/debug/meshlite" || r.Header.Get("Authorization")+r.Header.Get("X-Consul-Token") != "" {
			http.Error(w, "unexpected", http.StatusTeapot)
			return
		}
		_, _ = io.WriteString(w, text)
	}))
}

// picksOf is the report of a client of service, at address.
func picksOf(service, address string) resolver.Picks {
	return resolver.Picks{Directory: "consul at 127.0.0.1:8500", Service: service, Queries: []catalog.Query{{Service: service}}, Channels: 1,
		TableStats: balancer.TableStats{Endpoints: []balancer.EndpointStats{{
			ID: "at " + address, Address: address, Weight: 1, Part: 1, Picks: 7, Share: 1, Warm: 1, State: balancer.InRotation}}}}
}

// enlistClient registers an instance that publishes its admin page.
func enlistClient(t *testing.T, agent *consultest.Server, service, id, address, metrics string) {
	t.Helper()
	host, port := splitAddress(t, address)
	if err := agent.Register(consultest.Service{ID: id, Name: service, Address: host, Port: port,
		Meta: map[string]string{"metrics_address": metrics}}); err != nil {
		t.Fatal(err)
	}
}

func TestPicksOfClientsThatConsulKnows(t *testing.T) {
	agent := openAgent(t)
	openShop(t, "catalog", 2)
	page := openClient(t, 10, "consul:///catalog")
	enlistClient(t, agent, "storefront", "storefront-1", "127.0.0.1:81", page)
	enlistClient(t, agent, "storefront-admin", "storefront-admin-1", "127.0.0.1:81", page) // the same program
	enlistClient(t, agent, "prices", "prices-1", "127.0.0.1:82", openClient(t, 0))         // calls nobody
	enlist(t, agent, "inventory", "inventory-1", "127.0.0.1:83", "passing")                // has no admin page
	for _, args := range [][]string{{"catalog"}, {"consul:///catalog"}, {"catalog", "--dc", "dc1"}} {
		r := runTool(t, append([]string{"endpoints", "--picks"}, args...)...)
		r.want(t, 0, "storefront-1 ("+page+"), consul at "+os.Getenv("CONSUL_HTTP_ADDR")+"\nADDRESS ", "")
		if n := strings.Count(r.out, "in rotation\n"); n != 2 || strings.Count(r.out, "ADDRESS") != 1 || r.err != "" {
			t.Errorf("%v: stdout %q, stderr %q, want one client and two instances", args, r.out, r.err)
		}
		for _, line := range strings.Split(r.out, "\n") {
			if len(line) > 80 {
				t.Errorf("a line of %d: %q", len(line), line)
			}
		}
	}
	runTool(t, "endpoints", "prices", "--picks").want(t, 1, "", `none of 2 clients calls "prices" now: a program that is no server is in no directory: let it serve meshlite.DefaultRuntime().Handler(), and name its address by --client`)
	runTool(t, "endpoints", "catalogue", "--picks").want(t, 1, "", `has no service "catalogue": is it catalog?`)
	runTool(t, "endpoints", "catalog", "--picks", "--dc", "nowhere").want(t, 1, "", `has no datacenter "nowhere"`)
	runTool(t, "endpoints", "catalog", "--picks", "--http-addr", closedPort(t)).want(t, 1, "", "refused the connection")
}

func TestPicksOfClientsThatARealConsulKnows(t *testing.T) {
	openConsul(t)
	openShop(t, "catalog", 1)
	page := openClient(t, 3, "consul:///catalog")
	if err := consulClient(t).Agent().ServiceRegister(&api.AgentServiceRegistration{ID: "storefront-1", Name: "storefront", Address: "127.0.0.1", Port: 81,
		Meta: map[string]string{"metrics_address": page}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return strings.Contains(runTool(t, "services").out, "storefront") })
	r := runTool(t, "endpoints", "catalog", "--picks")
	r.want(t, 0, "storefront-1 ("+page+"), consul at ", "")
	r.want(t, 0, "  3 100%  0%     in rotation\n", "")
}

// A program that is only a client is in no directory, and Consul need not be there.
func TestPicksOfClientsThatAreNamed(t *testing.T) {
	openAgent(t)
	openShop(t, "catalog", 1)
	one, two := openClient(t, 3, "consul:///catalog"), openClient(t, 5, "consul:///catalog?dc=dc1", "consul:///catalog?policy=grpc:round_robin&consistency=cached")
	t.Setenv("CONSUL_HTTP_ADDR", closedPort(t))
	r := runTool(t, "endpoints", "catalog", "--picks", "--client", one, "--client", two, "--client", one)
	r.want(t, 0, "  3 100%  0%     in rotation\n", "")
	r.want(t, 0, "  5 100%  0%     in rotation\n", "")
	r.want(t, 0, ", dc=dc1\nADDRESS", "")
	r.want(t, 0, ", consistency=cached\nno endpoints: the service has no instance, or one of gRPC's own policies picks\n", "")
	if n := strings.Count(r.out, one); n != 1 {
		t.Errorf("a client that is named twice is shown %d times", n)
	}
}

// What each state looks like. Others have written it, and may be up to no good.
func TestPicksInWords(t *testing.T) {
	p := picksOf("catalog", "10.0.0.1:80")
	add := func(e balancer.EndpointStats) {
		e.Address = fmt.Sprintf("10.0.0.%d:80", len(p.Endpoints)+1)
		p.Endpoints = append(p.Endpoints, e)
	}
	add(balancer.EndpointStats{Zone: "eu-1", Weight: 3, InFlight: 2, Picks: 14, Share: 0.666, Latency: 12.3456, Failing: 0.05, Warm: 0.4, State: balancer.SlowStarted})
	add(balancer.EndpointStats{State: balancer.OtherZone})
	add(balancer.EndpointStats{State: balancer.Ejected, Reason: balancer.ConsecutiveFailures, Probe: 3.2})
	add(balancer.EndpointStats{State: balancer.Ejected, Reason: balancer.SuccessRate, Probe: 300})
	add(balancer.EndpointStats{State: balancer.Ejected, Reason: balancer.Probe})
	add(balancer.EndpointStats{State: balancer.Unconnected})
	add(balancer.EndpointStats{State: balancer.Unconnected, Reason: balancer.ConsecutiveFailures, Probe: 1})
	add(balancer.EndpointStats{Zone: "\x1b[2J", State: "new\tand\nodd", Latency: 1e300, Share: -1, Failing: 1e9, Probe: 1e300})
	p.Panic, p.Queries[0].Tags = true, []string{"fast"}
	address := servePicks(t, picksOf("prices", "10.9.9.9:80"), p)
	runTool(t, "endpoints", "catalog", "--picks", "--client", address).want(t, 0, address+`, consul at 127.0.0.1:8500, tag=fast
panic: so few can be used that the ejected are used, too
ADDRESS      ZONE  WEIGHT  IN FLIGHT  LATENCY     PICKS   FAILS  STATE
10.0.0.1:80  -     1       0          -           7 100%  0%     in rotation
10.0.0.2:80  eu-1  3       2          12.35ms     14 67%  5%     slow start 40%
10.0.0.3:80  -     -       0          -           0 0%    0%     other zone
10.0.0.4:80  -     -       0          -           0 0%    0%     ejected: consecutive failures, probe in 4s
10.0.0.5:80  -     -       0          -           0 0%    0%     ejected: fails more than the others, probe in 5m0s
10.0.0.6:80  -     -       0          -           0 0%    0%     ejected: the probe has failed, probe with the next call
10.0.0.7:80  -     -       0          -           0 0%    0%     no connection
10.0.0.8:80  -     -       0          -           0 0%    0%     no connection, ejected: consecutive failures
10.0.0.9:80  `+"\ufffd[2J  -       0          277h46m40s  0 0%    100%   new\ufffdand; odd\n", "")
}

// picksOutput is the JSON of the command, as its help has it.
type picksOutput struct {
	Service string
	Clients []struct {
		ID, Address, Error string
		Targets            []struct {
			Directory, Service string
			Queries            []struct {
				Service, Consistency string
				Tags                 []string
			}
			Channels  int
			Panic     bool
			Ejections map[string]int
			Endpoints []struct {
				ID, Address, Region, Zone, State, Reason string
				Weight, Picks, Refusals                  int
				InFlight                                 int     `json:"in_flight"`
				Part                                     float64 `json:"weight_part"`
				Share, Failing, Refusing                 float64
				Latency                                  float64 `json:"latency_ms"`
				SlowStart                                float64 `json:"slow_start"`
				Probe                                    float64 `json:"probe_in_seconds"`
			}
		}
	}
}

func TestPicksAsJSON(t *testing.T) {
	agent := openAgent(t)
	p := picksOf("catalog", "10.0.0.1:80")
	p.Queries[0].Tags, p.Ejections = []string{"fast"}, map[balancer.Reason]uint64{balancer.Probe: 2}
	p.Endpoints = append(p.Endpoints, balancer.EndpointStats{ID: "catalog-2", Address: "10.0.0.2:80", Region: "eu", Zone: "eu-1", InFlight: 3, Latency: 1.5,
		State: balancer.Ejected, Reason: balancer.Probe, Probe: 2.5})
	enlistClient(t, agent, "storefront", "storefront-1", "127.0.0.1:81", servePicks(t, p, picksOf("prices", "10.9.9.9:80")))
	enlistClient(t, agent, "storefront", "storefront-2", "127.0.0.1:82", servePicks(t)) // calls nobody
	gone := closedPort(t)
	enlistClient(t, agent, "storefront", "storefront-3", "127.0.0.1:83", gone)
	r := runTool(t, "endpoints", "catalog", "--picks", "-o", "json")
	r.want(t, 0, `"targets": []`, "cannot ask storefront-3 ("+gone+"): connection refused: has it ended?\n")
	var output picksOutput
	d := json.NewDecoder(strings.NewReader(r.out))
	d.DisallowUnknownFields()
	if err := d.Decode(&output); err != nil || output.Service != "catalog" || len(output.Clients) != 2 || len(output.Clients[0].Targets) != 1 || output.Clients[1].Error == "" {
		t.Fatalf("got %s (%v)", r.out, err)
	}
	target := output.Clients[0].Targets[0]
	if target.Service != "catalog" || target.Channels != 1 || target.Ejections["probe"] != 2 || target.Queries[0].Tags[0] != "fast" || len(target.Endpoints) != 2 {
		t.Errorf("the target is %+v", target)
	}
	if e := target.Endpoints[1]; e.ID != "catalog-2" || e.Zone != "eu-1" || e.Region != "eu" || e.InFlight != 3 || e.Latency != 1.5 ||
		e.State != "ejected" || e.Reason != "probe" || e.Probe != 2.5 {
		t.Errorf("the last instance is %+v", e)
	}
}

// A process that cannot be asked is reported in one line, and does not hide the others.
func TestClientsThatCannotBeAsked(t *testing.T) {
	agent := openAgent(t)
	enlistClient(t, agent, "storefront", "well", "127.0.0.1:81", servePicks(t, picksOf("catalog", "10.0.0.1:80")))
	asked := make(chan string, 10)
	lure := servePage(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.URL.String() }))
	_, lurePort := splitAddress(t, lure)
	for id, metrics := range map[string]string{
		"redirects": servePage(t, http.RedirectHandler("http://"+lure+"/secret", http.StatusFound)),
		"other":     servePage(t, http.NotFoundHandler()),
		"garbage":   serveText(t, "<html>"),
		"older":     serveText(t, `{"cache": {}}`),
		"odd":       serveText(t, `{"endpoints": [{"service": 7}]}`),
		"huge":      serveText(t, `{"endpoints": [], "more": "`+strings.Repeat("x", 9<<20)+`"}`),
		"away":      "127.0.0.1:81/../x?y=1:80",
		"userinfo":  "a@127.0.0.1:80",
		"nothing":   ":80",
	} {
		enlistClient(t, agent, "storefront", id, "127.0.0.1:82", metrics)
	}
	// Somebody else listens there on this host.
	enlistClient(t, agent, "storefront", "elsewhere", "203.0.113.7:80", lure)
	enlistClient(t, agent, "storefront", "elsewhere-2", "203.0.113.7:81", fmt.Sprintf("[::]:%d", lurePort))
	enlistClient(t, agent, "storefront", "far", "catalog.invalid:80", "localhost:"+strconv.Itoa(lurePort))
	r := runTool(t, "endpoints", "catalog", "--picks")
	r.want(t, 0, "10.0.0.1:80 ", "")
	for who, why := range map[string]string{
		"redirects": "302 Found for /debug/meshlite: is it a meshlite program?",
		"other":     "404 Not Found for /debug/meshlite",
		"garbage":   "and 1 more: an answer that is not the JSON of this version of meshlite",
		"older":     "an answer without endpoints: is it built with an older meshlite?",
		"huge":      "an answer of more than 8 MiB",
		"away":      "and 2 more: its metrics_address is not host:port",
		"elsewhere": `and 1 more: its admin page is on the loopback of host 203.0.113.7: run this there, or start it with meshlite.WithMetricsAddress("203.0.113.7:0")`,
		"far":       `its admin page is on the loopback of host catalog.invalid: run this there, or start it with meshlite.WithMetricsAddress("catalog.invalid:0")`,
	} {
		if !strings.Contains(r.err, "cannot ask "+who+" (") || !strings.Contains(r.err, why) {
			t.Errorf("of %s stderr does not say %q: %s", who, why, r.err)
		}
	}
	if n := strings.Count(r.err, "\n"); n != 8 {
		t.Errorf("%d lines, want one for each of 7 reasons, and that of a host for each: %s", n, r.err)
	}
	select {
	case path := <-asked:
		t.Errorf("%s of a program was asked that nobody has named", path)
	default:
	}
	r = runTool(t, "endpoints", "catalog", "--picks", "--client", closedPort(t))
	r.want(t, 1, "", "connection refused: has it ended?\nmeshlite: no client could be asked: see above\n")
}

func TestClientsThatDoNotAnswerAreGivenUp(t *testing.T) {
	openAgent(t)
	ended := make(chan struct{})
	hangs := func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush() // the header comes, and nothing else
		select {
		case <-r.Context().Done():
		case <-ended:
		}
	}
	var args []string
	for range 8 {
		args = append(args, "--client", servePage(t, http.HandlerFunc(hangs)))
	}
	t.Cleanup(func() { close(ended) })
	well := servePicks(t, picksOf("catalog", "10.0.0.1:80"))
	runTool(t, append([]string{"endpoints", "catalog", "--picks", "--client", well}, args...)...).want(t, 0, "10.0.0.1:80 ", " and 7 more: no answer within 2s\n")
}

func TestClientsThatAreAskedAreBounded(t *testing.T) {
	openAgent(t)
	args := []string{"endpoints", "catalog", "--picks"}
	for range 70 {
		args = append(args, "--client", servePicks(t, picksOf("catalog", "10.0.0.1:80")))
	}
	r := runTool(t, args...)
	r.want(t, 0, "10.0.0.1:80 ", " and 5 more: only the first 64 are asked: name others by --client\n")
	if n := strings.Count(r.out, "in rotation"); n != 64 {
		t.Errorf("%d clients are shown, want 64", n)
	}
}

// Without clients there is something to do.
func TestPicksWithoutAnyClient(t *testing.T) {
	agent := openAgent(t)
	enlist(t, agent, "catalog", "catalog-1", "10.0.0.1:80", "passing")
	r := runTool(t, "endpoints", "catalog", "--picks")
	r.want(t, 1, "", "lists no instance that publishes metrics_address, so no client of \"catalog\" was found: a program that is no server is in no directory")
	if strings.Count(r.err, "\n") != 1 || r.out != "" {
		t.Errorf("stdout %q, stderr %q, want one line", r.out, r.err)
	}
}

// Services that may not be read may have clients.
func TestPicksWhereAServiceCannotBeRead(t *testing.T) {
	agent := openAgent(t)
	enlistClient(t, agent, "storefront", "storefront-1", "127.0.0.1:81", servePicks(t, picksOf("catalog", "10.0.0.1:80")))
	enlist(t, agent, "prices", "prices-1", "10.0.0.2:80", "passing")
	denied := "prices"
	agent.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		refused := strings.HasPrefix(r.URL.Path, "/v1/health/service/"+denied)
		if refused {
			http.Error(w, "Permission denied", http.StatusForbidden)
		}
		return refused
	})
	runTool(t, "endpoints", "catalog", "--picks").want(t, 0, "10.0.0.1:80 ", `give a token with service:read on "prices"`)
	denied = ""
	runTool(t, "endpoints", "catalog", "--picks").want(t, 1, "", "denied the request")
}

func TestFlagsOfPicks(t *testing.T) {
	t.Setenv("CONSUL_HTTP_ADDR", closedPort(t)) // none of these asks for anything
	for args, want := range map[string]string{
		"catalog --client 127.0.0.1:1":              "--client without --picks: write both",
		"catalog --picks --watch":                   "--picks together with --watch: leave one out",
		"catalog --picks --tag a":                   "--picks together with --tag, --near, --filter or --warning",
		"consul:///catalog?near=_agent --picks":     "--picks together with --tag, --near, --filter or --warning",
		"catalog --picks --filter a --client a:1":   "--picks together with --tag",
		"catalog --picks --warning":                 "--picks together with --tag",
		"catalog --picks --client a:1 --dc dc1":     "--client together with --http-addr or --dc",
		"consul://a:1/catalog --picks --client a:1": "--client together with --http-addr or --dc",
		"catalog --picks --client 127.0.0.1":        `--client "127.0.0.1": write host:port, such as 127.0.0.1:9090`,
		"catalog --picks --client http://a:1":       `--client "http://a:1": write host:port`,
		"catalog --picks --client a:1 --client a:x": `--client "a:x": write host:port`,
		"catalog --picks --client a:0":              `--client "a:0": write host:port`,
		"catalog --picks --client a:70000":          `--client "a:70000": write host:port`,
		"a/b --picks":                               `service "a/b"`,
		"catalog --picks --consistency strong":      `--consistency "strong"`,
	} {
		t.Run(args, func(t *testing.T) {
			r := runTool(t, append([]string{"endpoints"}, strings.Fields(args)...)...)
			r.want(t, 2, "", want)
			if r.out != "" || strings.Count(r.err, "\n") != 1 {
				t.Errorf("stdout %q, stderr %q, want one line", r.out, r.err)
			}
		})
	}
	runTool(t, "__complete", "endpoints", "catalog", "--client", "").want(t, 0, ":4\n", "")
	runTool(t, "__complete", "endpoints", "catalog", "--pi").want(t, 0, "--picks\tshow how clients pick", "")
}
