package meshlite_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/internal/explain"
	"github.com/meshlite-go/meshlite/internal/racetest"
	"github.com/meshlite-go/meshlite/meshtest"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// askToExplain posts the action to the admin page of a runtime.
func askToExplain(t *testing.T, runtime *meshlite.Runtime, values url.Values) (explain.Explanation, int, string) {
	t.Helper()
	handler, err := runtime.Handler()
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "/debug/meshlite/"+explain.Action, strings.NewReader(values.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Meshlite-Action", explain.Action)
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r.WithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, &net.UnixAddr{Name: "page", Net: "unix"})))
	var e explain.Explanation
	if w.Code == http.StatusOK {
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
			t.Fatalf("%v in %s", err, w.Body)
		}
	}
	return e, w.Code, w.Body.String()
}

const getSweetMethod = "sweetshop.catalog.v1.CatalogService/GetSweet"

func explanationOf(t *testing.T, runtime *meshlite.Runtime, md ...string) explain.Explanation {
	t.Helper()
	return explainedWith(t, runtime, "", md...)
}

func explainedWith(t *testing.T, runtime *meshlite.Runtime, data string, md ...string) explain.Explanation {
	t.Helper()
	e, code, text := askToExplain(t, runtime, url.Values{"target": {"consul:///catalog"}, "method": {getSweetMethod}, "metadata": md, "data": {data}})
	if code != http.StatusOK {
		t.Fatalf("%d: %s", code, text)
	}
	return e
}

// place is an instance of a situation. Its version is its name.
type place struct {
	version string
	service string // "" is catalog
	set     string // the value of its metadata key "set", which subsets filter by; "" is its version
	zone    string
	weight  uint32
}

// stage is a mesh with the instances of a situation, and one client.
type stage struct {
	*meshtest.Mesh
	t         *testing.T
	instances map[string]*meshtest.Instance // by version
	versions  map[string]string             // by address
	client    catalogv1.CatalogServiceClient
}

// situation is a state of a client, and what its explanation says beside the odds.
type situation struct {
	name    string
	places  []place
	entries []string
	options []meshlite.ClientOption
	target  string
	md      []string // of the call, key:value
	prepare func(*stage)
	route   string   // that matches; "" is plain discovery
	arms    []string // "name share": those of the route
	one     string   // the version that must be named
	few     int      // how many instances have odds; 0 is not checked
	calls   int      // that confirm the odds, 0 is 10,000, or 100 if one is named
}

func some(versions ...string) (all []place) {
	for _, v := range versions {
		all = append(all, place{version: v})
	}
	return all
}

const sets = `{"Kind": "service-resolver", "Name": "catalog", "Subsets": {
	"v1": {"Filter": "Service.Meta.set == 1"}, "v2": {"Filter": "Service.Meta.set == 2"}}%s}`

func resolverWith(fields string) string {
	if fields != "" {
		fields = ", " + fields
	}
	return fmt.Sprintf(sets, fields)
}

func routerOf(routes string) string {
	return fmt.Sprintf(`{"Kind": "service-router", "Name": "catalog", "Routes": [%s]}`, routes)
}

// toV2 is a route to v2 of what a match takes.
func toV2(match string) string {
	return routerOf(fmt.Sprintf(`{"Match": {"HTTP": {%s}}, "Destination": {"ServiceSubset": "v2"}}`, match))
}

var (
	balanced = func(policy string) []meshlite.ClientOption {
		return []meshlite.ClientOption{meshlite.WithBalancer(policy)}
	}
	four    = []place{{version: "1"}, {version: "1b", set: "1"}, {version: "2"}, {version: "2b", set: "2"}}
	weighed = []place{{version: "1", weight: 1}, {version: "2", weight: 2}, {version: "3", weight: 5}}
	zoned   = []place{{version: "1", zone: "a"}, {version: "2", zone: "a"}, {version: "3", zone: "b"}, {version: "4", zone: "b"}}
)

func many(n int) (all []place) {
	for i := range n {
		all = append(all, place{version: fmt.Sprint(i), weight: uint32(1 + i%3)})
	}
	return all
}

// call calls n times.
func (s *stage) call(n int, md ...string) map[string]int {
	return answers(outgoing(s.t.Context(), md), s.client, n)
}

