package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/internal/explain"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

func TestExplain(t *testing.T) {
	agent := openAgent(t)
	openReflectingShop(t, "catalog", 2)
	client := openClient(t, 3, "consul:///catalog")
	configure(t, agent, `{"Kind":"service-defaults","Name":"catalog","Protocol":"grpc"}`, `{"Kind":"service-router","Name":"catalog","Routes":[
		{"Match":{"HTTP":{"Header":[{"Name":"x-canary","Exact":"yes"}]}},"Destination":{"RequestTimeout":"3s"}}]}`)
	for name, test := range map[string]struct {
		args []string
		want []string
	}{
		"a channel of its own": {[]string{"--plaintext"}, []string{"by a channel of this tool", "✗ route 1: x-canary is absent", "✓ route default", "policy meshlite_least_request", " 50.0%  127.0.0.1:", "weight 1, 0 in flight"}},
		"nothing usable":       {nil, []string{"100% of such calls, although no target is usable", "! the contract is not read: connection error", ": the server speaks plaintext: add --plaintext\n"}},
		"with metadata":        {[]string{"--plaintext", "-H", "x-canary: yes"}, []string{"✓ route 1", "timeout: 2s by the policy, less than the 3s of the route", "policy\n", "(contract, "}},
		"a live client":        {[]string{"--client", client}, []string{"by the client at " + client, " 50.0%  127.0.0.1:"}},
		"with a request":       {[]string{"--plaintext", "-d", `{"id": "humbug"}`}, []string{"✓ route default", "cache of dc1/catalog/: a miss"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := runTool(t, append([]string{"explain", "consul:///catalog", getSweet}, test.args...)...)
			r.want(t, 0, getSweet+" to consul:///catalog", "")
			for _, want := range test.want {
				if !strings.Contains(r.out, want) {
					t.Errorf("no %q in\n%s", want, r.out)
				}
			}
		})
	}
	r := runTool(t, "explain", "--plaintext", "consul:///catalog", getSweet, "-o", "json")
	var e explain.Explanation
	if err := json.Unmarshal([]byte(r.out), &e); err != nil || e.Method != getSweet || len(e.Routing.Arms) != 1 || len(e.Routing.Arms[0].Targets[0].Outlook.Endpoints) != 2 {
		t.Errorf("%v: %+v of\n%s%s", err, e, r.out, r.err)
	}

	versions(t, agent)
	r = runTool(t, "explain", "--plaintext", "consul:///catalog", "grpc.health.v1.Health/Check")
	if n := strings.Count(r.out, "cache: not used: the policy has no ttl\n"); n != 1 || strings.Count(r.out, "arm ") != 2 {
		t.Errorf("with two arms, why the cache is not used is written %d times, want once:\n%s%s", n, r.out, r.err)
	}
}

// What the intentions in Consul decide is a part of the explanation, as the agent lets them be read.
func TestExplainHasTheVerdictOfIntentions(t *testing.T) {
	agent := openAgent(t)
	openReflectingShop(t, "catalog", 1, meshlite.WithTransportCredentials(asService(t, "catalog")))
	verdict := func(want string) explain.Intention {
		t.Helper()
		command := []string{"explain", "--identity", "web", "consul:///catalog", getSweet, "-H", "tenant: a"}
		runTool(t, command...).want(t, 0, want, "")
		var e explain.Explanation
		r := runTool(t, append(command, "-o", "json")...)
		if err := json.Unmarshal([]byte(r.out), &e); err != nil || len(e.Intentions) != 1 || e.Intentions[0].Destination != "catalog" {
			t.Fatalf("%v: want one intention of catalog: %s%s", err, r.out, r.err)
		}
		return e.Intentions[0]
	}
	if got := verdict("✓ catalog allows it by default\n"); !got.Allowed || got.Rule != "default" {
		t.Errorf("without intentions: %+v", got)
	}
	write(t, agent, "catalog", `[{"Name":"web","Action":"deny"}]`)
	if got := verdict("✗ catalog denies it by web => catalog\n"); got.Allowed || got.Rule != "web => catalog" {
		t.Errorf("denied: %+v", got)
	}
	write(t, agent, "catalog", `[{"Name":"web","Permissions":[{"Action":"allow","HTTP":{"PathExact":"/`+getSweet+`","Header":[{"Name":"tenant","Exact":"a"}]}}]}]`)
	if got := verdict("✓ catalog allows it by web => catalog permission 1\n"); !got.Allowed {
		t.Errorf("allowed by a permission: %+v", got)
	}
	write(t, agent, "catalog", `[{"Name":"web","Permissions":[{"Action":"allow","HTTP":{"PathExact":"/a.B/C"}}]}]`)
	if got := verdict("✓ catalog allows it by default: no permission of web => catalog matches\n"); !got.Allowed || got.Reason == "" {
		t.Errorf("without a permission that matches: %+v", got)
	}
	agent.Inject(consultest.Forbidden().On("/v1/connect/intentions/"))
	if got := verdict("! the intentions of catalog: consul at "); got.Allowed || !strings.Contains(got.Error, "denied the request") {
		t.Errorf("unreadable: %+v", got)
	}
}

