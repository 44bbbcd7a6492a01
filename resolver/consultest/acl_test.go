package consultest_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

const filtered = "X-Consul-Results-Filtered-By-ACLs"

// What a token without permissions sees: lists come back empty and say so, what
// it names is forbidden. The anonymous get no such header. An unknown token gets nothing.
func TestACL(t *testing.T) {
	const denied = "Permission denied: "
	eachWay(t, func(t *testing.T, s *consultest.Server, c *http.Client) {
		must(t, s.Register(consultest.Service{Name: "web", Checks: []consultest.Check{{TTL: 1e12, Status: "passing"}}}))
		do(t, c, "PUT", "/v1/kv/a", "1", "X-Consul-Token: root")
		tests := []struct {
			method, path, body string
			root               int
			powerless          int
			lacks              string // the permission, where forbidden
			empty              string // the list, where filtered
		}{
			{"GET", "/v1/health/service/web", "", 200, 200, "", "[]"},
			{"GET", "/v1/health/checks/web", "", 200, 200, "", "[]"},
			{"GET", "/v1/health/state/any", "", 200, 200, "", "[]"},
			{"GET", "/v1/catalog/services", "", 200, 200, "", "{}"},
			{"GET", "/v1/catalog/service/web", "", 200, 200, "", "[]"},
			{"GET", "/v1/catalog/nodes", "", 200, 200, "", "[]"},
			{"GET", "/v1/agent/services", "", 200, 200, "", "{}"},
			{"GET", "/v1/agent/checks", "", 200, 200, "", "{}"},
			{"PUT", "/v1/config", `{"Kind":"service-defaults","Name":"web","Protocol":"grpc"}`, 200, 403, "service:write", ""},
			{"GET", "/v1/config/service-defaults", "", 200, 200, "", "[]"},
			{"GET", "/v1/config/service-defaults/web", "", 200, 403, "service:read", ""},
			{"GET", "/v1/discovery-chain/web", "", 200, 403, "service:read", ""},
			{"GET", "/v1/config/proxy-defaults/global", "", 404, 404, "", "Config entry not found"},
			{"DELETE", "/v1/config/proxy-defaults/global", "", 200, 403, "'mesh:write'", ""},
			{"DELETE", "/v1/config/service-defaults/none", "", 200, 403, "service:write", ""},
			{"DELETE", "/v1/config/service-intentions/none", "", 200, 403, "intention:write", ""},
			{"GET", "/v1/kv/a?recurse", "", 200, 404, "", ""},
			{"GET", "/v1/kv/a", "", 200, 403, "key:read", ""},
			{"PUT", "/v1/kv/a", "", 200, 403, "key:write", ""},
			{"DELETE", "/v1/kv/b", "", 200, 403, "key:write", ""},
			{"GET", "/v1/agent/self", "", 200, 403, "agent:read", ""},
			{"GET", "/v1/agent/service/web", "", 200, 403, "service:read", ""},
			{"GET", "/v1/agent/service/nope", "", 404, 404, "", "unknown service ID: nope"},
			{"GET", "/v1/agent/health/service/name/web", "", 200, 403, "service:read", ""},
			{"PUT", "/v1/agent/service/register", `{"Name":"web"}`, 200, 403, "service:write", ""},
			{"PUT", "/v1/agent/check/pass/service:web", "", 200, 403, "service:write", ""},
			{"PUT", "/v1/agent/service/maintenance/web?enable=false", "", 200, 403, "service:write", ""},
			{"PUT", "/v1/agent/check/register", `{"Name":"n","TTL":"1h"}`, 200, 403, "node:write", ""},
		}
		for _, test := range tests {
			ask := func(headers ...string) answer { return do(t, c, test.method, test.path, test.body, headers...) }
			if got := ask("Authorization: Bearer root"); got.code != test.root || got.header.Get(filtered) != "" {
				t.Errorf("%s %s with the management token: %+v", test.method, test.path, got)
			}
			if got := ask("X-Consul-Token: wrong"); got.code != 403 || got.body != "ACL not found" {
				t.Errorf("%s %s with an unknown token: %+v", test.method, test.path, got)
			}
			powerless, anonymous := ask("X-Consul-Token: nothing"), ask()
			if anonymous.header.Get(filtered) != "" {
				t.Errorf("%s %s says to the anonymous that it filtered", test.method, test.path)
			}
			if list := test.powerless == 200 || strings.Contains(test.path, "recurse"); list != (powerless.header.Get(filtered) == "true") {
				t.Errorf("%s %s has %s=%q", test.method, test.path, filtered, powerless.header.Get(filtered))
			}
			for _, got := range []answer{powerless, anonymous} {
				want := test.empty
				if test.lacks != "" {
					want = denied
				}
				if got.code != test.powerless || !strings.HasPrefix(got.body, want) || !strings.Contains(got.body, test.lacks) {
					t.Errorf("%s %s without power: %+v", test.method, test.path, got)
				}
			}
		}
	}, consultest.WithACL("root", "nothing"))
}

func TestACLThroughConsulsClient(t *testing.T) {
	s, _ := newAgent(t, consultest.WithACL("root", "nothing"))
	must(t, s.Register(consultest.Service{Name: "web"}))
	client := agentOver(t, &http.Client{Transport: s.Transport()})
	entries, meta, err := client.Health().Service("web", "", true, &api.QueryOptions{Token: "nothing"})
	must(t, err)
	if len(entries) != 0 || !meta.ResultsFilteredByACLs {
		t.Errorf("got %d entries, filtered %v", len(entries), meta.ResultsFilteredByACLs)
	}
	_, meta, err = client.Health().Service("web", "", true, nil)
	must(t, err)
	if meta.ResultsFilteredByACLs {
		t.Error("the anonymous got the header")
	}
	_, _, err = client.Health().Service("web", "", true, &api.QueryOptions{Token: "wrong"})
	if status := (api.StatusError{}); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("got %v %v", err, status)
	}
}

func TestWithoutACLTokensDoNotMatter(t *testing.T) {
	s, _ := newAgent(t)
	if got := do(t, &http.Client{Transport: s.Transport()}, "PUT", "/v1/kv/a", "", "X-Consul-Token: any"); got.code != 200 {
		t.Errorf("got %+v", got)
	}
}
