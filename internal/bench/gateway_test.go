package bench

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"testing"

	"github.com/meshlite-go/meshlite/internal/benchkit"
)

// The paths through gateways, by the names in the table.
const (
	generatedGet  = "grpc-gateway, generated code: GET"
	generatedPost = "grpc-gateway, generated code: POST"
	gatewayGet    = "meshlite gateway: GET"
	gatewayPost   = "meshlite gateway: POST"
	gatewayCached = "meshlite gateway: cached GET"
	gateway304    = "meshlite gateway: cached GET, 304"
	nginxCached   = "NGINX proxy_cache: cached GET"
	nginx304      = "NGINX proxy_cache: cached GET, 304"
)

func gatewayPaths() []path {
	return []path{
		{name: generatedGet, start: overHTTP(startGenerated, getEcho)},
		{name: generatedPost, start: overHTTP(startGenerated, postEcho)},
		{name: gatewayGet, start: overHTTP(startGateway, getEcho)},
		{name: gatewayPost, start: overHTTP(startGateway, postEcho)},
	}
}

// cachedPaths call no backend.
func cachedPaths() []path {
	return []path{
		{name: nginxCached, program: "nginx", start: overHTTP(startNGINXCache, getCached)},
		{name: nginx304, program: "nginx", start: overHTTP(startNGINXCache, confirmed)},
		{name: gatewayCached, start: overHTTP(startGateway, getCached)},
		{name: gateway304, start: overHTTP(startGateway, confirmed)},
	}
}

func TestGatewayFigures(t *testing.T) {
	onlyForFigures(t)
	all := slices.Concat([]path{{name: haproxyLeastConn, program: "haproxy", start: behind(benchkit.StartHAProxy)}}, gatewayPaths(), cachedPaths())
	measured, missing := measurePaths(t, all, benchkit.Load{Warm: warmUp, Window: *window}, 0)
	show(t, gatewayTable(all, measured, missing), gatewayAims(measured))
}

func gatewayTable(all []path, measured map[string]*tally, missing []string) table {
	table := table{
		title: fmt.Sprintf("JSON over HTTP/1.1 through gateways to the same backends: %d callers with a connection each, 100 bytes there and back, %d cores, medians of %d",
			benchkit.Callers, runtime.NumCPU(), *runs),
		columns: []string{"path", "calls/s", "p50 ms", "p99 ms", "client CPU", "its CPU"},
		notes: append(missing, "its CPU is the gateway's or proxy's for one call, to 10 ms of the whole; backends are not in it",
			"all of HTTP is called by the same lean client, HAProxy over gRPC by grpc-go's"),
	}
	for _, p := range all {
		if m := measured[p.name]; m != nil {
			table.add([]string{
				p.name, thousands(middle(m.healthy, ratesOf)), fmt.Sprintf("%.2f", middle(m.healthy, p50Of)), fmt.Sprintf("%.1f", middle(m.healthy, p99Of)),
				fmt.Sprintf("%.0f us", middle(m.healthy, cpuOf)), fmt.Sprintf("%.0f us", middle(m.healthy, betweenOf)),
			})
		}
	}
	return table
}

// gatewayAims holds the gateway to what it should reach.
func gatewayAims(measured map[string]*tally) table {
	table := table{title: "The same, beside its peers", columns: []string{"what", "figure", "peer", "its figure", "ratio"}}
	for _, aimed := range []struct {
		ours, peer string
		limit      float64 // 0 is no aim
	}{
		{gatewayPost, generatedPost, 1}, {gatewayGet, generatedGet, 1},
		{gatewayPost, haproxyLeastConn, 0.8}, {gatewayGet, haproxyLeastConn, 0.8},
		{gatewayCached, gatewayGet, 3}, {gateway304, gatewayGet, 3},
		{gatewayCached, nginxCached, 0}, {gateway304, nginx304, 0},
	} {
		if measured[aimed.peer] == nil {
			continue
		}
		c := comparison{of: aimed.ours, peer: aimed.peer, unit: perSecond, ours: middle(measured[aimed.ours].healthy, ratesOf), against: middle(measured[aimed.peer].healthy, ratesOf)}
		if aimed.limit > 0 {
			c = c.atLeast(aimed.limit)
		}
		table.add(c.cells(), c.aims...)
	}
	return table
}

func TestGatewaysAreHeldToTheirAims(t *testing.T) {
	measured := map[string]*tally{}
	for name, rate := range map[string]float64{generatedGet: 900, generatedPost: 1000, gatewayGet: 1000, gatewayPost: 990, gatewayCached: 3000, gateway304: 2990} {
		measured[name] = &tally{healthy: []benchkit.Measure{{Rate: rate}}}
	}
	if table := gatewayAims(measured); table.missed() != 2 || len(table.rows) != 4 {
		t.Errorf("%d of %d rows miss their aim without proxies, want 2 of 4", table.missed(), len(table.rows))
	}
	maps.Copy(measured, map[string]*tally{
		haproxyLeastConn: {healthy: []benchkit.Measure{{Rate: 1240}}}, nginxCached: {healthy: []benchkit.Measure{{Rate: 9000}}}, nginx304: {healthy: []benchkit.Measure{{Rate: 9000}}},
	})
	if table := gatewayAims(measured); table.missed() != 3 || len(table.rows) != 8 {
		t.Errorf("%d of %d rows miss their aim, want 3 of 8", table.missed(), len(table.rows))
	}
}

// The harness works: what caches is asked answers, and calls no backend.
func TestEveryCachedPathAnswers(t *testing.T) {
	b := startBackends(t)
	for _, p := range cachedPaths() {
		t.Run(p.name, func(t *testing.T) {
			if why := benchkit.Absent(t, p.program); why != "" {
				t.Skip("SKIPPED, it is not compared with: " + why)
			}
			c := p.start(t, b)(t)
			defer c.Close()
			if _, err := (benchkit.Load{Calls: 10}).Run(c); err != nil { // it is cached now
				t.Fatal(err)
			}
			m, err := benchkit.Load{Calls: 10}.Run(c)
			if err != nil {
				t.Fatal(err)
			}
			asked := slices.DeleteFunc(m.Answers[:], func(n int) bool { return n == 0 })
			if len(asked) > 1 {
				t.Errorf("the backends gave %v of the answers: it is not cached", m.Answers)
			}
		})
	}
}
