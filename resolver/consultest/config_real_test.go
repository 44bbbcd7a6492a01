package consultest_test

import (
	"encoding/json"
	"testing"
)

// Entries that Consul takes, or not. After each one the chains of all services are compared.
var entries = []string{
	// Before a protocol that can be routed.
	`{"Kind":"service-resolver","Name":"web","ConnectTimeout":"3s"}`,
	`{"Kind":"service-splitter","Name":"web","Splits":[{"Weight":100}]}`,
	`{"Kind":"service-router","Name":"web"}`,
	`{"Kind":"service-defaults","Name":"web","Protocol":"udp"}`,
	`{"Kind":"service-defaults","Name":"web"}`,
	`{"Kind":"service-defaults","Name":"web","Protocol":"gRPC","Meta":{"meshlite-sticky":"x-user"}}`,
	`{"Kind":"service-defaults","Name":"web","Protocol":"grpc","Meta":{"meshlite-sticky":"x-user"}}`,
	`{"Kind":"service-defaults","Name":""}`,

	// Texts that are no entries.
	``, `[`, `{}`, `{"Kind":"nothing","Name":"web"}`, `{"Kind":5,"Name":"web"}`,
	`{"Kind":"service-router","Name":"web","Routess":[]}`,
	`{"Kind":"service-router","Name":"web","Routes":[{"Match":{"HTTPP":{}},"Y":2}],"Z":3}`,
	`{"Kind":"service-router","Name":"web","Namespace":"default"}`,
	`{"Kind":"service-router","Name":"web","Routes":[{"Match":{"HTTP":{"Header":[{"Name":"a","Contains":"x"}]}}}]}`,
	`{"Kind":"service-resolver","Name":"web","Subsets":{"a":{"Filters":"x"}}}`,

	// Resolvers.
	`{"Kind":"service-resolver","Name":"web","ConnectTimeout":"3s","RequestTimeout":7000000000,"DefaultSubset":"v1","Subsets":{
		"v1":{"Filter":"Service.Meta.version == 1"},"v2":{"Filter":"Service.Meta.version == 2","OnlyPassing":true},"v3":{}}}`,
	`{"Kind":"service-resolver","Name":"web","DefaultSubset":"v3"}`,
	`{"Kind":"service-resolver","Name":"web","ConnectTimeout":"-1s"}`,
	`{"Kind":"service-resolver","Name":"web","RequestTimeout":"-1s"}`,
	`{"Kind":"service-resolver","Name":"web","Subsets":{"V1":{}}}`,
	`{"Kind":"service-resolver","Name":"web","Subsets":{"v1":{"Filter":"Service.Meta.version = 1"}}}`,
	`{"Kind":"service-resolver","Name":"web","Subsets":{"v1":{"Filter":"Service.Meta.version == \"1"}}}`,
	`{"Kind":"service-resolver","Name":"web","Redirect":{}}`,
	`{"Kind":"service-resolver","Name":"web","Redirect":{"ServiceSubset":"v1"}}`,
	`{"Kind":"service-resolver","Name":"web","Redirect":{"Service":"web","ServiceSubset":"v9"}}`,
	`{"Kind":"service-resolver","Name":"web","Redirect":{"Service":"b","Namespace":"x"}}`,
	`{"Kind":"service-resolver","Name":"web","Redirect":{"Service":"b","Partition":"x"}}`,
	`{"Kind":"service-resolver","Name":"web","Redirect":{"Service":"b","SamenessGroup":"x"}}`,
	`{"Kind":"service-resolver","Name":"web","Redirect":{"Peer":"east"}}`,
	`{"Kind":"service-resolver","Name":"web","Redirect":{"Service":"b","Peer":"east","Datacenter":"dc2"}}`,
	`{"Kind":"service-resolver","Name":"web","Redirect":{"Service":"b"},"Failover":{"*":{"Service":"b"}}}`,
	`{"Kind":"service-resolver","Name":"web","Failover":{"*":{}}}`,
	`{"Kind":"service-resolver","Name":"web","Failover":{"v9":{"Service":"b"}}}`,
	`{"Kind":"service-resolver","Name":"web","Failover":{"*":{"ServiceSubset":"v9"}}}`,
	`{"Kind":"service-resolver","Name":"web","Failover":{"*":{"SamenessGroup":"x"}}}`,
	`{"Kind":"service-resolver","Name":"web","Failover":{"*":{"Service":"b","Policy":{"Mode":"default"}}}}`,
	`{"Kind":"service-resolver","Name":"web","Failover":{"*":{"Datacenters":["dc2"],"Targets":[{}]}}}`,
	`{"Kind":"service-resolver","Name":"web","Failover":{"*":{"Datacenters":["dc2",""]}}}`,
	`{"Kind":"service-resolver","Name":"web","Failover":{"*":{"Targets":[{"ServiceSubset":"v9"}]}}}`,
	`{"Kind":"service-resolver","Name":"web","Failover":{"*":{"Targets":[{"Peer":"a","Datacenter":"dc2"}]}}}`,
	`{"Kind":"service-resolver","Name":"web","PrioritizeByLocality":{"Mode":"failover"}}`,
	`{"Kind":"service-resolver","Name":"web","LoadBalancer":{"Policy":"best"}}`,
	`{"Kind":"service-resolver","Name":"web","LoadBalancer":{"Policy":"random","RingHashConfig":{}}}`,
	`{"Kind":"service-resolver","Name":"web","LoadBalancer":{"Policy":"random","LeastRequestConfig":{}}}`,
	`{"Kind":"service-resolver","Name":"web","LoadBalancer":{"Policy":"random","HashPolicies":[{"SourceIP":true}]}}`,
	`{"Kind":"service-resolver","Name":"web","LoadBalancer":{"Policy":"maglev","HashPolicies":[{"Field":"x"}]}}`,
	`{"Kind":"service-resolver","Name":"web","LoadBalancer":{"Policy":"maglev","HashPolicies":[{"Field":"header"}]}}`,
	`{"Kind":"service-resolver","Name":"web","LoadBalancer":{"Policy":"maglev","HashPolicies":[{"FieldValue":"a"}]}}`,
	`{"Kind":"service-resolver","Name":"web","LoadBalancer":{"Policy":"maglev","HashPolicies":[{"SourceIP":true,"Field":"header"}]}}`,

	// Splitters.
	`{"Kind":"service-splitter","Name":"web","Splits":[]}`,
	`{"Kind":"service-splitter","Name":"web","Splits":[{"Weight":90,"ServiceSubset":"v1"},{"Weight":9,"ServiceSubset":"v2"}]}`,
	`{"Kind":"service-splitter","Name":"web","Splits":[{"Weight":90},{"Weight":10}]}`,
	`{"Kind":"service-splitter","Name":"web","Splits":[{"Weight":90},{"Weight":10,"ServiceSubset":"v9"}]}`,
	`{"Kind":"service-splitter","Name":"web","Splits":[{"Weight":90},{"Weight":10,"Service":"plain"}]}`,
	`{"Kind":"service-splitter","Name":"web","Splits":[{"Weight":89.996,"ServiceSubset":"v1","RequestHeaders":{"Set":{"x-arm":"v1"}}},
		{"Weight":9.99,"ServiceSubset":"v2","ResponseHeaders":{"Add":{"x-a":"b"},"Remove":["x-c"]}},{"Weight":0.01},{"Weight":0,"ServiceSubset":"v3"}]}`,
	`{"Kind":"service-splitter","Name":"web","Splits":[{"Weight":50},{"Weight":50,"RequestHeaders":{"Set":{"a":"b"}}}]}`,

	// Nested ones.
	`{"Kind":"service-defaults","Name":"b","Protocol":"grpc"}`,
	`{"Kind":"service-defaults","Name":"c","Protocol":"grpc"}`,
	`{"Kind":"service-splitter","Name":"b","Splits":[{"Weight":33.33,"Service":"c","ResponseHeaders":{"Add":{"p":"b"},"Set":{"s":"b"},"Remove":["x"]},
		"RequestHeaders":{"Set":{"k":"b"}}},{"Weight":66.67}]}`,
	`{"Kind":"service-splitter","Name":"web","Splits":[{"Weight":50,"Service":"b","RequestHeaders":{"Set":{"k":"web","j":"web"}},
		"ResponseHeaders":{"Add":{"p":"web"},"Set":{"t":"web"},"Remove":["y","x"]}},{"Weight":50}]}`,
	`{"Kind":"service-splitter","Name":"c","Splits":[{"Weight":30,"Service":"web"},{"Weight":70}]}`,
	`{"Kind":"service-resolver","Name":"c","LoadBalancer":{"Policy":"ring_hash","RingHashConfig":{"MinimumRingSize":100,"MaximumRingSize":200},
		"HashPolicies":[{"Field":"cookie","FieldValue":"a","CookieConfig":{"TTL":"5s","Path":"/"}},{"SourceIP":true,"Terminal":true}]}}`,
	`{"Kind":"service-resolver","Name":"c","LoadBalancer":{"Policy":"least_request","LeastRequestConfig":{"ChoiceCount":3}}}`,

	// Redirects and failover.
	`{"Kind":"service-resolver","Name":"b","Redirect":{"Service":"c"}}`,
	`{"Kind":"service-resolver","Name":"c","Redirect":{"Service":"b"}}`,
	`{"Kind":"service-resolver","Name":"b","Redirect":{"Datacenter":"dc2"}}`,
	`{"Kind":"service-resolver","Name":"b","Redirect":{"Service":"web","ServiceSubset":"v2"}}`,
	`{"Kind":"service-resolver","Name":"b","Redirect":{"Service":"web"}}`,
	`{"Kind":"service-resolver","Name":"b","Redirect":{"Service":"c","Peer":"east"}}`,
	`{"Kind":"service-resolver","Name":"b","Redirect":{"Service":"web","Peer":"east"}}`,
	`{"Kind":"service-resolver","Name":"b","Failover":{"*":{"Service":"c"}}}`,
	`{"Kind":"service-resolver","Name":"b","Failover":{"*":{"Service":"web","ServiceSubset":"v3"}}}`,
	`{"Kind":"service-resolver","Name":"b","Failover":{"*":{"Datacenters":["dc1","dc2","dc3"]}}}`,
	`{"Kind":"service-resolver","Name":"b","Failover":{"*":{"Targets":[{"Peer":"east"},{"Service":"c","Datacenter":"dc3"},{"Datacenter":"dc2"}]}}}`,
	`{"Kind":"service-resolver","Name":"web","DefaultSubset":"v1","Subsets":{"v1":{"Filter":"Service.Meta.version == 1"},"v2":{},"v3":{}},
		"Failover":{"v2":{"ServiceSubset":"v1"},"v1":{"Targets":[{"Datacenter":"dc2"},{"ServiceSubset":"v2"}]},"*":{"Service":"c","Datacenters":["dc2"]}}}`,
	`{"Kind":"service-resolver","Name":"web","Subsets":{"v1":{}}}`,

	// Routers.
	`{"Kind":"service-router","Name":"web","Routes":null}`,
	`{"Kind":"service-router","Name":"web","Routes":[null]}`,
	`{"Kind":"service-router","Name":"web","Routes":[
		{"Match":{"HTTP":{"PathExact":"/a.B/C","Header":[{"Name":"x-debug","Exact":"1"},{"Name":"x-no","Present":true,"Invert":true}],"Methods":["post"]}},
			"Destination":{"ServiceSubset":"v2","RequestTimeout":"1.5s","NumRetries":3,"RetryOnConnectFailure":true,"RetryOn":["unavailable","cancelled"],
			"RetryOnStatusCodes":[503],"RequestHeaders":{"Add":{"a":"b"}}}},
		{"Match":{"HTTP":{"PathPrefix":"/a.D","CaseInsensitive":true,"QueryParam":[{"Name":"x","Present":true}]}},
			"Destination":{"Service":"b","PrefixRewrite":"/z","IdleTimeout":"30s"}},
		{"Match":{"HTTP":{"PathRegex":"/x.*"}}},{},{"Destination":{}},{"Destination":{"Service":"c","ResponseHeaders":{"Set":{"c":"d"}}}}]}`,
	`{"kind":"service-router","name":"c","meta":{"a_b":"c_d"},"routes":[{"match":{"http":{"path_prefix":"/x","query_param":[{"name":"a","exact":"b"}]}},
		"destination":{"service":"b","num_retries":2}}]}`,
	`{"Kind":"service-router","Name":"web","Routes":[{"Match":{"HTTP":{"PathExact":"a"}}}]}`,
	`{"Kind":"service-router","Name":"web","Routes":[{"Match":{"HTTP":{"PathPrefix":"a"}}}]}`,
	`{"Kind":"service-router","Name":"web","Routes":[{"Match":{"HTTP":{"PathExact":"/a","PathRegex":"/b"}}}]}`,
	`{"Kind":"service-router","Name":"web","Routes":[{},{"Match":{"HTTP":{"Header":[{"Name":"a"}]}}}]}`,
	`{"Kind":"service-router","Name":"web","Routes":[{"Match":{"HTTP":{"Header":[{"Name":"a","Present":true},{"Exact":"a"}]}}}]}`,
	`{"Kind":"service-router","Name":"web","Routes":[{"Match":{"HTTP":{"QueryParam":[{"Name":"a","Exact":"1","Regex":"b"}]}}}]}`,
	`{"Kind":"service-router","Name":"web","Routes":[{"Match":{"HTTP":{"QueryParam":[{"Exact":"1"}]}}}]}`,
	`{"Kind":"service-router","Name":"web","Routes":[{"Match":{"HTTP":{"Methods":["POST","post"]}}}]}`,
	`{"Kind":"service-router","Name":"web","Routes":[{"Match":{"HTTP":{"Methods":["CALL"]}}}]}`,
	`{"Kind":"service-router","Name":"web","Routes":[{"Destination":{"RetryOn":["never"]}}]}`,
	`{"Kind":"service-router","Name":"web","Routes":[{"Destination":{"PrefixRewrite":"/a"}}]}`,
	`{"Kind":"service-router","Name":"web","Routes":[{"Destination":{"ServiceSubset":"v9"}}]}`,
	`{"Kind":"service-router","Name":"web","Routes":[{"Destination":{"Service":"plain"}}]}`,

	// What holds for all services.
	`{"Kind":"proxy-defaults","Name":"web"}`,
	`{"Kind":"proxy-defaults","Name":"global"}`,
	`{"Kind":"proxy-defaults","Name":"global","Config":{"protocol":"GRPC","other":{"a_b":[{"c_d":1}]}},"MeshGateway":{"Mode":"local"}}`,
	`{"Kind":"service-splitter","Name":"everywhere","Splits":[{"Weight":100}]}`,
	`{"Kind":"proxy-defaults","Name":"global","Config":{"protocol":"tcp"}}`,
	`{"Kind":"service-defaults","Name":"everywhere"}`,
	`{"Kind":"service-defaults","Name":"everywhere","Protocol":"http"}`,
	`{"Kind":"proxy-defaults","Name":"global","TransparentProxy":{"DialedDirectly":true}}`,

	// Protocols that no longer fit, and what says more of instances.
	`{"Kind":"service-defaults","Name":"web","Protocol":"tcp"}`,
	`{"Kind":"service-defaults","Name":"alone","Protocol":"http2","MeshGateway":{"Mode":"local"},"TransparentProxy":{"DialedDirectly":true}}`,
	`{"Kind":"service-defaults","Name":"alone","Protocol":"http","ExternalSNI":"alone.example"}`,
	`{"Kind":"service-resolver","Name":"alone","Subsets":{"a":{}}}`,
	`{"Kind":"service-resolver","Name":"alone","Redirect":{"Datacenter":"dc2"}}`,
	`{"Kind":"service-resolver","Name":"alone","Failover":{"*":{"Datacenters":["dc2"]}}}`,
}

