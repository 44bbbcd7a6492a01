package main

import (
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/internal/consulagent"
	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// openConsul is a real Consul, which the environment names.
func openConsul(t *testing.T) *consulagent.Agent {
	t.Helper()
	agent := agenttest.Start(t)
	t.Setenv("CONSUL_HTTP_ADDR", agent.Address)
	return agent
}

func TestLooksIntoARealConsul(t *testing.T) {
	openConsul(t)
	runTool(t, "services").want(t, 0, "NAME", " has no service")
	openShop(t, "catalog", 1, meshlite.WithRegistration(catalog.Registration{Instance: catalog.Instance{Tags: []string{"canary"}}}))
	runTool(t, "check").want(t, 0, "✓ catalog-127-0-0-1-", "")
	runTool(t, "services").want(t, 0, "catalog  1        0        0         canary\n", "")
	runTool(t, "endpoints", "catalog", "--near", "_agent", "--filter", "canary in Service.Tags").want(t, 0, "  meshlite  dc1  -     1       passing  canary\n", "")
	runTool(t, "endpoints", "catalog", "--filter", "==").want(t, 1, "", "rejects the filter `==`")
	runTool(t, "endpoints", "catalog", "--dc", "nowhere").want(t, 1, "", `has no datacenter "nowhere"`)

	// Nothing but the check of its node.
	agent := consulClient(t).Agent()
	address := openHealth(t, healthv1.HealthCheckResponse_SERVING, nil)
	w := watchEndpoints(t, "prices")
	if got := w.line(t); !strings.HasPrefix(got, "no instance of prices yet") {
		t.Errorf("it says %q", got)
	}
	host, port := splitAddress(t, address)
	if err := agent.ServiceRegister(&api.AgentServiceRegistration{ID: "prices-1", Name: "prices", Address: host, Port: port}); err != nil {
		t.Fatal(err)
	}
	if got := w.line(t); got != "+ "+address+"  prices-1  passing, weight 1, node meshlite" {
		t.Errorf("it says %q", got)
	}
	runTool(t, "check", "prices").want(t, 0, "! prices-1  "+address+"  has no check in Consul", "")

	if err := agent.EnableServiceMaintenance("prices-1", "repainting"); err != nil {
		t.Fatal(err)
	}
	if got := w.line(t); !strings.Contains(got, "status passing -> critical") {
		t.Errorf("it says %q", got)
	}
	r := runTool(t, "check", "prices")
	r.want(t, 0, ", in maintenance: repainting\n      when it is over: `consul maint -disable -service=prices-1` on node meshlite\n", "")
	r.want(t, 0, "has no check in Consul", "")
	if err := agent.DisableServiceMaintenance("prices-1"); err != nil {
		t.Fatal(err)
	}
	if got := w.line(t); !strings.Contains(got, "status critical -> passing") {
		t.Errorf("it says %q", got)
	}
	if err := agent.EnableNodeMaintenance("new disks"); err != nil {
		t.Fatal(err)
	}
	if got := w.line(t); !strings.Contains(got, "status passing -> critical (new disks)") {
		t.Errorf("it says %q", got)
	}
	runTool(t, "check", "prices").want(t, 0, ", in maintenance: new disks\n      when it is over: `consul maint -disable` on node meshlite\n", "")
	if code := w.stop(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}
