package consul_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/internal/consulagent"
	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
	"github.com/meshlite-go/meshlite/resolver/route"
)

// watchChain reports the arms of the last route.
func watchChain(t *testing.T, d *consul.Directory, service string) *reportLines {
	return follow(t, func(ctx context.Context, r *reportLines) {
		d.WatchChain(ctx, service, "", func(c *route.Chain, err error) {
			line := "plain"
			if c != nil {
				var arms []string
				for _, a := range c.Routes[len(c.Routes)-1].Arms {
					arms = append(arms, fmt.Sprintf("%s=%v", a.Name, a.Weight))
				}
				line = fmt.Sprintf("%d %s", len(c.Routes), strings.Join(arms, " "))
			}
			r.add(line, err)
		})
	})
}

// The config entries of a service with two versions.
const (
	speaksGRPC  = `{"Kind":"service-defaults","Name":"catalog","Protocol":"grpc"}`
	twoVersions = `{"Kind":"service-resolver","Name":"catalog","DefaultSubset":"v1","Subsets":{"v1":{"Filter":"Service.Meta.version == \"1\""},"v2":{"Filter":"Service.Meta.version == \"2\"","OnlyPassing":true}}}`
)

func canary(v2 float64) string {
	return fmt.Sprintf(`{"Kind":"service-splitter","Name":"catalog","Splits":[{"Weight":%v,"ServiceSubset":"v1"},{"Weight":%v,"ServiceSubset":"v2"}]}`, 100-v2, v2)
}

func routed(destination string) string {
	return `{"Kind":"service-router","Name":"catalog","Routes":[{"Match":{"HTTP":{"PathPrefix":"/a"}},"Destination":` + destination + `}]}`
}

func configure(t *testing.T, agent *consultest.Server, entries ...string) {
	t.Helper()
	for _, entry := range entries {
		if err := agent.WriteConfig(entry); err != nil {
			t.Fatal(entry, err)
		}
	}
}

func unconfigure(t *testing.T, agent *consultest.Server, kinds ...string) {
	t.Helper()
	for _, kind := range kinds {
		if err := agent.DeleteConfig(kind, "catalog"); err != nil {
			t.Fatal(err)
		}
	}
}

// newWatched is a directory of an agent, with its log.
func newWatched(t *testing.T, opts ...consultest.Option) (*consultest.Server, *consul.Directory, *logged) {
	t.Helper()
	agent, log := consultest.New(opts...), &logged{}
	t.Cleanup(agent.Close)
	d, err := consul.New(consul.Config{Address: "127.0.0.1:8500", Token: "service", Transport: agent.Transport(), Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return agent, d, log
}

// A change is reported at once, an outage as an error, and what follows it too.
func TestChainsAreWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent, d, _ := newWatched(t)
		r := watchChain(t, d, "catalog")
		synctest.Wait()
		configure(t, agent, speaksGRPC)
		time.Sleep(time.Second)
		configure(t, agent, twoVersions)
		time.Sleep(time.Second)
		configure(t, agent, canary(10))
		time.Sleep(time.Second)
		configure(t, agent, routed(`{"ServiceSubset":"v2"}`))
		time.Sleep(time.Second)
		agent.SetReachable(false)
		time.Sleep(10 * time.Minute)
		unconfigure(t, agent, "service-router")
		agent.SetReachable(true)
		time.Sleep(time.Minute)
		unconfigure(t, agent, "service-splitter")
		time.Sleep(time.Second)
		unconfigure(t, agent, "service-resolver")
		time.Sleep(time.Minute)
		r.want(t, "plain", "1 v1=100", "1 v1=90 v2=10", "2 v1=90 v2=10",
			"consul at 127.0.0.1:8500 closed the connection...", "consul at 127.0.0.1:8500 refused the connection...",
			"1 v1=90 v2=10", "1 v1=100", "plain")
	})
}

