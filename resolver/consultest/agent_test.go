package consultest_test

import (
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

func TestRegistrationIsWhatConsulsClientReadsBack(t *testing.T) {
	eachWay(t, func(t *testing.T, _ *consultest.Server, c *http.Client) {
		client := agentOver(t, c)
		must(t, client.Agent().ServiceRegister(&api.AgentServiceRegistration{
			ID: "web-1", Name: "web", Address: "10.0.0.1", Port: 8080, Tags: []string{"a", "b"},
			Meta: map[string]string{"zone": "z1"}, Weights: &api.AgentWeights{Passing: 5, Warning: 2},
			Locality: &api.Locality{Region: "r", Zone: "z"},
			Check:    &api.AgentServiceCheck{TTL: "30s", Status: "passing", DeregisterCriticalServiceAfter: "1m"},
		}))
		want := map[string]api.ServiceAddress{
			"lan_ipv4": {Address: "10.0.0.1", Port: 8080}, "wan_ipv4": {Address: "10.0.0.1", Port: 8080},
		}

		entries, meta, err := client.Health().ServiceMultipleTags("web", []string{"A", "b"}, true, nil)
		must(t, err)
		if len(entries) != 1 || meta.LastIndex == 0 || !meta.KnownLeader {
			t.Fatalf("got %d entries, meta %+v", len(entries), meta)
		}
		svc, node := entries[0].Service, entries[0].Node
		if svc.ID != "web-1" || svc.Service != "web" || svc.Address != "10.0.0.1" || svc.Port != 8080 ||
			!reflect.DeepEqual(svc.Tags, []string{"a", "b"}) || svc.Meta["zone"] != "z1" ||
			svc.Weights != (api.AgentWeights{Passing: 5, Warning: 2}) || svc.Locality.Zone != "z" ||
			!reflect.DeepEqual(svc.TaggedAddresses, want) {
			t.Errorf("health shows %+v", svc)
		}
		if node.Node != "consultest" || node.Address != "127.0.0.1" || node.Datacenter != "dc1" {
			t.Errorf("health shows node %+v", node)
		}
		if ids := []string{entries[0].Checks[0].CheckID, entries[0].Checks[1].CheckID}; !reflect.DeepEqual(ids, []string{"serfHealth", "service:web-1"}) {
			t.Errorf("health shows checks %v", ids)
		}

		local, _, err := client.Agent().Service("web-1", nil)
		must(t, err)
		if local.Port != 8080 || local.ContentHash == "" || local.Weights.Passing != 5 {
			t.Errorf("the agent shows %+v", local)
		}
		checks, err := client.Agent().Checks()
		must(t, err)
		if got := checks["service:web-1"]; got == nil || got.Type != "ttl" || got.Name != "Service 'web' check" {
			t.Errorf("the agent shows check %+v", got)
		}
		services, _, err := client.Catalog().Services(nil)
		must(t, err)
		if !reflect.DeepEqual(services, map[string][]string{"consul": {}, "web": {"a", "b"}}) {
			t.Errorf("the catalog shows %v", services)
		}
		listed, _, err := client.Catalog().Service("web", "a", nil)
		must(t, err)
		if len(listed) != 1 || listed[0].ServicePort != 8080 || listed[0].ServiceWeights.Warning != 2 {
			t.Errorf("the catalog shows %+v", listed)
		}

		must(t, client.Agent().ServiceDeregister("web-1"))
		if got, _ := health(t, client, "web", false); got != "" {
			t.Errorf("after deregistration health shows %s", got)
		}
	})
}

func TestDefaultsOfARegistration(t *testing.T) {
	s, client := newAgent(t)
	must(t, client.Agent().ServiceRegister(&api.AgentServiceRegistration{Name: "web"}))
	svc, _, err := client.Agent().Service("web", nil)
	must(t, err)
	if svc.ID != "web" || svc.Weights != (api.AgentWeights{Passing: 1, Warning: 1}) {
		t.Errorf("got %+v", svc)
	}
	// A single check is named after the service, several are numbered.
	must(t, s.Register(consultest.Service{Name: "two", Checks: []consultest.Check{{TTL: 1e9}, {TTL: 1e9}}}))
	checks, err := client.Agent().Checks()
	must(t, err)
	if checks["service:two:1"] == nil || checks["service:two:2"] == nil || checks["service:two:1"].Status != "critical" {
		t.Errorf("got checks %v", checks)
	}
}

func TestRefusals(t *testing.T) {
	register := func(body string) [3]string { return [3]string{"PUT", "/v1/agent/service/register", body} }
	tests := []struct {
		request [3]string
		code    int
		text    string
	}{
		{register(``), 400, `Request decode failed: EOF`},
		{register(`{`), 400, `Request decode failed: unexpected EOF`},
		{register(`{"ID":"x"}`), 400, `Missing service name`},
		{register(`{"Name":"x","Bogus":1}`), 400, `Request decode failed: json: unknown field "Bogus"`},
		{register(`{"Name":"x","Weights":{"Passing":0,"Warning":1}}`), 400, `Invalid Weights: Passing must be greater than 0`},
		{register(`{"Name":"x","Weights":{"Passing":1,"Warning":-1}}`), 400, `Invalid Weights: Warning must be greater or equal than 0`},
		{register(`{"Name":"x","Weights":{"Passing":70000,"Warning":1}}`), 400, `Invalid Weights: DNS Weight must be between 0 and 65535`},
		{register(`{"Name":"x","Address":"0.0.0.0"}`), 400, `Invalid service address`},
		{register(`{"Name":"x","Meta":{"bad key!":"1"}}`), 400, `Invalid Service Meta: Couldn't load metadata pair ('bad key!', '1'): Key contains invalid characters`},
		{register(`{"Name":"x","Check":{"GRPC":"127.0.0.1:1"}}`), 400, `Invalid check: Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks`},
		{register(`{"Name":"x","Check":{"GRPC":"127.0.0.1:1","Interval":"abc"}}`), 400, `Request decode failed: time: invalid duration "abc"`},
		{register(`{"Name":"x","Check":{"Interval":"5s","TTL":"5s","GRPC":"x:1"}}`), 400, `Invalid check: Interval and TTL cannot both be specified`},
		{register(`{"Name":"x","Check":{"TTL":"-5s"}}`), 400, `Invalid check: TTL must be > 0 for TTL checks`},
		{register(`{"Name":"x","Check":{"TTL":"5s","Status":"bogus"}}`), 400, `Status for checks must 'passing', 'warning', 'critical'`},
		{register(`{"Name":"x","Check":{"UDP":"x:1","Interval":"5s"}}`), 400, `Invalid check: consultest runs TTL, GRPC, HTTP and TCP checks, no UDP checks`},
		{register(`{"Name":"x","Connect":{"SidecarService":{"Port":1}}}`), 400, `consultest does not support SidecarService: register without it`},
		{register(`{"ID":"consul","Name":"x"}`), 400, `service ID "consul" is Consul's own: take another`},
		{[3]string{"PUT", "/v1/agent/service/deregister/x"}, 404, `Unknown service ID "x". Ensure that the service ID is passed, not the service name.`},
		{[3]string{"GET", "/v1/agent/service/x"}, 404, `unknown service ID: x`},
		{[3]string{"PUT", "/v1/agent/service/maintenance/x?enable=true"}, 404, `Unknown service ID "x". Ensure that the service ID is passed, not the service name.`},
		{[3]string{"PUT", "/v1/agent/service/maintenance/x"}, 400, `Missing value for enable`},
		{[3]string{"PUT", "/v1/agent/service/maintenance/x?enable=zz"}, 400, `Invalid value for enable: "zz"`},
		{[3]string{"PUT", "/v1/agent/check/pass/x"}, 404, `Unknown check ID "x". Ensure that the check ID is passed, not the check name.`},
		{[3]string{"PUT", "/v1/agent/check/update/x", `{"Status":"bogus"}`}, 400, `Invalid check status: 'bogus'`},
		{[3]string{"PUT", "/v1/agent/check/register", `{"TTL":"10s"}`}, 400, `Missing check name`},
		{[3]string{"PUT", "/v1/agent/check/register", `{"Name":"q","TTL":"10s","ServiceID":"nope"}`}, 404, `ServiceID "nope" does not exist`},
		{[3]string{"GET", "/v1/health/service/"}, 400, `Missing service name`},
		{[3]string{"GET", "/v1/health/service/web?passing=maybe"}, 400, `Invalid value for ?passing`},
		{[3]string{"GET", "/v1/health/service/web?index=-1"}, 400, `Invalid index`},
		{[3]string{"GET", "/v1/health/service/web?wait=10"}, 400, `Invalid wait time`},
		{[3]string{"GET", "/v1/health/service/web?stale&consistent"}, 400, `Cannot specify ?stale with ?consistent, conflicting semantics.`},
		{[3]string{"GET", "/v1/health/service/web?dc=elsewhere"}, 500, `No path to datacenter`},
		{[3]string{"GET", "/v1/catalog/service/web?filter=Service.Port==1"}, 400, `consultest has no filter expressions here, such as "Service.Port==1", but in /v1/health/service: leave out ?filter`},
		{[3]string{"PUT", "/v1/health/service/web"}, 405, `method PUT not allowed`},
		{[3]string{"GET", "/v1/nope"}, 404, "Invalid URL path: not a recognized HTTP API endpoint\n"},
		{[3]string{"GET", "/nope"}, 404, "Invalid URL path: if attempting to use the HTTP API, ensure the path starts with '/v1/'\n"},
		{[3]string{"GET", "/v1/kv/pre%01x"}, 400, ""},
	}
	eachWay(t, func(t *testing.T, _ *consultest.Server, c *http.Client) {
		for _, test := range tests {
			got := do(t, c, test.request[0], test.request[1], test.request[2])
			if got.code != test.code || got.body != test.text {
				t.Errorf("%v:\n got %d %s\nwant %d %s", test.request, got.code, got.body, test.code, test.text)
			}
		}
	})
}

func TestMethodsAreAnnounced(t *testing.T) {
	eachWay(t, func(t *testing.T, _ *consultest.Server, c *http.Client) {
		for path, want := range map[string]string{"/v1/kv/a": "OPTIONS,GET,PUT,DELETE", "/v1/health/service/web": "OPTIONS,GET"} {
			for _, method := range []string{"OPTIONS", "PATCH"} {
				if got := do(t, c, method, path, "").header.Get("Allow"); got != want {
					t.Errorf("%s %s allows %q, want %q", method, path, got, want)
				}
			}
		}
	})
}

// Registering again is a heartbeat: it must neither lose the state of the checks
// nor wake anybody.
func TestRegisteringAgainKeepsStateAndIndex(t *testing.T) {
	s, client := newAgent(t)
	svc := consultest.Service{Name: "web", Checks: []consultest.Check{{TTL: 1e12}}}
	must(t, s.Register(svc))
	must(t, s.SetStatus("web", consultest.HealthPassing))
	_, before := health(t, client, "web", true)
	must(t, s.Register(svc))
	got, after := health(t, client, "web", true)
	if got != "web=passing" || after.LastIndex != before.LastIndex {
		t.Errorf("got %q at index %d, was at %d", got, after.LastIndex, before.LastIndex)
	}
	svc.Tags = []string{"new"}
	must(t, s.Register(svc))
	if got, after := health(t, client, "web", true); got != "web=passing" || after.LastIndex <= before.LastIndex {
		t.Errorf("with a new tag got %q at index %d, was at %d", got, after.LastIndex, before.LastIndex)
	}
}

func TestReplaceExistingChecks(t *testing.T) {
	_, client := newAgent(t)
	reg := &api.AgentServiceRegistration{Name: "web", Check: &api.AgentServiceCheck{CheckID: "old", TTL: "1m"}}
	must(t, client.Agent().ServiceRegister(reg))
	reg.Check = &api.AgentServiceCheck{CheckID: "new", TTL: "1m"}
	must(t, client.Agent().ServiceRegister(reg))
	if checks, _ := client.Agent().Checks(); len(checks) != 2 {
		t.Errorf("a plain registration left %d checks, want both", len(checks))
	}
	must(t, client.Agent().ServiceRegisterOpts(reg, api.ServiceRegisterOpts{ReplaceExistingChecks: true}))
	if checks, _ := client.Agent().Checks(); len(checks) != 1 || checks["new"] == nil {
		t.Errorf("a replacing registration left %v", checks)
	}
}

func TestAServiceThatChangesItsNameLeavesTheOldOne(t *testing.T) {
	s, client := newAgent(t)
	must(t, s.Register(consultest.Service{ID: "1", Name: "old"}))
	must(t, s.Register(consultest.Service{ID: "1", Name: "new"}))
	if got, _ := health(t, client, "old", false); got != "" {
		t.Errorf("the old name still shows %s", got)
	}
	if got, _ := health(t, client, "new", false); got != "1=passing" {
		t.Errorf("the new name shows %q", got)
	}
}

func TestMaintenance(t *testing.T) {
	s, client := newAgent(t)
	must(t, s.Register(consultest.Service{Name: "web"}))
	must(t, client.Agent().EnableServiceMaintenance("web", "moving house"))
	if got, _ := health(t, client, "web", true); got != "" {
		t.Errorf("in maintenance the passing instances are %s", got)
	}
	if got, _ := health(t, client, "web", false); got != "web=maintenance" {
		t.Errorf("got %s", got)
	}
	status, info, err := client.Agent().AgentHealthServiceByID("web")
	must(t, err)
	if status != "critical" || info.AggregatedStatus != "maintenance" {
		t.Errorf("the agent says %s, %s", status, info.AggregatedStatus)
	}
	must(t, client.Agent().DisableServiceMaintenance("web"))
	if got, _ := health(t, client, "web", true); got != "web=passing" {
		t.Errorf("after maintenance got %q", got)
	}
}

func TestChecksOfTheirOwn(t *testing.T) {
	s, client := newAgent(t)
	must(t, s.Register(consultest.Service{ID: "web-1", Name: "web"}))
	must(t, s.Register(consultest.Service{ID: "db-1", Name: "db"}))
	check := func(id, service string) *api.AgentCheckRegistration {
		return &api.AgentCheckRegistration{ID: id, Name: id, ServiceID: service, AgentServiceCheck: api.AgentServiceCheck{TTL: "1h"}}
	}
	must(t, client.Agent().CheckRegister(check("disk", "web-1")))
	if got, _ := health(t, client, "web", false); got != "web-1=critical" {
		t.Errorf("got %s", got)
	}
	must(t, client.Agent().UpdateTTL("disk", "fine", "pass"))
	if got, _ := health(t, client, "web", true); got != "web-1=passing" {
		t.Errorf("got %s", got)
	}
	must(t, client.Agent().CheckDeregister("disk"))

	// A check of the node decides over all that runs on it.
	_, before := health(t, client, "db", true)
	must(t, client.Agent().CheckRegister(check("node", "")))
	got, after := health(t, client, "db", true)
	if got != "" || after.LastIndex <= before.LastIndex {
		t.Errorf("with a critical node got %q at %d, was at %d", got, after.LastIndex, before.LastIndex)
	}
	critical, _, err := client.Health().State("critical", nil)
	must(t, err)
	if len(critical) != 1 || critical[0].CheckID != "node" {
		t.Errorf("critical are %v", critical)
	}
	must(t, client.Agent().CheckDeregister("node"))
}

func TestHealthOfTheAgentsOwn(t *testing.T) {
	s, client := newAgent(t)
	for status, code := range map[string]int{"passing": 200, "warning": 429, "critical": 503} {
		must(t, s.Register(consultest.Service{Name: "web"}))
		must(t, s.SetStatus("web", status))
		c := &http.Client{Transport: s.Transport()}
		if got := do(t, c, "GET", "/v1/agent/health/service/id/web?format=text", ""); got.code != code || got.body != status {
			t.Errorf("%s: got %d %s", status, got.code, got.body)
		}
		aggregated, infos, err := client.Agent().AgentHealthServiceByName("web")
		must(t, err)
		if aggregated != status || len(infos) != 1 || infos[0].Checks[0].Status != status {
			t.Errorf("%s: by name got %s", status, aggregated)
		}
	}
	if status, _, _ := client.Agent().AgentHealthServiceByID("nope"); status != "critical" {
		t.Errorf("an unknown service is %s", status)
	}
}

func TestSelfAndTheDatacenter(t *testing.T) {
	_, client := newAgent(t, consultest.WithNode("n1", "10.1.1.1"), consultest.WithDatacenter("east"))
	self, err := client.Agent().Self()
	must(t, err)
	if self["Config"]["NodeName"] != "n1" || self["Config"]["Datacenter"] != "east" || self["Member"]["Addr"] != "10.1.1.1" || self["Config"]["Version"] == "" {
		t.Errorf("self is %v", self)
	}
	name, err := client.Agent().NodeName()
	must(t, err)
	dcs, err := client.Catalog().Datacenters()
	must(t, err)
	leader, err := client.Status().Leader()
	must(t, err)
	peers, err := client.Status().Peers()
	must(t, err)
	members, err := client.Agent().Members(false)
	must(t, err)
	nodes, _, err := client.Catalog().Nodes(nil)
	must(t, err)
	node, _, err := client.Catalog().Node("n1", nil)
	must(t, err)
	got := []string{name, strings.Join(dcs, ","), leader, strings.Join(peers, ","), members[0].Name, nodes[0].Address, node.Node.Node}
	if want := []string{"n1", "east", "10.1.1.1:8300", "10.1.1.1:8300", "n1", "10.1.1.1", "n1"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, _, err := client.Health().Service("web", "", false, &api.QueryOptions{Datacenter: "east", AllowStale: true}); err != nil {
		t.Error(err)
	}
}

func TestPretty(t *testing.T) {
	s, _ := newAgent(t)
	got := do(t, &http.Client{Transport: s.Transport()}, "GET", "/v1/catalog/datacenters?pretty", "")
	if got.body != "[\n    \"dc1\"\n]\n" || got.header.Get("Content-Type") != "application/json" {
		t.Errorf("got %q as %s", got.body, got.header.Get("Content-Type"))
	}
}