func TestExplainRefusesWhatItCannotRead(t *testing.T) {
	openAgent(t)
	openReflectingShop(t, "catalog", 1)
	client := openClient(t, 1, "consul:///catalog")
	file := t.TempDir() + "/request.json"
	if err := os.WriteFile(file, []byte(`{"id": "`+strings.Repeat("x", 40<<10)+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args []string
		code int
		err  string
	}{
		"no method":               {[]string{"consul:///catalog"}, 2, "explain takes TARGET METHOD, not 1 arguments"},
		"a service alone":         {[]string{"consul:///catalog", "/", "--client", client}, 2, "write"},
		"a service as a method":   {[]string{"consul:///catalog", "sweetshop.catalog.v1.CatalogService", "--plaintext"}, 2, `"sweetshop.catalog.v1.CatalogService" is a service: write`},
		"another target":          {[]string{"dns:///catalog:80", getSweet}, 2, "only calls to services in Consul are explained"},
		"a huge request":          {[]string{"consul:///catalog", getSweet, "--client", client, "-d", "@" + file}, 2, "and at most 32768 are read"},
		"a huge method":           {[]string{"consul:///catalog", "a/" + strings.Repeat("x", 2000), "--client", client}, 2, "at most 1024 are read"},
		"huge metadata":           {[]string{"consul:///catalog", getSweet, "--client", client, "-H", "x: " + strings.Repeat("y", 9<<10)}, 1, "metadata has more than 8192 bytes"},
		"an unknown method":       {[]string{"consul:///catalog", getSweet + "s", "--client", client}, 1, "has no such method: write one of sweetshop.catalog.v1.CatalogService/GetSweet"},
		"an unknown field":        {[]string{"consul:///catalog", getSweet, "--client", client, "-d", `{"idd": "x"}`}, 1, `unknown field "idd"`},
		"no contract":             {[]string{"consul:///catalog", "no.Such/Method", "--client", client, "-d", "{}"}, 1, "the client has no contract of no.Such/Method: leave data out"},
		"another service":         {[]string{"consul:///catalogue", getSweet, "--client", client}, 1, `no channel to "consul:///catalogue": it has consul:///catalog`},
		"a client with TLS":       {[]string{"consul:///catalog", getSweet, "--client", client, "--plaintext"}, 2, "leave one out"},
		"plaintext as a service":  {[]string{"consul:///catalog", getSweet, "--client", client, "--identity", "ops"}, 2, "without a --client https://host:port"},
		"a client without a port": {[]string{"consul:///catalog", getSweet, "--client", "localhost"}, 2, "write host:port"},
		"metadata without a key":  {[]string{"consul:///catalog", getSweet, "-H", "secret"}, 2, "write key:value"},
	} {
		t.Run(name, func(t *testing.T) {
			r := runTool(t, append([]string{"explain"}, test.args...)...)
			r.want(t, test.code, "", test.err)
			if strings.Contains(r.err, "secret") {
				t.Errorf("a value is repeated: %s", r.err)
			}
		})
	}
}
