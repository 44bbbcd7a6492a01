package consultest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/internal/racetest"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// canary writes the entries of a service with two versions, of which v2 gets percent of the calls.
func canary(t *testing.T, s *consultest.Server, percent float32) {
	t.Helper()
	must(t, s.WriteConfig(`{"Kind":"service-defaults","Name":"web","Protocol":"grpc"}`))
	must(t, s.WriteConfig(`{"Kind":"service-resolver","Name":"web","DefaultSubset":"v1","Subsets":{
		"v1":{"Filter":"Service.Meta.version == 1"},"v2":{"Filter":"Service.Meta.version == 2","OnlyPassing":true}}}`))
	must(t, s.WriteConfig(&api.ServiceSplitterConfigEntry{Kind: api.ServiceSplitter, Name: "web", Splits: []api.ServiceSplit{
		{Weight: 100 - percent, ServiceSubset: "v1"}, {Weight: percent, ServiceSubset: "v2"}}}))
}

// shares of the splitter of web, by Consul's own client.
func shares(t *testing.T, client *api.Client, opts *api.DiscoveryChainOptions, q *api.QueryOptions) (string, *api.QueryMeta) {
	t.Helper()
	answer, meta, err := client.DiscoveryChain().Get("web", opts, q)
	must(t, err)
	node := answer.Chain.Nodes[answer.Chain.StartNode]
	if node == nil || answer.Chain.Default {
		return "default", meta
	}
	var of []string
	for _, split := range node.Splits {
		target := answer.Chain.Targets[answer.Chain.Nodes[split.NextNode].Resolver.Target]
		of = append(of, fmt.Sprintf("%s in %s: %v", target.ServiceSubset, target.Datacenter, split.Weight))
	}
	return strings.Join(of, ", "), meta
}

// Entries of Consul's own client come back as they went, and make its chain.
func TestConfigEntriesOfConsulsClient(t *testing.T) {
	eachWay(t, func(t *testing.T, s *consultest.Server, c *http.Client) {
		client := agentOver(t, c)
		configs := client.ConfigEntries()
		for _, entry := range []api.ConfigEntry{
			&api.ServiceConfigEntry{Kind: api.ServiceDefaults, Name: "web", Protocol: "grpc", Meta: map[string]string{"owner": "us"}, TransparentProxy: &api.TransparentProxyConfig{}},
			&api.ServiceResolverConfigEntry{Kind: api.ServiceResolver, Name: "web", DefaultSubset: "v1", ConnectTimeout: 3 * time.Second,
				Subsets:      map[string]api.ServiceResolverSubset{"v1": {Filter: "Service.Meta.version == 1"}, "v2": {OnlyPassing: true}},
				Failover:     map[string]api.ServiceResolverFailover{"*": {Datacenters: []string{"dc2"}}},
				LoadBalancer: &api.LoadBalancer{Policy: "ring_hash", HashPolicies: []api.HashPolicy{{Field: "header", FieldValue: "x-user"}}}},
			&api.ServiceSplitterConfigEntry{Kind: api.ServiceSplitter, Name: "web", Splits: []api.ServiceSplit{
				{Weight: 90.5, ServiceSubset: "v1"}, {Weight: 9.5, ServiceSubset: "v2", RequestHeaders: &api.HTTPHeaderModifiers{Set: map[string]string{"a": "b"}}}}},
			&api.ServiceRouterConfigEntry{Kind: api.ServiceRouter, Name: "web", Routes: []api.ServiceRoute{{
				Match:       &api.ServiceRouteMatch{HTTP: &api.ServiceRouteHTTPMatch{PathPrefix: "/a", Header: []api.ServiceRouteHTTPMatchHeader{{Name: "x", Present: true}}}},
				Destination: &api.ServiceRouteDestination{ServiceSubset: "v2", RequestTimeout: 1500 * time.Millisecond, NumRetries: 2}}}},
		} {
			written, _, err := configs.Set(entry, nil)
			must(t, err)
			read, _, err := configs.Get(entry.GetKind(), "web", nil)
			must(t, err)
			if !written || withoutIndexes(t, read) != withoutIndexes(t, entry) {
				t.Errorf("wrote %s, read %s", withoutIndexes(t, entry), withoutIndexes(t, read))
			}
			list, _, err := configs.List(entry.GetKind(), nil)
			must(t, err)
			if len(list) != 1 || withoutIndexes(t, list[0]) != withoutIndexes(t, entry) {
				t.Errorf("wrote %s, listed %d", withoutIndexes(t, entry), len(list))
			}
		}
		answer, _, err := client.DiscoveryChain().Get("web", nil, nil)
		must(t, err)
		route := answer.Chain.Nodes["router:web.default.default"].Routes[0]
		target := answer.Chain.Targets["v2.web.default.default.dc1"]
		if route.Definition.Destination.RequestTimeout != 1500*time.Millisecond || route.NextNode != "resolver:v2.web.default.default.dc1" ||
			target == nil || target.ConnectTimeout != 3*time.Second || !target.Subset.OnlyPassing || answer.Chain.ServiceMeta["owner"] != "us" {
			t.Errorf("got route %+v, target %+v, meta %v", route, target, answer.Chain.ServiceMeta)
		}
	})
}

