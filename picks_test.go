package meshlite_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/resolver"
)

func TestMetricsAndTheAdminPageShowPicks(t *testing.T) {
	m := newMesh(t)
	instance := m.serve(&shop{name: "a"})
	client, conn := m.client("consul:///catalog", uncached())
	for range 5 {
		get(t, client, "x")
	}
	address := m.instances("catalog")[0]
	page := scrape(t, m.runtime)
	for _, want := range []string{
		`meshlite_endpoint_picks_total{address="` + address + `",service="catalog"} 5`,
		`meshlite_endpoint_in_flight{address="` + address + `",service="catalog"} 0`,
		`meshlite_endpoints{service="catalog",state="in_rotation"} 1`,
		`meshlite_ejections_total{reason="consecutive_failures",service="catalog"} 0`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	handler, err := m.runtime.Handler()
	if err != nil {
		t.Fatal(err)
	}
	read := func() []resolver.Picks {
		stats := httptest.NewRecorder()
		handler.ServeHTTP(stats, localRequest(http.MethodGet, "/debug/meshlite", nil))
		var told struct{ Endpoints []resolver.Picks }
		if err := json.Unmarshal(stats.Body.Bytes(), &told); err != nil || told.Endpoints == nil {
			t.Fatalf("/debug/meshlite says %s (%v)", stats.Body, err)
		}
		return told.Endpoints
	}
	told := read()
	if len(told) != 1 || told[0].Service != "catalog" || len(told[0].Endpoints) != 1 || told[0].Endpoints[0].Address != address ||
		told[0].Endpoints[0].Picks != uint64(instance.calls.Load()) {
		t.Errorf("/debug/meshlite shows %+v", told)
	}
	conn.Close()
	if told = read(); len(told) != 0 {
		t.Errorf("without a channel it shows %+v", told)
	}
}
