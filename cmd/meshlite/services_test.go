package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

func TestServices(t *testing.T) {
	agent := openAgent(t)
	runTool(t, "services").want(t, 0, "NAME", " has no service: start one")
	runTool(t, "services", "-o", "json").want(t, 0, `"services": []`, " has no service")

	enlist(t, agent, "catalog", "catalog-1", "10.0.0.1:80", "passing")
	enlist(t, agent, "catalog", "catalog-2", "10.0.0.2:80", "warning")
	enlist(t, agent, "catalog", "catalog-3", "10.0.0.3:80", "critical")
	if err := agent.Register(consultest.Service{Name: "prices", Tags: []string{"v2", "canary\x1b[2J"}}); err != nil {
		t.Fatal(err)
	}
	r := runTool(t, "services")
	r.want(t, 0, "NAME     PASSING  WARNING  CRITICAL  TAGS\n"+
		"catalog  1        1        1         -\n"+
		"prices   1        0        0         canary\ufffd[2J,v2\n", "")
	if r.err != "" {
		t.Errorf("stderr %q", r.err)
	}
	var output struct {
		Services []struct {
			Name                       string
			Passing, Warning, Critical int
			Tags                       []string
		}
	}
	r = runTool(t, "services", "-o", "json")
	if err := json.Unmarshal([]byte(r.out), &output); err != nil || len(output.Services) != 2 ||
		output.Services[0].Name != "catalog" || output.Services[0].Warning != 1 || output.Services[0].Tags == nil || len(output.Services[1].Tags) != 2 {
		t.Errorf("got %s (%v)", r.out, err)
	}
	runTool(t, "services", "--dc", "nowhere").want(t, 1, "", `has no datacenter "nowhere" (No path to datacenter): see `+"`consul catalog datacenters`")
	runTool(t, "services", "--http-addr", closedPort(t)).want(t, 1, "", "refused the connection")
	runTool(t, "services", "--http-addr", "here").want(t, 2, "", `--http-addr "here": write host:port`)
}

// X12: an error about an address does not contain its secret, and blamed on
// nothing else.
func TestAnAgentThatCannotBeUsed(t *testing.T) {
	for _, command := range []string{"services", "check", "endpoints"} {
		args := []string{command}
		if command == "endpoints" {
			args = append(args, "catalog")
		}
		for _, address := range []string{"http://user:secret@127.0.0.1:8500", "user:secret@127.0.0.1:8500", "user:secret@127.0.0.1", "https://secret@127.0.0.1"} {
			r := runTool(t, append(args, "--http-addr", address)...)
			r.want(t, 1, "", "user information: set CONSUL_HTTP_AUTH or CONSUL_HTTP_TOKEN")
			if strings.Contains(r.out+r.err, "secret") {
				t.Errorf("%s --http-addr %s prints the secret: %s%s", command, address, r.out, r.err)
			}
		}
	}
	t.Setenv("CONSUL_CACERT", "/nowhere")
	r := runTool(t, "services")
	r.want(t, 1, "", "/nowhere")
	if strings.Contains(r.err, "--http-addr") {
		t.Errorf("it blames a flag that was not given: %s", r.err)
	}
}

func TestServicesOfWhichOneCannotBeRead(t *testing.T) {
	agent := openAgent(t)
	enlist(t, agent, "catalog", "catalog-1", "10.0.0.1:80", "passing")
	enlist(t, agent, "prices", "prices-1", "10.0.0.2:80", "passing")
	agent.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		refused := r.URL.Path == "/v1/health/service/prices"
		if refused {
			http.Error(w, "Permission denied", http.StatusForbidden)
		}
		return refused
	})
	runTool(t, "services").want(t, 0, "catalog  1        0        0         -\nprices   ?        ?        ?         ?\n", `denied the request (Permission denied): give a token with service:read on "prices"`)
	runTool(t, "services", "-o", "json").want(t, 0, `"error": "consul at `, "denied")
}

func TestServiceNamesAreCompleted(t *testing.T) {
	agent := openAgent(t)
	enlist(t, agent, "catalog", "catalog-1", "10.0.0.1:80", "passing")
	enlist(t, agent, "inventory", "inventory-1", "10.0.0.2:80", "passing")
	runTool(t, "__complete", "endpoints", "").want(t, 0, "catalog\ninventory\n:4\n", "")
	if r := runTool(t, "__complete", "endpoints", "catalog", ""); r.out != ":4\n" {
		t.Errorf("after a service, %q is offered", r.out)
	}
	if r := runTool(t, "__complete", "check", "catalog", ""); r.out != "inventory\n:4\n" {
		t.Errorf("after one of two services, %q is offered", r.out)
	}
	if r := runTool(t, "__complete", "check", "--http-addr", closedPort(t), ""); r.out != ":4\n" {
		t.Errorf("without Consul, %q is offered", r.out)
	}
}
