package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// serveLimits is an admin page that reports limiters and of what runs at once.
func serveLimits(t *testing.T, limiters, concurrency string) (address string) {
	t.Helper()
	return serveText(t, `{"limits": {"limiters": `+limiters+`}, "concurrency": {"limiters": `+concurrency+`}}`)
}

// openLimitedShop is a catalog with limits, of which some calls were refused.
func openLimitedShop(t *testing.T) {
	t.Helper()
	openAgent(t)
	openReflectingShop(t, "catalog", 1, meshlite.WithMetricsAddress("127.0.0.1:0"), meshlite.WithRuntime(newRuntime(t)),
		meshlite.WithPolicy(&policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{"GetSweet": {
			Cache:       &policyv1.CacheRule{Ttl: proto.String("0s")},
			Concurrency: &policyv1.ConcurrencyRule{Max: proto.Uint32(9)},
			RateLimits: []*policyv1.RateLimitRule{
				{Name: "customer", Limit: proto.Uint64(4), Period: proto.String("15m"), Key: &policyv1.RateLimitKey{By: &policyv1.RateLimitKey_Metadata{Metadata: "customer-id"}}},
				{Name: "address", Limit: proto.Uint64(1), Period: proto.String("1h"), Shadow: proto.Bool(true), Key: &policyv1.RateLimitKey{By: &policyv1.RateLimitKey_Peer{Peer: &policyv1.PeerKey{}}}},
			}}}}))
	runTool(t, "call", "--plaintext", "-H", "customer-id: hunter2", "consul:///catalog?policy=round_robin", sweetMethod, "-d", `{"id": "x"}`, "-n", "20").want(t, 1, "", "failed")
}

func TestLimitsOfProcessesThatConsulKnows(t *testing.T) {
	openLimitedShop(t)
	for _, args := range []string{"limits catalog", "limits", "limits --each"} {
		r := runTool(t, strings.Fields(args)...)
		r.want(t, 0, "4 admitted, ", "")
		r.want(t, 0, "rate limits, most used first\n", "")
		r.want(t, 0, " shadow  address: 1 per 1h, by peer, shadow\n", "")
		r.want(t, 0, "  customer: 4 per 15m, by metadata customer-id\n", "")
		r.want(t, 0, "\n\nkeys that have used most of a limit\n  USED  LEFT  RESET IN  ", "")
		r.want(t, 0, "  127.0.0.1  catalog-127-0-0-1-", "")
		r.want(t, 0, "  #", "")
		r.want(t, 0, "calls that run at once, the fullest first\n  USED  IN FLIGHT  REFUSED  BASE  SAMPLE  FULLEST PROCESS\n"+sweetMethod+"\n  0%    0 of 9     0        -     -       catalog-127-0-0-1-", "")
		if strings.Contains(r.out, "hunter2") {
			t.Errorf("a secret is shown: %s", r.out)
		}
		wantColumns(t, r.out)
	}
}