func outgoing(ctx context.Context, pairs []string) context.Context {
	for _, pair := range pairs {
		key, value, _ := strings.Cut(pair, ":")
		ctx = metadata.AppendToOutgoingContext(ctx, key, value)
	}
	return ctx
}

// hold has n calls run at version until the situation is over, and none elsewhere. All handlers
// are slow meanwhile, so that each policy fills all instances.
func (s *stage) hold(version string, n int) {
	s.t.Helper()
	for _, one := range s.instances {
		one.Slow(time.Hour)
	}
	var calls sync.WaitGroup
	var others []context.CancelFunc
	for held, tried := 0, 0; held < n; tried++ {
		if tried == 1000 {
			s.t.Fatalf("%d of %d calls reach %q", held, tried, version)
		}
		ctx, cancel := context.WithCancel(s.t.Context()) // which ends before cleanup
		ctx, record := attempt.FromOrNew(ctx, attempt.Unary)
		calls.Go(func() { _, _ = s.client.GetSweet(ctx, &catalogv1.GetSweetRequest{Id: "held"}) })
		synctest.Wait()
		if at := record.Latest().Picked(); at != nil && at.Address == s.instances[version].Address {
			held++
			s.t.Cleanup(cancel)
		} else {
			others = append(others, cancel)
		}
	}
	s.t.Cleanup(calls.Wait)
	for _, cancel := range others {
		cancel()
	}
	for _, one := range s.instances {
		one.Heal()
	}
	synctest.Wait()
}