// Case T7
func TestRefusedChainsAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent, d, _ := newWatched(t)
		configure(t, agent, speaksGRPC, twoVersions)
		r := watchChain(t, d, "catalog")
		time.Sleep(time.Second)
		configure(t, agent, routed(`{"PrefixRewrite":"/b"}`))
		time.Sleep(time.Second)
		before := d.Stats()[0].Requests
		time.Sleep(time.Hour)
		if n := d.Stats()[0].Requests - before; n > 100 {
			t.Errorf("%d requests in an hour with a refused chain", n)
		}
		configure(t, agent, routed(`{"RequestTimeout":"1s"}`))
		time.Sleep(time.Second)
		r.want(t, "1 v1=100", `the discovery chain of "catalog" has parts that are not supported: route 1: PrefixRewrite "/b"...`, "2 v1=100")

		configure(t, agent, routed(`{"PrefixRewrite":"/b"}`))
		_, err := d.Chain(t.Context(), "catalog", "")
		var refused *route.RefusedError
		if !errors.As(err, &refused) || refused.HTTP == nil || refused.HTTP.Routes[0].PrefixRewrite != "/b" || refused.Index == 0 {
			t.Errorf("%v, want a chain for HTTP", err)
		}
	})
}

// Hours without a change take one query a minute, and an agent that answers at once without
// a change is not flooded.
func TestChainsThatDoNotChangeCostLittle(t *testing.T) {
	for name, fault := range map[string]func(*consultest.Server){
		"blocks":        func(*consultest.Server) {},
		"answers early": func(s *consultest.Server) { s.Inject(consultest.IndexZero().On("/v1/discovery-chain/")) },
		"denies":        func(s *consultest.Server) { s.Inject(consultest.Forbidden().On("/v1/discovery-chain/")) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				agent, d, _ := newWatched(t)
				fault(agent)
				watchChain(t, d, "catalog")
				time.Sleep(time.Hour)
				if n := d.Stats()[0].Requests; n < 50 || n > 500 {
					t.Errorf("%d requests in an hour", n)
				}
			})
		})
	}
}

// A chain that is gone all at once is read again from the leader before that is believed.
func TestAChainThatIsGoneIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent, d, _ := newWatched(t)
		configure(t, agent, speaksGRPC, twoVersions, canary(10))
		empty := consultest.New()
		t.Cleanup(empty.Close)
		agent.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			q := r.URL.Query()
			if !strings.HasPrefix(r.URL.Path, "/v1/discovery-chain/") || q.Has("consistent") || !q.Has("index") {
				return false
			}
			r.URL.RawQuery = ""
			empty.ServeHTTP(w, r) // a server that lags behind
			return true
		})
		r := watchChain(t, d, "catalog")
		time.Sleep(time.Minute)
		r.want(t, "1 v1=90 v2=10")
	})
}

// Where there are no chains, or they may not be read, that is plain discovery, logged once; a
// chain that was there stays.
func TestAgentsWithoutChains(t *testing.T) {
	for name, test := range map[string]struct {
		status       int
		body, reason string
		once         string // the error of reading it once
	}{
		"denied":       {403, "Permission denied: token lacks permission 'service:read' on \"catalog\"", "the token may not read it", `service:read on \"catalog\"`},
		"unknown":      {401, "ACL support disabled", "the token may not read it", "denied the request"},
		"old":          {404, "404 page not found", "the agent has no discovery chains", "is that a Consul agent?"},
		"Connect off":  {500, "Connect must be enabled in order to use this endpoint", "Connect is not enabled", "connect { enabled = true }"},
		"client agent": {500, "rpc error making call: Connect must be enabled in order to use this endpoint", "Connect is not enabled", "connect { enabled = true }"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				agent, d, log := newWatched(t)
				fault := consultest.ServerError(test.status, test.body).On("/v1/discovery-chain/")
				lift := agent.Inject(fault)
				if c, err := d.Chain(t.Context(), "catalog", ""); err == nil || c != nil || !strings.Contains(fmt.Sprintf("%q", err), test.once) {
					t.Errorf("%v, want an error with %s", err, test.once)
				}
				r := watchChain(t, d, "catalog")
				time.Sleep(10 * time.Minute)
				r.want(t, fmt.Sprintf(`the discovery chain of "catalog" cannot be read: %s`, test.reason))
				lines := log.lines("its discovery chain cannot be read")
				if len(lines) != 1 || !strings.Contains(lines[0], test.reason) || !strings.Contains(lines[0], "service=catalog") {
					t.Errorf("logged %q", lines)
				}
				lift()
				configure(t, agent, speaksGRPC, twoVersions)
				time.Sleep(time.Minute)
				defer agent.Inject(fault)()
				time.Sleep(time.Minute)
				all := r.all()
				if n := len(all); n < 3 || all[n-2] != "1 v1=100" || !strings.HasPrefix(all[n-1], "consul at 127.0.0.1:8500") {
					t.Errorf("reports are %q, want an error after the chain", all)
				}
			})
		})
	}
}

