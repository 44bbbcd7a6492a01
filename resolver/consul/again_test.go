package consul_test

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// G1: a service registers as passing after it has checked itself, also under the
// id of one that has crashed and was found critical.
//
// Case G1
func TestWhoComesBackAfterACrashPasses(t *testing.T) {
	onEveryAgent(t, func(t *testing.T, a agent) {
		dead := dial(t, a, consul.Config{Heartbeat: time.Hour})
		address, crash := serveHealthUntil(t)
		crashed := instance("catalog-1", address)
		crashed.CheckInterval = time.Second
		mustRegister(t, dead, crashed)
		w := watch(dead, catalog.Query{Service: "catalog"})
		defer w.stop()
		w.await(t, address)
		crash()
		w.await(t)

		r := instance("catalog-1", serveHealth(t))
		r.CheckInterval = time.Hour // no check of Consul's makes it passing
		mustRegister(t, dial(t, a, consul.Config{}), r)
		w.await(t, r.Address)
	})
}

// An operator's maintenance outlives a crash.
func TestWhoComesBackIntoMaintenanceStaysThere(t *testing.T) {
	onEveryAgent(t, func(t *testing.T, a agent) {
		d := dial(t, a, consul.Config{})
		r := instance("catalog-1", serveHealth(t))
		mustRegister(t, d, r)
		client := a.operator(t)
		if err := client.Agent().EnableServiceMaintenance("catalog-1", "repainting"); err != nil {
			t.Fatal(err)
		}
		mustRegister(t, d, r)
		checks, err := client.Agent().ChecksWithFilterOpts("", &api.QueryOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for id := range checks {
			if strings.HasPrefix(id, api.ServiceMaintPrefix) {
				return
			}
		}
		t.Errorf("the maintenance is gone, what is left: %v", checks)
	})
}
