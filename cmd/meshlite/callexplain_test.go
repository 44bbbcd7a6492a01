package main

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors/hop"
)

// trusting has servers answer callers on this machine.
func trusting(t *testing.T) meshlite.Option {
	t.Helper()
	callers, err := caller.New(caller.WithTrustedPrefixes(netip.MustParsePrefix("127.0.0.0/8")))
	if err != nil {
		t.Fatal(err)
	}
	runtime, err := meshlite.NewRuntime(meshlite.RuntimeConfig{Callers: callers})
	if err != nil {
		t.Fatal(err)
	}
	return meshlite.WithRuntime(runtime)
}

// A call that is explained is answered as any other, and then has a tree of what happened to it.
func TestCallExplain(t *testing.T) {
	agent := openAgent(t)
	openReflectingShop(t, "catalog", 2, trusting(t), meshlite.WithLocality("eu", "a"))
	configure(t, agent, `{"Kind":"service-defaults","Name":"catalog","Protocol":"grpc"}`, `{"Kind":"service-router","Name":"catalog","Routes":[
		{"Match":{"HTTP":{"Header":[{"Name":"x-canary","Exact":"yes"}]}},"Destination":{"RequestTimeout":"3s"}}]}`)
	for name, test := range map[string]struct {
		args    []string
		code    int
		want    []string
		without string
	}{
		"a call": {[]string{"-d", `{"id": "humbug"}`}, 0, []string{`"humbug"`, getSweet + " to consul:///catalog: OK in ", "├─ deadline in 5s, set by the caller\n├─ route default, arm catalog: dc1/catalog/\n└─ sent to catalog-127-0-0-1-", ", zone a, by meshlite_least_request of 2: OK in ",
			"   └─ catalog-127-0-0-1-", "      └─ called from 127.0.0.1:", "in the handler"}, "!"},
		"a route":          {[]string{"-H", "x-canary: yes"}, 0, []string{"deadline in 3s, set by the route", "├─ route 1, arm catalog: dc1/catalog/"}, "!"},
		"one that fails":   {[]string{"-d", `{"id": "limited"}`}, 1, []string{": ✗ ResourceExhausted in ", "   └─ catalog-127-0-0-1-"}, "calls"},
		"one that is long": {[]string{"-d", `{"id": "slow"}`, "--timeout", "300ms"}, 1, []string{": ✗ DeadlineExceeded in "}, "OK"},
	} {
		t.Run(name, func(t *testing.T) {
			r := runTool(t, append([]string{"call", "--plaintext", "--explain", "consul:///catalog", getSweet}, test.args...)...)
			r.want(t, test.code, "", "")
			for _, want := range test.want {
				if !strings.Contains(r.out, want) {
					t.Errorf("no %q in\n%s%s", want, r.out, r.err)
				}
			}
			if strings.Contains(r.out, test.without) {
				t.Errorf("%q is in\n%s", test.without, r.out)
			}
		})
	}

	r := runTool(t, "call", "--plaintext", "--explain", "consul:///catalog", getSweet, "-o", "json")
	var report struct {
		Code        string
		Trailer     map[string][]string
		Explanation *hop.Hop
	}
	if err := json.Unmarshal([]byte(r.out), &report); err != nil || report.Explanation == nil || report.Explanation.Attempts[0].Server == nil || report.Explanation.Route == nil {
		t.Errorf("%v: %s%s", err, r.out, r.err)
	}
	for key := range report.Trailer {
		if strings.HasPrefix(key, "x-meshlite-") {
			t.Errorf("the trailer has %q", key)
		}
	}
	runTool(t, "call", "--plaintext", "--explain", "consul:///catalog", "grpc.health.v1.Health/Check").want(t, 0, "grpc.health.v1.Health/Check is not explained: it is one of gRPC's own services\n", "OK from ")
	for name, test := range map[string]struct {
		args []string
		err  string
	}{
		"many calls": {[]string{getSweet, "-n", "2"}, "--explain with -n 2: one call is explained"},
		"no method":  {nil, "--explain without METHOD"},
	} {
		t.Run(name, func(t *testing.T) {
			runTool(t, append([]string{"call", "--plaintext", "--explain", "consul:///catalog"}, test.args...)...).want(t, 2, "", test.err)
		})
	}
}

// Servers that do not answer leave the side of the client, and what makes them willing.
func TestCallExplainsItsOwnSideAlone(t *testing.T) {
	openAgent(t)
	openReflectingShop(t, "catalog", 1)
	const unwilling = "! the server answers no explanation: it does not trust this caller (RuntimeConfig.Callers), or is not of meshlite"
	r := runTool(t, "call", "--plaintext", "--explain", "consul:///catalog", getSweet)
	r.want(t, 0, "by meshlite_least_request of 1: OK in ", "")
	r.want(t, 0, unwilling, "")

	address := serveCounter(t)
	r = runTool(t, "call", "--plaintext", "--explain", address, "grpc.testing.TestService/StreamingOutputCall", "-d", `{"responseParameters": [{}]}`)
	r.want(t, 0, "grpc.testing.TestService/StreamingOutputCall to "+address+": OK in ", "1 messages")
	r.want(t, 0, unwilling, "")
}
