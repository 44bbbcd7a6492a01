package consul_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// fixed answers every request with one body.
type fixed []byte

func (f fixed) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, Request: r, Body: io.NopCloser(bytes.NewReader(f)),
		Header: http.Header{"X-Consul-Index": {"7"}, "X-Consul-Lastcontact": {"0"}, "X-Consul-Knownleader": {"true"}},
	}, nil
}

// BenchmarkDecode is R22's other part: what it takes to read Consul's answer, of
// some 12 MB for 10,000 instances, before the resolver sees a snapshot.
//
// Case R22
func BenchmarkDecode(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			body := entries(b, n)
			d, err := consul.New(consul.Config{Address: "127.0.0.1:8500", Transport: fixed(body), Logger: silent})
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				ctx, cancel := context.WithCancel(context.Background())
				d.Watch(ctx, catalog.Query{Service: "catalog"}, func(s catalog.Snapshot, err error) {
					if err != nil || len(s.Instances) != n {
						b.Fatalf("%d instances, %v", len(s.Instances), err)
					}
					cancel()
				})
			}
		})
	}
}

// entries are n instances as Consul reports them.
func entries(b *testing.B, n int) []byte {
	var all []api.ServiceEntry
	for i := range n {
		id, host := fmt.Sprint("catalog-", i), fmt.Sprintf("10.0.%d.%d", i/256, i%256)
		check := func(name, service string) *api.HealthCheck {
			return &api.HealthCheck{
				Node: "node", CheckID: "service:" + id, Name: name, Status: api.HealthPassing,
				Output: "gRPC check " + host + ":8080: success", ServiceID: service, ServiceName: "catalog",
			}
		}
		all = append(all, api.ServiceEntry{
			Node: &api.Node{ID: "1b1b6f3f-0f9d-4d27-9a43-2f1e7e0f7f10", Node: "node", Address: "10.0.0.1", Datacenter: "dc1",
				TaggedAddresses: map[string]string{"lan": "10.0.0.1", "wan": "10.0.0.1"}, Meta: map[string]string{"consul-network-segment": ""}},
			Service: &api.AgentService{ID: id, Service: "catalog", Address: host, Port: 8080, Tags: []string{"v2", "canary"},
				Meta:    map[string]string{"version": "1.2.3", "metrics_address": host + ":9090"},
				Weights: api.AgentWeights{Passing: 1, Warning: 1}},
			Checks: api.HealthChecks{check("Serf Health Status", ""), check("gRPC health", id)},
		})
	}
	body, err := json.Marshal(all)
	if err != nil {
		b.Fatal(err)
	}
	return body
}