var situations = []situation{
	{name: "plain discovery", places: some("1", "2", "3"), few: 3},
	{name: "one instance", places: some("1"), one: "1"},
	{name: "weights", places: weighed},
	{name: "weights in turn", places: weighed, options: balanced("round_robin")},
	{name: "weights by chance", places: weighed, options: balanced("random")},
	{name: "latency of equals", places: some("1", "2", "3"), options: balanced("peak_ewma"), calls: 2000},
	{name: "many instances", places: many(20)},
	{name: "many instances by latency", places: many(20), options: balanced("peak_ewma"), prepare: func(s *stage) { s.call(200) }, calls: 2000},
	{name: "a key of the policy", places: some("1", "2", "3"), target: "consul:///catalog", md: []string{"x-user:ann"}, options: []meshlite.ClientOption{
		meshlite.WithServiceConfig(`{"loadBalancingConfig": [{"meshlite_hash": {"metadataKey": "x-user"}}]}`)}, one: "*"},
	{name: "no key of the policy", places: weighed, options: []meshlite.ClientOption{
		meshlite.WithServiceConfig(`{"loadBalancingConfig": [{"meshlite_hash": {"metadataKey": "x-user"}}]}`)}},
	{name: "a policy in the target", places: weighed, target: "consul:///catalog?policy=round_robin"},
	{name: "an ejected instance", few: 2, places: some("1", "2", "3"), prepare: func(s *stage) {
		s.instances["2"].Fail(codes.Internal)
		s.call(60)
	}},
	{name: "the last one, which is not ejected", one: "*", places: some("1", "2"), prepare: func(s *stage) {
		s.instances["1"].Fail(codes.Internal)
		s.instances["2"].Fail(codes.Internal)
		s.call(60)
		s.instances["1"].Heal()
		s.instances["2"].Heal()
	}},
	{name: "a killed instance", few: 2, places: some("1", "2", "3"), prepare: func(s *stage) {
		s.instances["3"].Kill()
		synctest.Wait()
		time.Sleep(time.Second)
	}},
	{name: "the last one that runs", places: some("1", "2"), prepare: func(s *stage) {
		s.instances["2"].Kill()
		synctest.Wait()
		time.Sleep(time.Second)
	}, one: "1"},
	{name: "one that left", places: some("1", "2"), prepare: func(s *stage) {
		s.instances["1"].Leave()
		time.Sleep(time.Second)
	}, one: "2"},
	{name: "its own zone", few: 2, places: zoned, options: []meshlite.ClientOption{meshlite.WithLocality("r", "a")}},
	{name: "a zone with too little", few: 6, places: append([]place{{version: "5", zone: "b"}, {version: "6", zone: "b"}}, zoned...), options: []meshlite.ClientOption{meshlite.WithLocality("r", "a")}},
	{name: "a zone of nobody", few: 4, places: zoned, options: []meshlite.ClientOption{meshlite.WithLocality("r", "c")}},
	{name: "one with calls in flight", few: 2, places: some("1", "2", "3"), prepare: func(s *stage) { s.hold("2", 3) }},
	{name: "all but one with calls in flight", places: some("1", "2"), prepare: func(s *stage) { s.hold("1", 1) }, one: "2"},
	{name: "weights with calls in flight", few: 2, places: weighed, prepare: func(s *stage) { s.hold("3", 1) }},

	{name: "a protocol alone", places: some("1", "2"), entries: []string{speaksGRPC}},
	{name: "a split", places: four, entries: []string{speaksGRPC, resolverWith(""), split(90, 10)}, route: "default", arms: []string{"v1 90", "v2 10"}},
	{name: "a split of nothing", places: four, entries: []string{speaksGRPC, resolverWith(""), split(0, 100)}, route: "default", arms: []string{"v1 0", "v2 100"}},
	{name: "halves, in turn", places: four, entries: []string{speaksGRPC, resolverWith(""), split(50, 50)}, options: balanced("round_robin"), route: "default", arms: []string{"v1 50", "v2 50"}},
	{name: "halves of unequal arms", places: append([]place{{version: "2c", set: "2"}}, four...), entries: []string{speaksGRPC, resolverWith(""), split(50, 50)}, route: "default", arms: []string{"v1 50", "v2 50"}},
	{name: "an empty arm", places: some("1"), entries: []string{speaksGRPC, resolverWith(""), split(90, 10)}, route: "default", arms: []string{"v1 100", "v2 0"}, one: "1"},
	{name: "an arm that dies", places: some("1", "2"), entries: []string{speaksGRPC, resolverWith(""), split(50, 50)}, prepare: func(s *stage) {
		s.instances["1"].Kill()
		time.Sleep(30 * time.Second)
	}, route: "default", arms: []string{"v1 0", "v2 100"}, one: "2"},
	{name: "a subset by default", places: some("1", "2"), entries: []string{speaksGRPC, resolverWith(`"DefaultSubset": "v2"`)}, route: "default", arms: []string{"v2 100"}, one: "2"},
	{name: "an exact path", places: some("1", "2"), entries: []string{speaksGRPC, resolverWith(`"DefaultSubset": "v1"`), toV2(`"PathExact": "/` + getSweetMethod + `"`)}, route: "route 1", one: "2"},
	{name: "another exact path", places: some("1", "2"), entries: []string{speaksGRPC, resolverWith(`"DefaultSubset": "v1"`), toV2(`"PathExact": "/sweetshop.catalog.v1.CatalogService/ListSections"`)}, route: "default", one: "1"},
	{name: "a prefix", places: some("1", "2"), entries: []string{speaksGRPC, resolverWith(`"DefaultSubset": "v1"`), toV2(`"PathPrefix": "/sweetshop.catalog."`)}, route: "route 1", one: "2"},
	{name: "a regex", places: some("1", "2"), entries: []string{speaksGRPC, resolverWith(`"DefaultSubset": "v1"`), toV2(`"PathRegex": "/.*/Get.*"`)}, route: "route 1", one: "2"},
	{name: "a header", places: some("1", "2"), entries: []string{speaksGRPC, resolverWith(`"DefaultSubset": "v1"`), toV2(`"Header": [{"Name": "x-canary", "Exact": "yes"}]`)}, md: []string{"x-canary:yes"}, route: "route 1", one: "2"},
	{name: "no header", places: some("1", "2"), entries: []string{speaksGRPC, resolverWith(`"DefaultSubset": "v1"`), toV2(`"Header": [{"Name": "x-canary", "Exact": "yes"}]`)}, route: "default", one: "1"},
	{name: "another header", places: some("1", "2"), entries: []string{speaksGRPC, resolverWith(`"DefaultSubset": "v1"`), toV2(`"Header": [{"Name": "x-canary", "Exact": "yes"}]`)}, md: []string{"x-canary:no"}, route: "default", one: "1"},
	{name: "a header by presence", places: some("1", "2"), entries: []string{speaksGRPC, resolverWith(`"DefaultSubset": "v1"`), toV2(`"Header": [{"Name": "x-canary", "Present": true}]`)}, md: []string{"x-canary:"}, route: "route 1", one: "2"},
	{name: "a header by prefix", places: some("1", "2"), entries: []string{speaksGRPC, resolverWith(`"DefaultSubset": "v1"`), toV2(`"Header": [{"Name": "x-user", "Prefix": "a"}]`)}, md: []string{"x-user:ann"}, route: "route 1", one: "2"},
	{name: "a header inverted", places: some("1", "2"), entries: []string{speaksGRPC, resolverWith(`"DefaultSubset": "v1"`), toV2(`"Header": [{"Name": "x-user", "Exact": "bob", "Invert": true}]`)}, md: []string{"x-user:ann"}, route: "route 1", one: "2"},
	{name: "of two routes the first", places: some("1", "2"), entries: []string{speaksGRPC, resolverWith(""), routerOf(`
		{"Match": {"HTTP": {"PathPrefix": "/"}}, "Destination": {"ServiceSubset": "v2"}}, {"Match": {"HTTP": {"PathPrefix": "/sweetshop"}}, "Destination": {"ServiceSubset": "v1"}}`)}, route: "route 1", one: "2"},
	{name: "of two routes the second", places: some("1", "2"), entries: []string{speaksGRPC, resolverWith(""), routerOf(`
		{"Match": {"HTTP": {"PathPrefix": "/other"}}, "Destination": {"ServiceSubset": "v1"}}, {"Match": {"HTTP": {"PathPrefix": "/sweetshop"}}, "Destination": {"ServiceSubset": "v2"}}`)}, route: "route 2", one: "2"},
	{name: "a route past the splitter", places: four, entries: []string{speaksGRPC, resolverWith(""), split(100, 0), toV2(`"Header": [{"Name": "x-canary", "Present": true}]`)}, md: []string{"x-canary:1"}, route: "route 1", arms: []string{"v2 100"}},
	{name: "a redirect", places: []place{{version: "1"}, {version: "9", service: "pantry"}}, entries: []string{speaksGRPC, `{"Kind": "service-defaults", "Name": "pantry", "Protocol": "grpc"}`,
		`{"Kind": "service-resolver", "Name": "catalog", "Redirect": {"Service": "pantry"}}`}, route: "default", one: "9"},
	{name: "failover of all", places: []place{{version: "9", service: "pantry"}}, entries: []string{speaksGRPC, `{"Kind": "service-defaults", "Name": "pantry", "Protocol": "grpc"}`,
		`{"Kind": "service-resolver", "Name": "catalog", "Failover": {"*": {"Service": "pantry"}}}`}, route: "default", one: "9"},
	{name: "failover that is not needed", places: []place{{version: "1"}, {version: "9", service: "pantry"}}, entries: []string{speaksGRPC, `{"Kind": "service-defaults", "Name": "pantry", "Protocol": "grpc"}`,
		`{"Kind": "service-resolver", "Name": "catalog", "Failover": {"*": {"Service": "pantry"}}}`}, route: "default", one: "1"},
	{name: "failover in proportion", few: 2, places: []place{{version: "1"}, {version: "2"}, {version: "3"}, {version: "4"}, {version: "5"}, {version: "9", service: "pantry"}},
		entries: []string{speaksGRPC, `{"Kind": "service-defaults", "Name": "pantry", "Protocol": "grpc"}`,
			`{"Kind": "service-resolver", "Name": "catalog", "Failover": {"*": {"Service": "pantry"}}}`},
		prepare: func(s *stage) {
			for _, version := range []string{"1", "2", "3", "4"} {
				s.instances[version].Kill()
			}
			time.Sleep(10 * time.Second)
		}, route: "default"},
	{name: "failover between subsets", places: some("2"), entries: []string{speaksGRPC, resolverWith(`"DefaultSubset": "v1", "Failover": {"v1": {"ServiceSubset": "v2"}}`)}, route: "default", one: "2"},
	{name: "a sticky arm", few: 2, places: four, entries: []string{stickyByUser, resolverWith(""), split(50, 50)}, md: []string{"x-user:ann"}, route: "default", calls: 2000},
	{name: "another sticky arm", places: some("1", "2"), entries: []string{stickyByUser, resolverWith(""), split(50, 50)}, md: []string{"x-user:bob"}, route: "default", one: "*"},
	{name: "a sticky split without a key", places: four, entries: []string{stickyByUser, resolverWith(""), split(30, 70)}, route: "default", arms: []string{"v1 30", "v2 70"}},
	{name: "a policy of the resolver", places: weighed, entries: []string{speaksGRPC, `{"Kind": "service-resolver", "Name": "catalog", "LoadBalancer": {"Policy": "round_robin"}}`}, route: "default"},
	{name: "a hash of the resolver", places: weighed, entries: []string{speaksGRPC, `{"Kind": "service-resolver", "Name": "catalog", "LoadBalancer": {"Policy": "maglev", "HashPolicies": [{"Field": "header", "FieldValue": "x-user"}]}}`}, md: []string{"x-user:ann"}, route: "default", one: "*"},
	{name: "an ejected instance of an arm", few: 4, places: append([]place{{version: "1c", set: "1"}}, four...), entries: []string{speaksGRPC, resolverWith(""), split(70, 30)}, prepare: func(s *stage) {
		s.instances["1"].Fail(codes.Internal)
		s.call(200)
	}, route: "default"},
	{name: "an arm with calls in flight", few: 3, places: four, entries: []string{speaksGRPC, resolverWith(""), split(50, 50)}, prepare: func(s *stage) { s.hold("1", 2) }, route: "default", arms: []string{"v1 50", "v2 50"}},
	{name: "after a chain was deleted", places: some("1", "2"), entries: []string{speaksGRPC, resolverWith(`"DefaultSubset": "v2"`)}, prepare: func(s *stage) {
		s.call(10)
		for _, kind := range []string{"service-resolver", "service-defaults"} {
			if err := s.Agent.DeleteConfig(kind, "catalog"); err != nil {
				s.t.Error(err)
			}
		}
		time.Sleep(10 * time.Second)
	}},
	{name: "after a split was shifted", places: some("1", "2"), entries: []string{speaksGRPC, resolverWith(""), split(90, 10)}, prepare: func(s *stage) {
		s.call(10)
		configure(s.t, s.Mesh, split(20, 80))
		time.Sleep(10 * time.Second)
	}, route: "default", arms: []string{"v1 20", "v2 80"}},
}