// withoutIndexes shows an entry without what the agent sets.
func withoutIndexes(t *testing.T, entry api.ConfigEntry) string {
	t.Helper()
	text, err := json.Marshal(entry)
	must(t, err)
	return shape(string(text))
}

// A write with a check-and-set index loses against one that came between, and so does a delete.
func TestConfigCheckAndSet(t *testing.T) {
	s, client := newAgent(t)
	configs := client.ConfigEntries()
	entry := func(protocol string) api.ConfigEntry {
		return &api.ServiceConfigEntry{Kind: api.ServiceDefaults, Name: "web", Protocol: protocol}
	}
	cas := func(protocol string, index uint64) bool {
		done, _, err := configs.CAS(entry(protocol), index, nil)
		must(t, err)
		return done
	}
	index := func() uint64 {
		read, _, err := configs.Get(api.ServiceDefaults, "web", nil)
		must(t, err)
		return read.GetModifyIndex()
	}
	if !cas("http", 0) || cas("grpc", 0) {
		t.Error("an index of 0 is not only that of an entry that does not exist")
	}
	first := index()
	must(t, s.WriteConfig(entry("grpc")))
	if cas("http2", first) || !cas("http2", index()) || index() == first {
		t.Error("an index is not that of the last write only")
	}
	now := index()
	if !cas("http2", 7) || index() != now {
		t.Error("an entry that is there already was written")
	}
	for _, given := range []uint64{first, now} {
		if done, _, err := configs.DeleteCAS(api.ServiceDefaults, "web", given, nil); err != nil || done != (given == now) {
			t.Errorf("index %d of %d: got %v, %v", given, now, done, err)
		}
	}
	if _, _, err := configs.Get(api.ServiceDefaults, "web", nil); err == nil {
		t.Error("the entry was not deleted")
	}
}

// A query of a chain waits until this chain changes, whoever is written besides.
func TestAChainWaitsForItsOwnChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, client := newAgent(t)
		canary(t, s, 10)
		first, meta := shares(t, client, nil, nil)
		if first != "v1 in dc1: 90, v2 in dc1: 10" {
			t.Fatalf("got %s", first)
		}
		type outcome struct {
			shown string
			index uint64
			took  time.Duration
		}
		asked := func(opts *api.QueryOptions) <-chan outcome {
			done := make(chan outcome, 1)
			go func() {
				start := time.Now()
				shown, meta := shares(t, client, nil, opts)
				done <- outcome{shown, meta.LastIndex, time.Since(start)}
			}()
			synctest.Wait()
			return done
		}
		done := asked(&api.QueryOptions{WaitIndex: meta.LastIndex})
		must(t, s.WriteConfig(`{"Kind":"service-defaults","Name":"other","Protocol":"grpc"}`))
		must(t, s.Register(consultest.Service{Name: "web"}))
		if synctest.Wait(); len(done) != 0 {
			t.Fatalf("ended by what is no change of the chain: %+v", <-done)
		}
		time.Sleep(time.Minute)
		canary(t, s, 25)
		second := <-done
		if second.shown != "v1 in dc1: 75, v2 in dc1: 25" || second.index <= meta.LastIndex || second.took != time.Minute {
			t.Errorf("got %+v", second)
		}
		done = asked(&api.QueryOptions{WaitIndex: second.index})
		must(t, s.DeleteConfig("service-splitter", "web"))
		if third := <-done; third.shown != "" || third.index <= second.index {
			t.Errorf("without the splitter: got %+v", third)
		}
		must(t, s.DeleteConfig("service-resolver", "web"))
		if shown, _ := shares(t, client, nil, nil); shown != "default" {
			t.Errorf("without the resolver: got %s", shown)
		}
		_, now, err := client.DiscoveryChain().Get("web", nil, nil)
		must(t, err)
		if none := <-asked(&api.QueryOptions{WaitIndex: now.LastIndex, WaitTime: time.Second}); none.shown != "default" || none.took < time.Second {
			t.Errorf("nothing changed: got %+v", none)
		}
	})
}