func wantColumns(t *testing.T, text string) {
	t.Helper()
	for _, line := range strings.Split(text, "\n") {
		if len(line) > 80 {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
}

// The help names each field, and no list is null.
func TestLimitsAsJSON(t *testing.T) {
	openLimitedShop(t)
	r := runTool(t, "limits", "catalog", "-o", "json")
	var output struct {
		Processes []struct {
			ID, Address           string
			Limiters, Concurrency []map[string]any
		}
	}
	d := json.NewDecoder(strings.NewReader(r.out))
	d.DisallowUnknownFields()
	if err := d.Decode(&output); err != nil || len(output.Processes) != 1 || len(output.Processes[0].Limiters) == 0 || len(output.Processes[0].Concurrency) == 0 {
		t.Fatalf("got %s (%v)", r.out, err)
	}
	help := strings.Join(strings.Fields(runTool(t, "limits", "--help").out), " ")
	limiter, running := output.Processes[0].Limiters[0], output.Processes[0].Concurrency[0]
	for _, fields := range []any{limiter, limiter["limits"].([]any)[0], limiter["hot_keys"].([]any)[0], running, running["methods"].([]any)[0]} {
		for field := range fields.(map[string]any) {
			if !strings.Contains(strings.ToLower(help), field) {
				t.Errorf("the help does not name %s", field)
			}
		}
	}
	sparse, gone := serveLimits(t, `[{"name": "x"}]`, `[{"name": "runtime"}]`), closedPort(t)
	if r := runTool(t, "limits", "-o", "json", "--client", sparse, "--client", gone); strings.Contains(r.out, "null") || strings.Count(r.out, `"limiters": [`) != 2 {
		t.Errorf("lists that are not there: %s", r.out)
	}
}

// What each figure looks like. Others have written it, and may be up to no good.
func TestLimitsInWords(t *testing.T) {
	openAgent(t)
	const browse = `"method": "a.v1.S/Browse", "side": "server", "name": "customer"`
	one := serveLimits(t, `[{"name": "shop", "admitted": 400, "refused": 120, "waited": 3, "refunded": 2, "limits": [
		{`+browse+`, "limit": 50, "period_seconds": 1, "burst": 50, "by": "metadata customer-id", "refused": 120},
		{"method": "a.v1.S/Order", "side": "server", "name": "address", "limit": 100, "period_seconds": 900, "burst": 200, "by": "peer", "rules": "cost 2, refund failed, wait, per message", "refused": 5, "shadowed": 7}],
		"hot_keys": [{`+browse+`, "key": "#5f3c21aa", "used": 0.98, "remaining": 0, "reset_seconds": 0.98}]}]`,
		`[{"name": "runtime", "methods": [{"method": "a.v1.S/Browse", "adaptive": true, "limit": 20, "in_flight": 12, "refused": 4, "base_latency_ms": 1.25, "sample_latency_ms": 12.3456}]}]`)
	two := serveLimits(t, `[{"name": "shop", "admitted": 10, "shadowed": 4, "limits": [
		{`+browse+`, "limit": 40, "period_seconds": 5400, "burst": 40, "rules": "shadow", "shadowed": 4}],
		"hot_keys": [{`+browse+`, "key": "", "used": 1.5, "remaining": 0, "reset_seconds": 7200},
		 {`+browse+`, "key": "\u001b[2J", "used": -1, "reset_seconds": 1e300}]},
		{"name": "consul:///b", "held_back": 7}, {"name": "consul:///c", "limits": [{"method": "b.v1.T/Get", "side": "client", "name": "quota", "limit": 1, "period_seconds": 0.5, "burst": 1}]}]`,
		`[{"name": "runtime", "methods": [{"method": "a.v1.S/Browse", "limit": 0, "in_flight": 1}]}, {"name": "own", "methods": [{"method": "other", "limit": 3}]}]`)
	r := runTool(t, "limits", "--client", one, "--client", two)
	r.want(t, 0, fmt.Sprintf(`shop, 2 processes: 410 admitted, 120 refused,
  4 would be refused but for shadow, 3 waited, 2 given back
consul:///b, 1 process: 0 admitted, 7 held back
consul:///c, 1 process: 0 admitted

rate limits, most used first
  USED  REFUSED      LIMIT
a.v1.S/Browse
  150%%  4 shadow     customer: 40 per 1h30m, shadow, in 1 of 2 processes
  98%%   120          customer: 50 per 1s, by metadata customer-id,
                     in 1 of 2 processes
a.v1.S/Order
  -     5, 7 shadow  address: 100 per 15m, burst 200, by peer, cost 2,
                     refund failed, wait, per message
b.v1.T/Get
  -     0            quota: 1 per 500ms, client consul:///c

keys that have used most of a limit
  USED  LEFT  RESET IN    KEY        PROCESS
a.v1.S/Browse, customer
  150%%  0     2h0m0s      (shared)   %[2]s
  98%%   0     980ms       #5f3c21aa  %[1]s
  -     0     277h46m40s  `+"\ufffd"+`[2J       %[2]s

calls that run at once, the fullest first
  USED  IN FLIGHT  REFUSED  BASE    SAMPLE   FULLEST PROCESS
a.v1.S/Browse, adaptive
  60%%   13 of 20   4        1.25ms  12.35ms  %[1]s
other, limiter own
  0%%    0 of 3     0        -       -        %[2]s
`, one, two), "")
	wantColumns(t, strings.ReplaceAll(r.out, "\ufffd", "?"))
	r = runTool(t, "limits", "--each", "--client", one, "--client", two)
	r.want(t, 0, one+"\nshop: 400 admitted, 120 refused, 3 waited, 2 given back\n\nrate limits", "")
	r.want(t, 0, two+"\nconsul:///b: 0 admitted, 7 held back\nshop: 10 admitted, 4 would be refused but for shadow\n", "")
	if strings.Contains(r.out, " processes") {
		t.Errorf("of each by itself: %s", r.out)
	}
}

// Many limits do not scroll away the hot keys.
func TestLimitsThatAreShownAreBounded(t *testing.T) {
	openAgent(t)
	var limits, near, limiters, methods []string
	for i := range 30 {
		id := fmt.Sprintf(`"method": "a.v1.S/M%02d", "side": "server", "name": "all"`, i)
		limits = append(limits, `{`+id+`, "limit": 5, "period_seconds": 1, "burst": 5}`)
		near = append(near, fmt.Sprintf(`{%s, "key": "#%08x", "used": %g}`, id, i, 0.7+float64(i)/100))
		limiters = append(limiters, fmt.Sprintf(`{"name": "consul:///s%02d", "held_back": %d}`, i, i+1))
		methods = append(methods, fmt.Sprintf(`{"method": "a.v1.S/M%02d", "limit": 100, "in_flight": %d}`, i, i))
	}
	list := func(all []string) string { return "[" + strings.Join(all, ",") + "]" }
	limiters = append(limiters, `{"name": "shop", "limits": `+list(limits)+`, "hot_keys": `+list(near)+`}`)
	address := serveLimits(t, list(limiters), `[{"name": "runtime", "methods": `+list(methods)+`}]`)
	r := runTool(t, "limits", "--client", address)
	for _, want := range []string{"and 11 more limiters: --each shows all\n", "and 10 more limits: --each shows all\n", "and 10 more keys: ", "and 10 more methods: ",
		"  USED  REFUSED  LIMIT\na.v1.S/M29\n  99%   0        all: 5 per 1s\na.v1.S/M28\n", "KEY        PROCESS\na.v1.S/M29, all\n  99% ", "FULLEST PROCESS\na.v1.S/M29\n  29% "} {
		r.want(t, 0, want, "")
	}
	r.want(t, 0, "consul:///s29, 1 process: 0 admitted, 30 held back\n", "")
	r = runTool(t, "limits", "--each", "--client", address)
	if strings.Contains(r.out, " more ") || strings.Count(r.out, "all: 5 per 1s") != 30 {
		t.Errorf("each with all: %s", r.out)
	}
}

func TestLimitsOfProcessesWithoutAny(t *testing.T) {
	openAgent(t)
	one, two := openClient(t, 0), openClient(t, 0)
	runTool(t, "limits", "--client", one, "--client", two).want(t, 0, "2 processes: no calls of methods with a limit yet\n", "")
	runTool(t, "limits", "--client", one).want(t, 0, "1 process: no calls of methods with a limit yet\n", "")
	runTool(t, "limits", "--each", "--client", one).want(t, 0, one+"\nno calls of methods with a limit yet\n", "")
}

func TestLimitsThatCannotBeHad(t *testing.T) {
	agent := openAgent(t)
	runTool(t, "limits").want(t, 1, "", "lists no instance that publishes metrics_address: a program that is no server is in no directory")
	enlist(t, agent, "catalog", "catalog-1", "10.0.0.1:80", "passing")
	runTool(t, "limits", "catalog").want(t, 1, "", `no instance of "catalog" publishes metrics_address: is it a meshlite server`)
	runTool(t, "limits", "catlog").want(t, 1, "", `has no service "catlog": is it catalog?`)
	gone := closedPort(t)
	for page, want := range map[string]string{
		`{"limits": {"Admitted": 1}, "endpoints": []}`:               "an answer without limits: is it built with an older meshlite?\nmeshlite: no process could be asked",
		`{"limits": {"limiters": []}}`:                               "an answer without limits",
		`{"limits": {"limiters": []}, "concurrency": []}`:            "an answer that is not the JSON of this version of meshlite",
		`{"limits": {"limiters": 7}, "concurrency": {}}`:             "an answer that is not the JSON of this version of meshlite",
		`{"cache": {}, "concurrency": {"limiters": []}, "limit": 1}`: "an answer without limits",
	} {
		runTool(t, "limits", "--client", serveText(t, page)).want(t, 1, "", want)
	}
	runTool(t, "limits", "--client", serveLimits(t, "[]", "[]"), "--client", gone).want(t, 0, "1 process: no calls", "cannot ask "+gone+": connection refused: has it ended?\n")
	t.Setenv("CONSUL_HTTP_ADDR", closedPort(t))
	runTool(t, "limits", "catalog").want(t, 1, "", "refused the connection")
}

func TestFlagsOfLimits(t *testing.T) {
	t.Setenv("CONSUL_HTTP_ADDR", closedPort(t)) // none of these asks for anything
	for args, want := range map[string]string{
		"a b":                      "limits takes SERVICE or nothing, not 2 arguments: `meshlite services` lists what there is",
		"consul:///catalog":        `service "consul:///catalog": write the name of a service`,
		"catalog --client a:1":     `service "catalog" together with --client: leave one out`,
		"--client a":               `--client "a": write host:port`,
		"--client a:1 --dc dc1":    "--client together with --http-addr or --dc",
		"--index":                  "unknown flag: --index",
		"catalog --http-addr a":    `--http-addr "a": write host:port`,
		"catalog --each=sometimes": `--each "sometimes": write true or false`,
	} {
		t.Run(args, func(t *testing.T) {
			r := runTool(t, append([]string{"limits"}, strings.Fields(args)...)...)
			r.want(t, 2, "", want)
			if r.out != "" || strings.Count(r.err, "\n") != 1 {
				t.Errorf("stdout %q, stderr %q, want one line", r.out, r.err)
			}
		})
	}
	runTool(t, "help").want(t, 0, "  limits      Show the limits of processes, and the keys that have used most of them\n", "")
	runTool(t, "__complete", "limits", "--e").want(t, 0, "--each\t", "")
	runTool(t, "__complete", "limits", "--client", "").want(t, 0, ":4\n", "")
	agent := openAgent(t)
	enlist(t, agent, "catalog", "catalog-1", "10.0.0.1:80", "passing")
	runTool(t, "__complete", "limits", "").want(t, 0, "catalog\n", "")
}