// Answers that are none are errors, so that the last chain stays.
func TestChainsThatCannotBeRead(t *testing.T) {
	const begin = `{"Chain":{"ServiceName":"catalog","Datacenter":"dc1","StartNode":"a","Nodes":`
	for body, want := range map[string]string{
		`{}`: "no discovery chain", `null`: "no discovery chain", `{"Chain":null}`: "no discovery chain", `[]`: "cannot be read", `x`: "cannot be read", ``: "closed the connection",
		`{"Chain":{"ServiceName":7}}`:                                   "cannot be read",
		begin + `{}}}`:                                                  `no node "a"`,
		begin + `{"a":{"Type":"gateway"}}}}`:                            `of type "gateway"`,
		begin + `{"a":{"Type":"resolver"}}}}`:                           `of type "resolver"`,
		begin + `{"a":{"Type":"router","Routes":[null]}}}}`:             "route 0 of its discovery chain is null",
		begin + `{"a":{"Type":"router","Routes":[{"NextNode":"b"}]}}}}`: `no node "b"`,
		begin + `{"a":{"Type":"resolver","Resolver":{"Target":"t"}}}}}`: `no target "t"`,
		begin + `{"a":{"Type":"splitter","Splits":[{"Weight":50,"NextNode":"a"},{"Weight":50,"NextNode":"a"}]}}}}`:      "splitters below each other, 16 deep",
		begin + `{"a":{"Type":"resolver","Resolver":{"RequestTimeout":"soon","Target":"t"}}}}}`:                         "cannot be read",
		begin + `{"a":{"Type":"resolver","Resolver":{"Target":"t","Failover":{"Targets":["u"]}}}},"Targets":{"t":{}}}}`: `no target "u"`,
		begin + wide(100) + `}}`:                     `more than 10000 ways`,
		`{"a":"` + strings.Repeat("x", 5<<20) + `"}`: "more than 4194304 bytes",
	} {
		d := answering(t, consul.Config{}, http.StatusOK, always(body))
		if c, err := d.Chain(t.Context(), "catalog", ""); err == nil || c != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.150s: %+v, %v, want %q", body, c, err, want)
		}
	}
	d := answering(t, consul.Config{}, http.StatusOK, always(`{}`))
	if _, err := d.Chain(t.Context(), "a/b", ""); err == nil {
		t.Error("a name with a slash is read")
	}
	ctx, cancel := context.WithCancel(t.Context())
	d.WatchChain(ctx, "a/b", "", func(c *route.Chain, err error) {
		if err == nil {
			t.Error("a name with a slash is watched")
		}
		cancel()
	})
}

// wide are splitters below each other, each with n ways.
func wide(n int) string {
	nodes := []string{`"t":{"Type":"resolver","Resolver":{"Target":"t"}}`}
	for name, next := range map[string]string{"a": "b", "b": "c", "c": "t"} {
		ways := strings.Repeat(fmt.Sprintf(`{"Weight":1,"NextNode":%q},`, next), n)
		nodes = append(nodes, fmt.Sprintf(`%q:{"Type":"splitter","Splits":[%s]}`, name, strings.TrimSuffix(ways, ",")))
	}
	return "{" + strings.Join(nodes, ",") + `},"Targets":{"t":{"ID":"t","Service":"catalog","Datacenter":"dc1"}}`
}