// Faults answer reads of chains as they do others, those that wait too; and so they do writes.
func TestFaultsOfChains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, client := newAgent(t)
		canary(t, s, 10)
		get := func(index uint64) error {
			answer, _, err := client.DiscoveryChain().Get("web", nil, &api.QueryOptions{WaitIndex: index})
			if err == nil && answer.Chain == nil {
				err = fmt.Errorf("no chain")
			}
			return err
		}
		_, meta := shares(t, client, nil, nil)
		for want, fault := range map[string]consultest.Fault{
			"403 (ACL not found)":     consultest.Forbidden(),
			"500 (No cluster leader)": consultest.NoLeader(),
			"500 (Connect must be":    consultest.ServerError(500, "Connect must be enabled in order to use this endpoint"),
			"invalid character '<'":   consultest.Garbage(),
			"connection reset":        consultest.Reset(),
			"no chain":                consultest.Empty(),
			"unexpected EOF":          consultest.Truncate(),
		} {
			done := make(chan error, 1)
			go func() { done <- get(meta.LastIndex) }()
			if synctest.Wait(); len(done) != 0 {
				t.Fatalf("%s: the query does not wait: %v", want, <-done)
			}
			lift := s.Inject(fault.On(consultest.ChainReads).Service("web"))
			if want == "unexpected EOF" { // does not end a query that waits; its next one, then
				canary(t, s, 20)
			}
			if err := <-done; err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v", want, err)
			}
			if _, _, err := client.Health().Node("consultest", nil); err != nil {
				t.Errorf("%s: another read: %v", want, err)
			}
			lift()
			canary(t, s, 10)
			shown, now := shares(t, client, nil, nil)
			if shown != "v1 in dc1: 90, v2 in dc1: 10" {
				t.Errorf("after %s: got %s", want, shown)
			}
			meta = now
		}
		s.Script(consultest.NoLeader().On(consultest.ConfigWrites))
		set := func() error {
			_, _, err := client.ConfigEntries().Set(&api.ServiceConfigEntry{Kind: api.ServiceDefaults, Name: "b"}, nil)
			return err
		}
		if err := set(); err == nil || !strings.Contains(err.Error(), "No cluster leader") {
			t.Errorf("a write got %v", err)
		}
		must(t, set())
	})
}