const stickyByUser = `{"Kind": "service-defaults", "Name": "catalog", "Protocol": "grpc", "Meta": {"meshlite-sticky": "x-user"}}`

// region is that of a zone.
func region(zone string) string {
	if zone == "" {
		return ""
	}
	return "r"
}

// newStage starts what a situation has, and connects its client.
func newStage(t *testing.T, situation *situation) *stage {
	t.Helper()
	s := &stage{Mesh: meshtest.New(t), t: t, instances: map[string]*meshtest.Instance{}, versions: map[string]string{}}
	for _, p := range situation.places {
		service, set := cmp.Or(p.service, "catalog"), cmp.Or(p.set, p.version)
		v := &versioned{version: p.version}
		registration := catalog.Registration{Instance: catalog.Instance{Service: service, Metadata: map[string]string{"set": set}, Weight: p.weight}}
		instance := s.Serve(service, v.register, meshlite.WithRegistration(registration), meshlite.WithLocality(region(p.zone), p.zone))
		s.instances[p.version], s.versions[instance.Address] = instance, p.version
	}
	configure(t, s.Mesh, situation.entries...)
	target := cmp.Or(situation.target, "consul:///catalog")
	s.client = catalogv1.NewCatalogServiceClient(s.Client(target, append([]meshlite.ClientOption{uncachedCalls()}, situation.options...)...))
	if _, err := s.client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{}); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	time.Sleep(2 * time.Second) // all are connected
	return s
}

