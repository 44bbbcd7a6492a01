package route_test

import (
	"encoding/json"
	"testing"

	"github.com/meshlite-go/meshlite/resolver/route"
)

// Any chain is refused, or has one route for each call, and an arm that gets it.
//
// Case T12
func FuzzMatch(f *testing.F) {
	for _, routes := range []string{
		`{"name":"a","match":{},"arms":[{"name":"a","weight":100,"target":"t"}]}`,
		`{"name":"a","match":{"path_exact":"/A.b/C","case_insensitive":true,"headers":[{"name":"x","regex":"(a|b)+","invert":true},{"name":":path","prefix":"/"}],"methods":["POST"]},"arms":[{"name":"a","weight":100,"target":"t","request":[{"set":{"a":"b"}}],"load_balancer":{"policy":"maglev","hash_key":"x"}}]},{"name":"b","match":{"path_prefix":"/"},"arms":[{"name":"a","weight":50,"target":"t"},{"name":"b","weight":50,"target":"t","failover":["t"]}]}`,
		`{"name":"a","match":{"query":[{"name":"q","exact":"1"},{"name":"r"}]},"arms":[{"name":"a","weight":100,"target":"t"}]},{"name":"b","match":{},"arms":[{"name":"a","weight":100,"target":"t"}]}`,
		`{"name":"a","match":{"path_regex":"(?i)/a.*","query":[{"name":"q","exact":"1"}],"headers":[{"name":"x","contains":"A","ignore_case":true},{"name":"x","suffix":"a"}]},"arms":[]}`, `null`,
	} {
		f.Add(`{"service":"a","datacenter":"dc1","targets":{"t":{"id":"t","service":"a","datacenter":"dc1"}},"routes":[`+routes+`]}`, "/a.B/C", "ab")
	}
	f.Fuzz(func(t *testing.T, document, method, value string) {
		c := &route.Chain{}
		if json.Unmarshal([]byte(document), c) != nil {
			return
		}
		md := metadata{"x": {value}, "y": {value, method}}
		matched, at := c.Match(method, md)
		verdicts := c.Explain(method, md)
		if c.Check() != nil {
			if matched != nil || at != -1 || verdicts != nil {
				t.Fatalf("route %d of a chain that is refused", at)
			}
			return
		}
		if at < 0 || matched != c.Routes[at] || len(verdicts) != at+1 {
			t.Fatalf("route %d, %d verdicts", at, len(verdicts))
		}
		for i, v := range verdicts {
			if v.Matches != (i == at) || v.Matches != (v.Reason == "") {
				t.Errorf("verdict %d of %d: %+v", i, at, v)
			}
		}
		weight := 0.0
		for _, arm := range matched.Arms {
			if weight += arm.Weight; arm.Weight < 0 || c.Targets[arm.Target] == nil {
				t.Errorf("the arm %+v", arm)
			}
			for i := range arm.Request {
				arm.Request[i].Apply(md)
			}
		}
		if !(weight > 0) {
			t.Errorf("all arms have the weight %v", weight)
		}
		_ = c.HTTPOnly()
	})
}