// WriteConfig and DeleteConfig return what the agent answers, and name what they do not support.
func TestWriteConfigRefuses(t *testing.T) {
	s, client := newAgent(t)
	must(t, s.WriteConfig([]byte(`{"Kind":"service-defaults","Name":"web","Protocol":"grpc"}`)))
	must(t, s.WriteConfig(`{"Kind":"service-intentions","Name":"web","Sources":[{"Name":"a","Action":"allow"}]}`))
	deep := func(depth int) string { return strings.Repeat(`{"Match":`, depth) + "1" + strings.Repeat("}", depth) }
	for _, test := range []struct {
		entry any
		want  string
	}{
		{`{"Kind":"service-splitter","Name":"plain","Splits":[{"Weight":100}]}`, `discovery chain "plain" uses a protocol "tcp" that does not permit advanced routing or splitting behavior`},
		{`{"Kind":"service-splitter","Name":"web","Splits":[{"Weight":90},{"Weight":9,"Service":"b"}]}`, "the sum of all split weights must be 100, not 99.000000"},
		{`{"Kind":"service-splitter","Name":"web","Splits":[{"Weight":100,"ServiceSubset":"v1"}]}`, `service "web" does not have a subset named "v1"`},
		{`{"Kind":"service-router","Name":"web","Routes":[{"Destination":{"NumRetries":-1}}]}`, "cannot unmarshal number -1"},
		{`{"Kind":"service-router","Name":"web","Routes":[{"Destination":{"RequestTimeout":"soon"}}]}`, `invalid duration "soon"`},
		{`{"Kind":"service-router","Name":"web","Routes":5}`, "cannot unmarshal number"},
		{`{"Kind":"service-defaults","Name":"web","Protocol":"grpc","UpstreamConfig":{}}`, "consultest: UpstreamConfig of service-defaults is not supported: leave it out"},
		{`{"Kind":"proxy-defaults","Name":"global","FailoverPolicy":{}}`, "consultest: FailoverPolicy of proxy-defaults is not supported: leave it out"},
		{`{"Kind":"http-route","Name":"web"}`, `consultest: config entries of kind "http-route" are not supported: only service-defaults, service-router`},
		{`{"Kind":"mystery","Name":"web"}`, "invalid config entry kind: mystery"},
		{`{"Kind":"service-router","Name":"web","Routes":[` + deep(5000) + `]}`, `invalid config key "Routes[0].Match.Match"`},
		{map[string]any{"Kind": "service-defaults"}, "Name is required"},
		{func() {}, "unsupported type"},
	} {
		if err := s.WriteConfig(test.entry); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.80v: got %v, want %s", test.entry, err, test.want)
		}
	}
	must(t, s.WriteConfig(`{"Kind":"service-splitter","Name":"web","Splits":[{"Weight":100}]}`))
	if err := s.DeleteConfig("service-defaults", "web"); err == nil || !strings.Contains(err.Error(), "does not permit advanced routing") {
		t.Errorf("got %v", err)
	}
	if err := s.DeleteConfig("ingress-gateway", "global"); err == nil || !strings.Contains(err.Error(), "not supported") {
		t.Errorf("got %v", err)
	}
	must(t, s.DeleteConfig("service-splitter", "web"))
	must(t, s.DeleteConfig("service-splitter", "web"))
	must(t, s.DeleteConfig("service-intentions", "web"))
	must(t, s.DeleteConfig("service-defaults", "web"))
	c := &http.Client{Transport: s.Transport()}
	for _, test := range []struct{ method, path, body, want string }{
		{"POST", "/v1/discovery-chain/web", `{"OverrideProtocol":"http"}`, "400 consultest: OverrideProtocol in the body is not supported"},
		{"POST", "/v1/discovery-chain/web", `[`, "400 Request decoding failed"},
		{"GET", "/v1/config/service-intentions/web", "", "400 consultest: config entries of kind \"service-intentions\" are written here"},
		{"PUT", "/v1/config", strings.Repeat(" ", 600<<10), "413 Request body too large"},
	} {
		got := do(t, c, test.method, test.path, test.body)
		if shown := fmt.Sprint(got.code, " ", got.body); !strings.HasPrefix(shown, test.want) {
			t.Errorf("%s %s: got %s, want %s", test.method, test.path, shown, test.want)
		}
	}
	if shown, _ := shares(t, client, nil, nil); shown != "default" {
		t.Errorf("refused writes have left %s", shown)
	}
}