// Config entries are taken or refused, shown and compiled to chains as the real Consul does it.
func TestConfigEntriesAsTheRealConsulHasThem(t *testing.T) {
	standIn, real := clients(t)
	chains := func() {
		for _, path := range []string{"web", "b", "c", "alone", "plain", "everywhere", "web?compile-dc=dc2"} {
			compare(t, message{"GET", "/v1/discovery-chain/" + path, ""}, standIn, real)
		}
	}
	chains()
	for _, entry := range entries {
		if compare(t, message{"PUT", "/v1/config", entry}, standIn, real) {
			continue
		}
		var of struct{ Kind, Name string }
		if err := json.Unmarshal([]byte(entry), &of); err != nil {
			t.Fatal(err)
		}
		compare(t, message{"GET", "/v1/config/" + of.Kind + "/" + of.Name, ""}, standIn, real)
		chains()
	}
	for _, path := range []string{"service-defaults", "service-router", "service-splitter", "service-resolver", "proxy-defaults", "proxy-defaults/web", "nothing", "service-router/", "service-router/none", "service-router/a/b"} {
		compare(t, message{"GET", "/v1/config/" + path, ""}, standIn, real)
	}
	for _, path := range []string{
		"service-resolver/web", "service-defaults/web", "service-router/web?cas=1", "service-router/web?cas=x", "service-router/none?cas=1", "service-router", "service-router/", "nothing/web",
		"service-router/web", "service-splitter/web", "service-router/c", "service-splitter/c", "service-splitter/b", "service-resolver/b", "service-resolver/c", "service-resolver/web",
		"service-defaults/b", "service-defaults/c", "service-defaults/web", "service-defaults/web", "service-defaults/alone", "proxy-defaults/web", "proxy-defaults/global",
	} {
		if !compare(t, message{"DELETE", "/v1/config/" + path, ""}, standIn, real) {
			chains()
		}
	}
	for _, refused := range []message{
		{"GET", "/v1/discovery-chain/", ""}, {"PUT", "/v1/discovery-chain/web", "{}"}, {"POST", "/v1/discovery-chain/web", "{}"},
		{"GET", "/v1/discovery-chain/web?index=x", ""}, {"GET", "/v1/discovery-chain/web?cached", ""}, {"GET", "/v1/discovery-chain/web?stale", ""},
		{"GET", "/v1/config", ""}, {"POST", "/v1/config/service-router/web", "{}"}, {"GET", "/v1/config/service-router?index=x", ""},
		{"PUT", "/v1/config?cas=x", `{"Kind":"service-defaults","Name":"web"}`}, {"PUT", "/v1/config?cas=7", `{"Kind":"service-defaults","Name":"web"}`},
		{"PUT", "/v1/config?cas=0", `{"Kind":"service-defaults","Name":"web"}`}, {"PUT", "/v1/config?cas=0", `{"Kind":"service-defaults","Name":"web"}`},
		{"PUT", "/v1/config?dc=nowhere", `{"Kind":"service-defaults","Name":"web"}`}, {"GET", "/v1/config/service-defaults/web?dc=nowhere", ""},
		{"DELETE", "/v1/config/service-defaults/web?dc=nowhere", ""},
	} {
		compare(t, refused, standIn, real)
	}
}
