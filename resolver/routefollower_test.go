package resolver_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
	"github.com/meshlite-go/meshlite/resolver/route"
)

// followed collects what FollowRoutes reports.
type followed struct {
	mu   sync.Mutex
	all  []routes.Snapshot
	stop func()
}

func (f *followed) take(s routes.Snapshot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, s)
}

// last is the newest report in words: its targets with their instances, and its error.
func (f *followed) last() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.all) == 0 {
		return "nothing"
	}
	s := f.all[len(f.all)-1]
	var words []string
	for _, t := range s.Targets {
		name := strings.TrimSuffix(strings.Replace(t.ID, ".default.default", "", 1), ".dc1")
		var ids []string
		for _, i := range t.Instances {
			ids = append(ids, i.ID)
		}
		slices.Sort(ids)
		words = append(words, fmt.Sprint(name, ids, " of ", t.Known))
	}
	slices.Sort(words)
	if s.Chain == nil && !s.Failed {
		words = append(words, "plain")
	}
	if s.Failed {
		words = append(words, "failed")
	}
	var refused *route.RefusedError
	if errors.As(s.Err, &refused) {
		words = append(words, strings.Join(refused.Parts, ";"))
	}
	return strings.Join(words, ", ")
}

func chained(t *testing.T, agent *consultest.Server) *resolver.Builder {
	t.Helper()
	directory, err := consul.New(consul.Config{Transport: agent.Transport(), Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(directory.Close)
	return resolver.NewBuilder(directory, resolver.WithLogger(silent))
}

func follow(t *testing.T, b *resolver.Builder) *followed {
	f := &followed{}
	f.stop = b.FollowRoutes(catalog.Query{Service: "web"}, f.take)
	t.Cleanup(f.stop)
	return f
}

func (f *followed) want(t *testing.T, want string) {
	t.Helper()
	time.Sleep(3 * time.Second)
	synctest.Wait()
	if got := f.last(); got != want {
		t.Errorf("it reports %s, want %s", got, want)
	}
}

func webs(t *testing.T, agent *consultest.Server, ids ...string) {
	t.Helper()
	for i, id := range ids {
		version, _, _ := strings.Cut(id, "-")
		if err := agent.Register(consultest.Service{ID: id, Name: "web", Address: "10.0.0.1", Port: 8000 + i, Meta: map[string]string{"version": version}}); err != nil {
			t.Fatal(err)
		}
	}
}

func entries(t *testing.T, agent *consultest.Server, all ...string) {
	t.Helper()
	for _, entry := range all {
		if err := agent.WriteConfig(entry); err != nil {
			t.Fatal(err)
		}
	}
}

const (
	speaksHTTP = `{"Kind": "service-defaults", "Name": "web", "Protocol": "http"}`
	versions   = `{"Kind": "service-resolver", "Name": "web", "DefaultSubset": "v1", "Subsets": {
		"v1": {"Filter": "Service.Meta.version == \"v1\""}, "v2": {"Filter": "Service.Meta.version == \"v2\""}}}`
	rewrites = `{"Kind": "service-router", "Name": "web", "Routes": [{"Match": {"HTTP": {"PathPrefix": "/a/"}}, "Destination": {"ServiceSubset": "v2", "PrefixRewrite": "/b/"}}]}`
	idles    = `{"Kind": "service-router", "Name": "web", "Routes": [{"Destination": {"IdleTimeout": "5s"}}]}`
)

// The chain of a service of HTTP is followed with its targets, from plain discovery to plain
// discovery, and one that is refused leaves the last.
func TestChainsOfHTTPAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		webs(t, agent, "v1-1", "v1-2", "v2-1")
		f := follow(t, chained(t, agent))
		defer f.stop()
		f.want(t, "[v1-1 v1-2 v2-1] of 3, plain")
		entries(t, agent, speaksHTTP, versions)
		f.want(t, "v1.web[v1-1 v1-2] of 2")
		entries(t, agent, rewrites)
		f.want(t, "v1.web[v1-1 v1-2] of 2, v2.web[v2-1] of 1")
		if err := agent.SetStatus("v1-2", "critical"); err != nil {
			t.Fatal(err)
		}
		f.want(t, "v1.web[v1-1] of 2, v2.web[v2-1] of 1")
		entries(t, agent, idles)
		f.want(t, "v1.web[v1-1] of 2, v2.web[v2-1] of 1, service-router \"web\" Routes[0]: IdleTimeout 5s: a call is bounded as a whole: write RequestTimeout")
		for _, kind := range []string{"service-router", "service-resolver"} {
			if err := agent.DeleteConfig(kind, "web"); err != nil {
				t.Fatal(err)
			}
		}
		f.want(t, "[v1-1 v2-1] of 3, plain")
	})
}

// Case T7
func TestAFirstChainOfHTTPThatIsRefusedFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		webs(t, agent, "v1-1")
		entries(t, agent, speaksHTTP, idles)
		f := follow(t, chained(t, agent))
		defer f.stop()
		f.want(t, "failed, service-router \"web\" Routes[0]: IdleTimeout 5s: a call is bounded as a whole: write RequestTimeout")
		entries(t, agent, versions, rewrites)
		f.want(t, "v1.web[v1-1] of 1, v2.web[] of 0")
	})
}

// Two readers of a chain share its watch and those of its targets. A chain that Consul does not
// answer for leaves plain discovery.
func TestReadersOfAChainShareItsWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		webs(t, agent, "v1-1", "v2-1")
		entries(t, agent, speaksHTTP, versions, rewrites)
		lift := agent.Inject(consultest.NoLeader().On(consultest.ChainReads))
		b := chained(t, agent)
		one, other := follow(t, b), follow(t, b)
		defer one.stop()
		defer other.stop()
		one.want(t, "[v1-1 v2-1] of 2, plain")
		lift()
		time.Sleep(time.Minute)
		for _, f := range []*followed{one, other} {
			f.want(t, "v1.web[v1-1] of 1, v2.web[v2-1] of 1")
		}
		if stats := b.Stats(); len(stats) != 2 || stats[0].Channels != 2 || stats[1].Channels != 2 {
			t.Errorf("watches are %+v, want two, each for both", stats)
		}
		one.stop()
		other.stop()
		if !b.Idle() {
			t.Error("watches are left open")
		}
	})
}

// A directory without chains is plain discovery.
func TestRoutesOfADirectoryWithoutChains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		agent.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasPrefix(r.URL.Path, "/v1/discovery-chain/") {
				return false
			}
			http.NotFound(w, r)
			return true
		})
		webs(t, agent, "v1-1")
		f := follow(t, chained(t, agent))
		defer f.stop()
		f.want(t, "[v1-1] of 1, plain")
	})
}

// Case T4
func TestChainsOfHTTPReachOtherDatacenters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent, other := consultest.New(), consultest.New(consultest.WithDatacenter("dc2"))
		defer agent.Close()
		defer other.Close()
		if err := agent.Join(other); err != nil {
			t.Fatal(err)
		}
		webs(t, agent, "v1-1", "v1-2")
		webs(t, other, "v1-far")
		entries(t, agent, speaksHTTP, `{"Kind": "service-resolver", "Name": "web", "Failover": {"*": {"Datacenters": ["dc2"]}}}`)
		f := follow(t, chained(t, agent))
		defer f.stop()
		f.want(t, "web.dc2[v1-far] of 1, web[v1-1 v1-2] of 2")
	})
}