// oddsOf are the odds of the versions.
func (s *stage) oddsOf(e explain.Explanation) map[string]float64 {
	odds := map[string]float64{}
	for _, arm := range e.Routing.Arms {
		for _, target := range arm.Targets {
			if target.Outlook == nil {
				continue
			}
			for _, one := range target.Outlook.Endpoints {
				if part := target.Share / 100 * one.Odds; part > 0 {
					odds[s.versions[one.Address]] += part
				}
			}
		}
	}
	return odds
}

// chiSquareLimit is the value that chi-square exceeds with a probability of 1 in 10,000 (Wilson and
// Hilferty's approximation).
func chiSquareLimit(degrees int) float64 {
	k := float64(degrees)
	return k * math.Pow(1-2/(9*k)+3.719*math.Sqrt(2/(9*k)), 3)
}

// Case T15: `explain` names the instance, or odds that 10,000 calls confirm (chi-square).
func TestAnExplanationIsWhatThenHappens(t *testing.T) {
	racetest.Skip(t)
	for i := range situations {
		situation := &situations[i]
		t.Run(situation.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, situation)
				if situation.prepare != nil {
					situation.prepare(s)
				}
				e := explanationOf(t, s.Runtime, situation.md...)
				situation.check(t, e)
				odds := s.oddsOf(e)
				sum := 0.0
				for _, part := range odds {
					sum += part
				}
				if math.Abs(sum-1) > 1e-6 || e.Routing.Fails || e.Routing.Idle {
					t.Fatalf("the odds %v have a sum of %g, want 1: %+v", odds, sum, e.Routing)
				}
				if situation.few > 0 && len(odds) != situation.few {
					t.Errorf("the odds are %v, want those of %d instances", odds, situation.few)
				}
				calls := situation.calls
				switch {
				case situation.one != "":
					if len(odds) != 1 || situation.one != "*" && odds[situation.one] == 0 {
						t.Fatalf("the odds are %v, want one instance: %s", odds, situation.one)
					}
					calls = 100
				case calls == 0:
					calls = 10_000
				}
				if testing.Short() {
					calls = min(calls, 500)
				}
				confirm(t, odds, s.call(calls, situation.md...), calls)
			})
		})
	}
}

