package consul

import (
	"encoding/json"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// R24: what only its health keeps from being called is reported apart, by what keeps it;
// weight 0 and no address are no matter of health.
//
// Case R24
func TestUnhealthyInstancesAreReportedApart(t *testing.T) {
	entry := func(id string, port, weight int, checks ...*api.HealthCheck) *api.ServiceEntry {
		return &api.ServiceEntry{
			Node:    &api.Node{Node: "n", Address: "10.0.0.1"},
			Service: &api.AgentService{ID: id, Service: "catalog", Port: port, Weights: api.AgentWeights{Passing: weight, Warning: weight}},
			Checks:  checks,
		}
	}
	is := func(status string) *api.HealthCheck { return &api.HealthCheck{CheckID: "c", Status: status} }
	entries := []*api.ServiceEntry{
		entry("critical", 1, 1, is(api.HealthCritical)),
		entry("passing", 2, 1, is(api.HealthPassing)),
		entry("warning", 3, 1, is(api.HealthWarning)),
		entry("node", 4, 1, &api.HealthCheck{CheckID: api.NodeMaint, Status: api.HealthCritical}),
		entry("service", 5, 1, is(api.HealthPassing), &api.HealthCheck{CheckID: api.ServiceMaintPrefix + "service", Status: api.HealthCritical}),
		entry("weightless", 6, 0, is(api.HealthCritical)),
		entry("a-twin", 2, 1, is(api.HealthCritical)), // another registration of the address of "passing"
		entry("portless", 0, 1, is(api.HealthCritical)),
	}
	for _, warning := range []bool{false, true} {
		want := map[string]catalog.Status{"critical": catalog.Critical, "node": catalog.Maintenance, "service": catalog.Maintenance}
		healthy := 2
		if !warning {
			want["warning"], healthy = catalog.Warning, 1
		}
		found := instances{query: catalog.Query{Service: "catalog", Warning: warning}}
		for _, e := range entries {
			found.add(decoded(t, e))
		}
		list, unhealthy := found.lists()
		if len(list) != healthy || list[0].ID != "passing" {
			t.Errorf("Warning %v: healthy are %+v", warning, list)
		}
		if len(unhealthy) != len(want) {
			t.Errorf("Warning %v: %d are unhealthy, want %d: %+v", warning, len(unhealthy), len(want), unhealthy)
		}
		for _, i := range unhealthy {
			if status, known := want[i.ID]; !known || i.Status != status {
				t.Errorf("Warning %v: %s is %v, want %v", warning, i.ID, i.Status, status)
			}
		}
	}
}

// decoded is e as it is read from the wire.
func decoded(t *testing.T, e *api.ServiceEntry) *entry {
	t.Helper()
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	read := &entry{}
	if err := json.Unmarshal(text, read); err != nil {
		t.Fatal(err)
	}
	return read
}
