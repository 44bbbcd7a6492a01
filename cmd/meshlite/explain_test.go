package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/internal/explain"
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
		"with metadata":        {[]string{"--plaintext", "-H", "x-canary: yes"}, []string{"✓ route 1", "3s by the route", "policy\n", "(contract, "}},
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
		"another target":          {[]string{"dns:///catalog:80", getSweet}, 2, "only calls to services in Consul are explained"},
		"a huge request":          {[]string{"consul:///catalog", getSweet, "--client", client, "-d", "@" + file}, 2, "and at most 32768 are read"},
		"a huge method":           {[]string{"consul:///catalog", "a/" + strings.Repeat("x", 2000), "--client", client}, 2, "at most 1024 are read"},
		"huge metadata":           {[]string{"consul:///catalog", getSweet, "--client", client, "-H", "x: " + strings.Repeat("y", 9<<10)}, 1, "metadata has more than 8192 bytes"},
		"an unknown method":       {[]string{"consul:///catalog", getSweet + "s", "--client", client}, 1, "has no such method: write one of sweetshop.catalog.v1.CatalogService/GetSweet"},
		"an unknown field":        {[]string{"consul:///catalog", getSweet, "--client", client, "-d", `{"idd": "x"}`}, 1, `unknown field "idd"`},
		"no contract":             {[]string{"consul:///catalog", "no.Such/Method", "--client", client, "-d", "{}"}, 1, "the client has no contract of no.Such/Method: leave data out"},
		"another service":         {[]string{"consul:///catalogue", getSweet, "--client", client}, 1, `no channel to "consul:///catalogue": it has consul:///catalog`},
		"a client with TLS":       {[]string{"consul:///catalog", getSweet, "--client", client, "--plaintext"}, 2, "leave one out"},
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