// check checks the route that matches, and the shares of its arms.
func (s *situation) check(t *testing.T, e explain.Explanation) {
	t.Helper()
	matched := ""
	for _, route := range e.Routing.Routes {
		if route.Matches {
			matched = route.Name
		} else if route.Reason == "" {
			t.Errorf("route %q does not match, and nothing says why", route.Name)
		}
	}
	if matched != s.route {
		t.Errorf("route %q matches, want %q: %+v", matched, s.route, e.Routing.Routes)
	}
	var arms []string
	for _, arm := range e.Routing.Arms {
		arms = append(arms, fmt.Sprintf("%s %.4g", arm.Name, arm.Share))
	}
	if len(s.arms) > 0 && strings.Join(arms, ", ") != strings.Join(s.arms, ", ") {
		t.Errorf("the shares are %v, want %v", arms, s.arms)
	}
}

// confirm compares what n calls got with odds.
func confirm(t *testing.T, odds map[string]float64, got map[string]int, n int) {
	t.Helper()
	chi := 0.0
	for version, part := range odds {
		expected := part * float64(n)
		chi += (float64(got[version]) - expected) * (float64(got[version]) - expected) / expected
	}
	for version, calls := range got {
		if odds[version] == 0 {
			t.Errorf("%d of %d calls end with %q, whose odds are 0: %v", calls, n, version, odds)
		}
	}
	if limit := chiSquareLimit(max(len(odds)-1, 1)); chi > limit {
		t.Errorf("%d calls end with %v, and the odds are %v: chi-square is %.1f, above %.1f", n, got, odds, chi, limit)
	}
}