// What this Consul does not answer: that of an older or newer one, or of Enterprise.
//
// Case T7
func TestChainsOfOtherConsuls(t *testing.T) {
	document := func(change func(chain, node, target map[string]any)) string {
		target := map[string]any{"ID": "t", "Service": "catalog", "Namespace": "default", "Partition": "default", "Datacenter": "dc1", "ConnectTimeout": "5s"}
		node := map[string]any{"Type": "resolver", "Name": "catalog.default.default.dc1", "Resolver": map[string]any{"Target": "t", "ConnectTimeout": "5s"}}
		chain := map[string]any{"ServiceName": "catalog", "Namespace": "default", "Partition": "default", "Datacenter": "dc1", "StartNode": "a",
			"Nodes": map[string]any{"a": node}, "Targets": map[string]any{"t": target}}
		change(chain, node, target)
		text, err := json.Marshal(map[string]any{"Chain": chain})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for name, test := range map[string]struct {
		change func(chain, node, target map[string]any)
		want   string // of a refused part, "" for none
	}{
		"as it is":            {func(_, _, _ map[string]any) {}, ""},
		"a field of a chain":  {func(chain, _, _ map[string]any) { chain["Weather"] = "fine" }, "Chain.Weather is not known here: leave it out, or upgrade meshlite"},
		"a field of a target": {func(_, _, target map[string]any) { target["Zone"] = 7 }, `Chain.Targets["t"].Zone is not known here`},
		"a field in a list": {func(_, node, _ map[string]any) {
			node["Type"], node["Routes"] = "router", []any{map[string]any{"NextNode": "b", "Definition": map[string]any{"Match": map[string]any{"GRPC": map[string]any{"Method": "a"}}}}}
		}, `Chain.Nodes["a"].Routes[0].Definition.Match.GRPC is not known here`},
		"a field that is empty": {func(chain, node, target map[string]any) {
			chain["A"], node["B"], target["C"], target["D"], target["E"] = nil, []any{}, map[string]any{}, 0, false
		}, ""},
		"a name in another case": {func(chain, _, _ map[string]any) { chain["serviceMeta"] = map[string]any{"a": "b"} }, ""},
		"durations as numbers": {func(_, node, target map[string]any) {
			target["ConnectTimeout"], node["Resolver"].(map[string]any)["RequestTimeout"] = 5_000_000_000, "7s"
		}, ""},
		"a namespace":        {func(_, _, target map[string]any) { target["Namespace"] = "shop" }, `Namespace "shop": only the default one`},
		"a partition":        {func(_, _, target map[string]any) { target["Partition"] = "east" }, `Partition "east": only the default one`},
		"locality":           {func(_, _, target map[string]any) { target["PrioritizeByLocality"] = map[string]any{"Mode": "failover"} }, `PrioritizeByLocality "failover"`},
		"no locality":        {func(_, _, target map[string]any) { target["PrioritizeByLocality"] = map[string]any{"Mode": "none"} }, ""},
		"failover policy":    {failover(map[string]any{"Policy": map[string]any{"Mode": "order-by-locality", "Regions": []string{"a"}}}), `Failover Policy "order-by-locality" [a]`},
		"failover in order":  {failover(map[string]any{"Policy": map[string]any{"Mode": "sequential"}}), ""},
		"failover regions":   {failover(map[string]any{"Regions": []string{"a"}}), "Failover Regions [a]"},
		"balancer":           {balancer(map[string]any{"Policy": "best"}), `service-resolver "catalog": the load balancer policy "best"`},
		"hash of nothing":    {balancer(map[string]any{"Policy": "maglev", "HashPolicies": []any{map[string]any{"Field": "header", "FieldValue": "a b"}}}), `hashes the header "a b" has ' '`},
		"negative timeout":   {func(_, node, _ map[string]any) { node["Resolver"].(map[string]any)["RequestTimeout"] = -1 }, "the timeout is -1ns"},
		"sticky by anything": {func(chain, _, _ map[string]any) { chain["ServiceMeta"] = map[string]any{"meshlite-sticky": "a b"} }, `sticky by "a b"`},
	} {
		t.Run(name, func(t *testing.T) {
			d := answering(t, consul.Config{}, http.StatusOK, always(document(func(chain, node, target map[string]any) {
				test.change(chain, node, target)
				if node["Type"] == "router" {
					chain["Nodes"].(map[string]any)["b"] = map[string]any{"Type": "resolver", "Resolver": map[string]any{"Target": "t"}}
				}
			})))
			c, err := d.Chain(t.Context(), "catalog", "")
			var refused *route.RefusedError
			switch {
			case test.want == "":
				if err != nil || len(c.Routes) != 1 || c.Targets["t"].ConnectTimeout != 5*time.Second || c.Routes[0].Arms[0].Timeout%(7*time.Second) != 0 {
					t.Errorf("%+v, %v", c, err)
				}
			case !errors.As(err, &refused) || c != nil || len(refused.Parts) != 1 || !strings.Contains(refused.Parts[0], test.want):
				t.Errorf("%v, want %q alone", err, test.want)
			}
		})
	}
}

func failover(f map[string]any) func(_, _, _ map[string]any) {
	return func(_, node, _ map[string]any) { node["Resolver"].(map[string]any)["Failover"] = f }
}

func balancer(b map[string]any) func(_, _, _ map[string]any) {
	return func(_, node, _ map[string]any) { node["LoadBalancer"] = b }
}

// Splitters below each other that are not flattened make the arms that Consul makes of them.
func TestNestedSplittersAreFlattened(t *testing.T) {
	split := func(weight float64, next, header string) string {
		return fmt.Sprintf(`{"Weight":%v,"NextNode":%q,"Definition":{"RequestHeaders":{"Add":{"x":%q}},"ResponseHeaders":{"Add":{"y":%q}}}}`, weight, next, header, header)
	}
	d := answering(t, consul.Config{}, http.StatusOK, always(`{"Chain":{"ServiceName":"catalog","Datacenter":"dc1","StartNode":"r","Nodes":{
		"r":{"Type":"router","Routes":[{"NextNode":"a","Definition":{"Destination":{"RequestHeaders":{"Add":{"x":"0"}},"ResponseHeaders":{"Add":{"y":"0"}}}}}]},
		"a":{"Type":"splitter","Splits":[`+split(90, "t", "1")+`,`+split(10, "b", "2")+`]},
		"b":{"Type":"splitter","Splits":[`+split(50, "t", "3")+`,`+split(50, "c", "4")+`]},
		"c":{"Type":"splitter","Splits":[`+split(75, "t", "5")+`,`+split(25, "t", "6")+`]},
		"t":{"Type":"resolver","Resolver":{"Target":"t"}}},
		"Targets":{"t":{"ID":"t","Service":"catalog","Datacenter":"dc1"}}}}`))
	c, err := d.Chain(t.Context(), "catalog", "")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range c.Routes[0].Arms {
		request, response := map[string][]string{}, map[string][]string{}
		for i := range a.Request {
			a.Request[i].Apply(request)
		}
		for i := range a.Response {
			a.Response[i].Apply(response)
		}
		got = append(got, fmt.Sprint(a.Name, " ", a.Weight, request["x"], response["y"]))
	}
	if want := []string{"catalog 90 [0 1] [1 0]", "catalog 2 5 [0 2 3] [3 2 0]", "catalog 3 3.75 [0 2 4 5] [5 4 2 0]", "catalog 4 1.25 [0 2 4 6] [6 4 2 0]"}; !slices.Equal(got, want) {
		t.Errorf("arms are %q, want %q", got, want)
	}
}

// Case T7, against a real Consul: what is written is reported, and what is deleted is plain
// discovery.
func TestTheRealConsulsChainsAreWatched(t *testing.T) {
	agent := agenttest.Start(t)
	d, err := consul.New(consul.Config{Address: agent.Address, Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	r := watchChain(t, d, "catalog")
	r.await(t, "plain")
	put(t, agent, speaksGRPC)
	put(t, agent, twoVersions)
	r.await(t, "1 v1=100")
	for _, share := range []float64{0, 0.01, 10, 100} {
		put(t, agent, canary(share))
		r.await(t, fmt.Sprintf("1 v1=%v v2=%v", 100-share, share))
	}
	put(t, agent, routed(`{"PrefixRewrite":"/b"}`))
	r.await(t, `the discovery chain of "catalog" has parts that are not supported...`)
	put(t, agent, routed(`{"ServiceSubset":"v2"}`))
	r.await(t, "2 v1=0 v2=100")
	for _, kind := range []string{"service-router", "service-splitter", "service-resolver"} {
		remove(t, agent, kind)
	}
	r.await(t, "plain")
}

// put writes a config entry.
func put(t *testing.T, agent *consulagent.Agent, entry string) {
	t.Helper()
	if _, err := agent.Send(t.Context(), http.MethodPut, "/v1/config", json.RawMessage(entry)); err != nil {
		t.Fatal(err)
	}
}

// remove deletes that of catalog.
func remove(t *testing.T, agent *consulagent.Agent, kind string) {
	t.Helper()
	if _, err := agent.Send(t.Context(), http.MethodDelete, "/v1/config/"+kind+"/catalog", nil); err != nil {
		t.Fatal(err)
	}
}

// The token of a client is enough: what it may discover it may read the chain of.
func TestChainsOfAGuardedConsul(t *testing.T) {
	a := startSecured(t)
	if _, _, err := a.operator(t).ConfigEntries().Set(&api.ServiceResolverConfigEntry{Kind: "service-resolver", Name: "catalog", RequestTimeout: time.Second}, nil); err != nil {
		t.Fatal(err)
	}
	c, err := dial(t, a, consul.Config{Token: a.client}).Chain(t.Context(), "catalog", "")
	if err != nil || c.Routes[0].Arms[0].Timeout != time.Second {
		t.Errorf("%+v, %v", c, err)
	}
	d := dial(t, a, consul.Config{Token: "cccccccc-2222-3333-4444-555555555555"})
	_, err = d.Chain(t.Context(), "catalog", "")
	expect(t, "Chain", err, `service:read on "catalog"`)
	r := watchChain(t, d, "catalog")
	r.await(t, `the discovery chain of "catalog" cannot be read: the token may not read it`)
}

// Case T11: Subset filters are Consul's: what `/v1/health/service?filter=` says, including
// weights and OnlyPassing.
func TestSubsetsAreWhatConsulSays(t *testing.T) {
	agent := agenttest.Start(t)
	put(t, agent, speaksGRPC)
	put(t, agent, `{"Kind":"service-resolver","Name":"catalog","Subsets":{
		"v1":{"Filter":"Service.Meta.version == \"1\""},
		"v2":{"Filter":"Service.Meta.version == \"2\"","OnlyPassing":true},
		"old":{"Filter":"Service.Meta.version != \"2\" and \"slow\" not in Service.Tags"},
		"ok":{"OnlyPassing":true}}}`)
	put(t, agent, `{"Kind":"service-splitter","Name":"catalog","Splits":[{"Weight":40},{"Weight":10,"ServiceSubset":"v1"},{"Weight":20,"ServiceSubset":"v2"},{"Weight":30,"ServiceSubset":"ok"},{"Weight":0,"ServiceSubset":"old"}]}`)
	for i, status := range []string{"passing", "warning", "critical", "passing", "warning", "passing"} {
		for version := 1; version <= 3; version++ {
			if _, err := agent.Send(t.Context(), http.MethodPut, "/v1/agent/service/register", map[string]any{
				"ID": fmt.Sprint("catalog-", version, "-", i), "Name": "catalog", "Address": fmt.Sprintf("10.0.%d.%d", version, i), "Port": 80,
				"Tags": []string{[]string{"slow", "fast"}[i%2]}, "Meta": map[string]string{"version": fmt.Sprint(version)},
				"Weights": map[string]int{"Passing": 10 * version, "Warning": i}, "Check": map[string]any{"TTL": "1h", "Status": status},
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	d, err := consul.New(consul.Config{Address: agent.Address, Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	chain, err := d.Chain(t.Context(), "catalog", "")
	if err != nil || len(chain.Targets) != 5 {
		t.Fatal(chain, err)
	}
	for _, target := range chain.Targets {
		want := weightsOf(t, agent.Address, target)
		r := watch(d, catalog.Query{Service: target.Service, Filter: target.Filter, Warning: !target.OnlyPassing})
		addresses := []string{}
		for address := range want {
			addresses = append(addresses, address)
		}
		s := r.await(t, addresses...)
		r.stop()
		if len(want) < 3 {
			t.Errorf("%v: %d instances prove little", target, len(want))
		}
		for _, i := range s.Instances {
			if int(i.Weight) != want[i.Address] {
				t.Errorf("%v: %s has the weight %d, want %d", target, i.Address, i.Weight, want[i.Address])
			}
		}
	}
}

// weightsOf are the weights that Consul answers for a target, by address.
func weightsOf(t *testing.T, address string, target *route.Target) map[string]int {
	t.Helper()
	entries, _, err := apiOf(t, address, nil).Health().Service(target.Service, "", target.OnlyPassing, &api.QueryOptions{Filter: target.Filter})
	if err != nil {
		t.Fatal(err)
	}
	weights := map[string]int{}
	for _, e := range entries {
		weight := e.Service.Weights.Passing
		switch e.Checks.AggregatedStatus() {
		case api.HealthCritical:
			continue
		case api.HealthWarning:
			weight = e.Service.Weights.Warning
		}
		if weight > 0 {
			weights[fmt.Sprintf("%s:%d", e.Service.Address, e.Service.Port)] = weight
		}
	}
	return weights
}