// A chain is compiled for the datacenter that is asked for, with the entries of the agent that
// answers.
func TestChainsOfDatacenters(t *testing.T) {
	s, client := newAgent(t)
	other := consultest.New(consultest.WithDatacenter("dc2"))
	defer other.Close()
	must(t, s.Join(other))
	canary(t, s, 10)
	for want, options := range map[string]struct {
		chain api.DiscoveryChainOptions
		query api.QueryOptions
	}{
		"v1 in dc1: 90, v2 in dc1: 10": {},
		"v1 in dc2: 90, v2 in dc2: 10": {chain: api.DiscoveryChainOptions{EvaluateInDatacenter: "dc2"}},
		"default":                      {query: api.QueryOptions{Datacenter: "dc2"}},
	} {
		if shown, _ := shares(t, client, &options.chain, &options.query); shown != want {
			t.Errorf("%+v: got %s, want %s", options, shown, want)
		}
	}
	s.Restart()
	if shown, _ := shares(t, client, nil, nil); shown != "default" {
		t.Errorf("after a restart: got %s", shown)
	}
}

// What is nested to multiply is refused before it has taken the memory.
func TestChainsAreBounded(t *testing.T) {
	s, _ := newAgent(t)
	const width = 10
	refused := error(nil)
	for level := range 6 {
		name := fmt.Sprint("s", level)
		splits := fmt.Sprintf(`{"Weight":%d}`, 100-width)
		for i := range width {
			to := fmt.Sprintf("s%d", level-1)
			if level == 0 {
				to = fmt.Sprint("leaf", i)
				must(t, s.WriteConfig(`{"Kind":"service-defaults","Name":"`+to+`","Protocol":"grpc"}`))
			}
			splits += fmt.Sprintf(`,{"Weight":1,"Service":%q,"RequestHeaders":{"Set":{"n":"%d"}}}`, to, i)
		}
		must(t, s.WriteConfig(`{"Kind":"service-defaults","Name":"`+name+`","Protocol":"grpc"}`))
		if refused = s.WriteConfig(`{"Kind":"service-splitter","Name":"` + name + `","Splits":[` + splits + `]}`); refused != nil {
			break
		}
	}
	if refused == nil || !strings.Contains(refused.Error(), "nest fewer splitters") {
		t.Errorf("got %v", refused)
	}
}

func TestTheStoreOfConfigEntriesIsBounded(t *testing.T) {
	racetest.Skip(t)
	s, _ := newAgent(t)
	pad := bytes.Repeat([]byte("x"), 500<<10)
	var err error
	n := 0
	for ; n < 100 && err == nil; n++ {
		err = s.WriteConfig(fmt.Sprintf(`{"Kind":"service-defaults","Name":"s%d","Meta":{"pad":"%s"}}`, n, pad))
	}
	if err == nil || !strings.Contains(err.Error(), "the store of config entries is full") || n < 30 {
		t.Errorf("write %d: got %v", n, err)
	}
	must(t, s.DeleteConfig("service-defaults", "s0"))
	must(t, s.WriteConfig(fmt.Sprintf(`{"Kind":"service-defaults","Name":"s0","Meta":{"pad":"%s"}}`, pad)))
}

// The documents that a real Consul has compiled, which resolver/consul reads, too: so the
// simulation is compared where no Consul is.
func TestChainsAsConsulHasCompiledThem(t *testing.T) {
	paths, err := filepath.Glob("../consul/testdata/chains/*.json")
	if err != nil || len(paths) < 50 {
		t.Fatal(len(paths), err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		must(t, err)
		var document struct {
			Service, Datacenter string
			Entries             []json.RawMessage
			Answer              json.RawMessage
		}
		must(t, json.Unmarshal(text, &document))
		t.Run(strings.TrimSuffix(filepath.Base(path), ".json"), func(t *testing.T) {
			s, _ := newAgent(t)
			for _, entry := range document.Entries {
				if err := s.WriteConfig([]byte(entry)); err != nil && bytes.Contains(entry, []byte("EnvoyExtensions")) {
					return // refused by name
				} else if err != nil {
					t.Fatal(err)
				}
			}
			got := do(t, &http.Client{Transport: s.Transport()}, "GET", "/v1/discovery-chain/"+document.Service+"?compile-dc="+document.Datacenter, "")
			if shape(got.body) != shape(string(document.Answer)) {
				t.Errorf("got  %s\nwant %s", shape(got.body), shape(string(document.Answer)))
			}
		})
	}
}