func TestAnExplanationHasThePolicyWithItsLayers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := meshtest.New(t)
		serveVersion(mesh, "catalog", "1")
		timeout, limit, attempts := "2s", uint64(5), uint32(4)
		client := catalogv1.NewCatalogServiceClient(mesh.Client("catalog", meshlite.WithPolicy(&policyv1.ServicePolicy{
			Default: &policyv1.MethodPolicy{Timeout: &timeout},
			Methods: map[string]*policyv1.MethodPolicy{"GetSweet": {
				Retry:      &policyv1.RetryRule{MaxAttempts: &attempts},
				RateLimits: []*policyv1.RateLimitRule{{Name: "mine", Limit: &limit, Side: policyv1.Side_SIDE_CLIENT}},
			}},
		})))
		configure(t, mesh, speaksGRPC, `{"Kind": "service-router", "Name": "catalog", "Routes": [{"Match": {"HTTP": {"PathPrefix": "/"}},
			"Destination": {"RequestTimeout": "1s", "NumRetries": 6, "RetryOnConnectFailure": true}}]}`)
		call := func(id string) {
			t.Helper()
			if _, err := client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: id}); err != nil {
				t.Fatal(err)
			}
		}
		call("fudge")
		e := explainedWith(t, mesh.Runtime, `{"id": "fudge"}`)
		layers := map[string]string{}
		for _, f := range e.Policy {
			layers[f.Field] = fmt.Sprintf("%s by %s %s", f.Value, f.Layer, f.Of)
		}
		for field, want := range map[string]string{
			"timeout": "2s by program default", "retry.max_attempts": "4 by program GetSweet", "rate_limits[mine].limit": "5 by program GetSweet",
			"cache.ttl": "2s by contract default", "cache.scope": "CACHE_SCOPE_PUBLIC by contract default",
		} {
			if layers[field] != want {
				t.Errorf("%s is %q, want %q", field, layers[field], want)
			}
		}
		if e.Timeout != 2000 || len(e.Routing.Arms) != 1 || e.Routing.Arms[0].Timeout != 1000 {
			t.Errorf("the timeouts are %v and %+v", e.Timeout, e.Routing.Arms)
		}
		if r := e.Retry; r.Attempts != 7 || !r.OnConnectFailure || strings.Join(r.Codes, " ") != "Unavailable" || r.Left <= 0 || r.Why != "" {
			t.Errorf("the retries are %+v", r)
		}
		if l := e.Limits; len(l) != 1 || l[0].Remaining != 4 || l[0].Refused || l[0].Counted != "here" {
			t.Errorf("the limits are %+v", l)
		}
		for _, id := range []string{"toffee", "nougat", "humbug", "fondant"} { // none of them is cached
			call(id)
		}
		if l := explainedWith(t, mesh.Runtime, "").Limits; len(l) != 1 || l[0].Remaining != 0 || !l[0].Refused || l[0].RetryAfter != 200 {
			t.Errorf("when all are used, the limits are %+v", l)
		}
	})
}

func TestAnExplanationHasWhatTheCacheHas(t *testing.T) {
	racetest.Skip(t)
	synctest.Test(t, func(t *testing.T) {
		mesh := meshtest.New(t)
		one, _ := serveVersion(mesh, "catalog", "1")
		client := catalogv1.NewCatalogServiceClient(mesh.Client("catalog"))
		call := func() {
			t.Helper()
			if _, err := client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "fudge"}); err != nil {
				t.Fatal(err)
			}
		}
		state := func(want string, age float64) {
			t.Helper()
			before := one.calls.Load()
			all := explainedWith(t, mesh.Runtime, `{"id": "fudge"}`).Cache
			if len(all) != 1 || all[0].State != want || all[0].Age != age {
				t.Errorf("the cache has %+v, want %s, %v ms old", all, want, age)
			}
			served := want == "fresh"
			call()
			if called := one.calls.Load() > before; called == served {
				t.Errorf("%s, and the call has reached the server: %v", want, called)
			}
		}
		state("absent", 0)
		time.Sleep(500 * time.Millisecond)
		state("fresh", 500)
		if all := explainedWith(t, mesh.Runtime, `{"id": "other"}`).Cache; len(all) != 1 || all[0].State != "absent" {
			t.Errorf("of another request the cache has %+v", all)
		}
		time.Sleep(time.Hour)
		state("expired", float64(time.Hour+500*time.Millisecond)/float64(time.Millisecond))
		if c := explanationOf(t, mesh.Runtime).Contract; c.Kind != "unary" || !c.Cacheable || !c.Known {
			t.Errorf("the contract is %+v", c)
		}
	})
}
