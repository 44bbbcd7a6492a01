package consul_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/internal/consulagent"
	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
	"github.com/meshlite-go/meshlite/resolver/route"
)

// traffic counts what an agent is sent.
type traffic struct {
	mu         sync.Mutex
	open, most int
	chains     []string       // services whose chains were read without blocking
	sent       map[string]int // by path
	change     func(w http.ResponseWriter, r *http.Request) bool
}

func countTraffic(agent *consultest.Server) *traffic {
	c := &traffic{sent: map[string]int{}}
	agent.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		change := c.begin(r)
		defer c.end()
		if change == nil || !change(w, r) {
			agent.ServeHTTP(w, r)
		}
		return true
	})
	return c
}

func (c *traffic) begin(r *http.Request) (change func(http.ResponseWriter, *http.Request) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open++
	c.most = max(c.most, c.open)
	c.sent[r.URL.Path]++
	if service, ok := strings.CutPrefix(r.URL.Path, "/v1/discovery-chain/"); ok && r.URL.Query().Get("index") == "" {
		c.chains = append(c.chains, service)
	}
	return c.change
}

func (c *traffic) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open--
}

// intercept answers requests by change from now on, those that it does not want excepted.
func (c *traffic) intercept(change func(w http.ResponseWriter, r *http.Request) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.change = change
}

// read returns the services whose chains were read since the last time.
func (c *traffic) read() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	read := c.chains
	c.chains = nil
	return read
}

func (c *traffic) total(prefix string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for path, sent := range c.sent {
		if strings.HasPrefix(path, prefix) {
			n += sent
		}
	}
	return n
}

// mostSince is how many were open at one time since it was last called.
func (c *traffic) mostSince() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	most := c.most
	c.most = c.open
	return most
}

func grpcOf(service string) string {
	return fmt.Sprintf(`{"Kind":"service-defaults","Name":%q,"Protocol":"grpc"}`, service)
}

func redirected(service, to string) string {
	return fmt.Sprintf(`{"Kind":"service-resolver","Name":%q,"Redirect":{"Service":%q}}`, service, to)
}

func timeout(service, seconds string) string {
	return fmt.Sprintf(`{"Kind":"service-resolver","Name":%q,"RequestTimeout":%q}`, service, seconds)
}

// severalServices have chains that share queries, and instances that need not take turns.
const severalServices = 45

// watchManyChains watches n services and their chains until the test ends.
func watchManyChains(t *testing.T, agent *consultest.Server, d *consul.Directory, n int) (chains []*reportLines, instances []*reports) {
	t.Helper()
	for i := range n {
		name := serviceName(i)
		registerNamed(t, agent, name, 1)
		configure(t, agent, grpcOf(name))
		chains = append(chains, watchChain(t, d, name))
		r := watch(d, catalog.Query{Service: name})
		t.Cleanup(r.stop)
		instances = append(instances, r)
	}
	return chains, instances
}

// With 300 services, 600 watches, a chain is read at once after a change of an entry that it is
// compiled of, however far away, and no other chain is, with 60 queries in the air.
//
// Case T6
func TestChainsOfManyServicesFollowAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		counted := countTraffic(agent)
		d := newDirectory(t, agent, consul.Config{})
		for _, name := range []string{serviceName(7), "middle", "far", "elsewhere"} {
			configure(t, agent, grpcOf(name))
		}
		configure(t, agent, redirected("middle", "far"), redirected(serviceName(7), "middle"))
		chains, _ := watchManyChains(t, agent, d, manyWatches)
		time.Sleep(time.Minute)
		counted.read()
		for _, step := range []struct {
			write  string
			reader int
		}{
			{timeout(serviceName(3), "3s"), 3},
			{timeout(serviceName(4), "3s"), 4},
			{timeout(serviceName(3), "4s"), 3},
			{timeout("far", "5s"), 7},
			{redirected("middle", "elsewhere"), 7},
			{timeout("elsewhere", "6s"), 7}, // which is reached only now
		} {
			time.Sleep(10 * time.Second)
			counted.read()
			configure(t, agent, step.write)
			synctest.Wait()
			if got, want := counted.read(), []string{serviceName(step.reader)}; !slices.Equal(got, want) {
				t.Errorf("%s: the chains of %q are read at once, want those of %q", step.write, got, want)
			}
		}
		chains[7].wantLast(t, "1 elsewhere=100")
		if most := counted.mostSince(); most > 60 {
			t.Errorf("%d queries in the air, want 60 at most", most)
		}
	})
}

// A change that concerns all chains reads all of them, and one that is taken back is followed, too.
//
// Case T6
func TestAChangeOfAllChainsReadsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		counted := countTraffic(agent)
		watchManyChains(t, agent, newDirectory(t, agent, consul.Config{}), manyWatches)
		time.Sleep(time.Minute)
		for _, change := range []func() error{
			func() error {
				return agent.WriteConfig(`{"Kind":"proxy-defaults","Name":"global","Config":{"protocol":"http"}}`)
			},
			func() error { return agent.DeleteConfig("proxy-defaults", "global") },
		} {
			time.Sleep(time.Minute)
			counted.read()
			if err := change(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if read := len(counted.read()); read < manyWatches || read > manyWatches+20 {
				t.Errorf("%d chains are read within a second, want all %d", read, manyWatches)
			}
		}
		before := counted.total("")
		time.Sleep(time.Minute)
		if perSecond := float64(counted.total("")-before) / 60; perSecond > 70 {
			t.Errorf("%.0f queries a second while nothing changes, want 52 in turns and 5 to 10 for chains", perSecond)
		}
	})
}

// Entries that a token cannot list, or an agent does not: each chain is read every ten seconds.
//
// Case T6
func TestChainsAreFollowedWithoutTheListOfEntries(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter){
		"hidden by ACLs": func(w http.ResponseWriter) {
			w.Header().Set("X-Consul-Index", "9")
			w.Header().Set("X-Consul-LastContact", "0")
			w.Header().Set("X-Consul-KnownLeader", "true")
			w.Header().Set("X-Consul-Results-Filtered-By-ACLs", "true")
			time.Sleep(time.Second) // for a query that blocks
			_, _ = w.Write([]byte("[]"))
		},
		"an error":    func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) },
		"not a list":  func(w http.ResponseWriter) { _, _ = w.Write([]byte(`{"Name":"catalog"}`)) },
		"wrong types": func(w http.ResponseWriter) { _, _ = w.Write([]byte(`[{"Name":7}]`)) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				agent := consultest.New()
				defer agent.Close()
				counted := countTraffic(agent)
				counted.intercept(func(w http.ResponseWriter, r *http.Request) bool {
					listed := strings.HasPrefix(r.URL.Path, "/v1/config/") && r.Method == http.MethodGet
					if listed {
						answer(w)
					}
					return listed
				})
				chains, _ := watchManyChains(t, agent, newDirectory(t, agent, consul.Config{}), severalServices)
				time.Sleep(time.Minute)
				for i := 0; i < severalServices; i += 5 {
					configure(t, agent, grpcOf("elsewhere"), redirected(serviceName(i), "elsewhere"))
				}
				time.Sleep(11 * time.Second)
				for i := 0; i < severalServices; i += 5 {
					chains[i].wantLast(t, "1 elsewhere=100")
				}
				before := counted.total("")
				time.Sleep(time.Minute)
				if perSecond := float64(counted.total("")-before) / 60; perSecond > 10 {
					t.Errorf("%.0f queries a second, want one in 5 s to 10 s for each of %d chains, and few others", perSecond, severalServices)
				}
			})
		})
	}
}

// Chains have queries of their own again when fewer are watched, and the lists end.
//
// Case R12
func TestManyChainsComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		counted := countTraffic(agent)
		d := newDirectory(t, agent, consul.Config{})
		few, _ := watchManyChains(t, agent, d, 25)
		time.Sleep(5 * time.Minute)
		if n := counted.total("/v1/config/"); n != 0 {
			t.Errorf("%d lists are read for 50 watches", n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var more sync.WaitGroup
		for i := 25; i < 60; i++ {
			more.Go(func() { d.WatchChain(ctx, serviceName(i), "", func(*route.Chain, error) {}) })
		}
		time.Sleep(5 * time.Minute)
		if n := counted.total("/v1/config/"); n < 5 || n > 35 {
			t.Errorf("%d lists are read for 85 watches in five minutes, want some five a minute", n)
		}
		cancel()
		more.Wait()
		time.Sleep(2 * time.Minute)
		lists, chains := counted.total("/v1/config/"), counted.total("/v1/discovery-chain/")
		configure(t, agent, timeout(serviceName(3), "3s"), redirected(serviceName(4), serviceName(5)))
		synctest.Wait()
		few[4].wantLast(t, "1 service-5=100")
		time.Sleep(10 * time.Minute)
		lists, chains = counted.total("/v1/config/")-lists, counted.total("/v1/discovery-chain/")-chains
		if lists != 0 || chains > 25*11 {
			t.Errorf("%d lists and %d chains are read in ten minutes for 50 watches, want none and one a minute each", lists, chains)
		}
	})
}

// After an agent has restarted empty, with the indexes that it had before, all chains are read.
//
// Case G1
func TestManyChainsFollowAnAgentThatRestartsEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		chains, _ := watchManyChains(t, agent, newDirectory(t, agent, consul.Config{}), severalServices)
		configure(t, agent, redirected(serviceName(9), serviceName(8)))
		time.Sleep(time.Minute)
		agent.Restart()
		time.Sleep(time.Minute)
		chains[9].wantLast(t, "plain")
	})
}

// The first query of a watch does not wait for the turns of 300 others.
//
// Case R12
func TestAFirstQueryGoesAheadOfTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		d := newDirectory(t, agent, consul.Config{})
		for _, r := range watchMany(t, agent, d) {
			defer r.stop()
		}
		time.Sleep(time.Minute)
		registerNamed(t, agent, "late", 1)
		late := watch(d, catalog.Query{Service: "late"})
		defer late.stop()
		synctest.Wait()
		if s, n := late.last(); n != 1 || len(s.Instances) != 1 {
			t.Errorf("%d reports at once, the last one of %v", n, addressesOf(s))
		}
	})
}

// speaking is a transport whose answers are of a version of HTTP.
type speaking struct {
	http.RoundTripper
	major *atomic.Int64
}

func (s speaking) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := s.RoundTripper.RoundTrip(r)
	if err == nil {
		response.ProtoMajor = int(s.major.Load())
	}
	return response, err
}

// By HTTP/2, which an agent speaks over TLS, 600 watches take no turns: streams are not
// connections. They do when that changes.
//
// Case R12
func TestStreamsTakeNoTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		counted := countTraffic(agent)
		var version atomic.Int64
		version.Store(2)
		d, err := consul.New(consul.Config{Address: "127.0.0.1:8500", Transport: speaking{agent.Transport(), &version}, Logger: silent})
		if err != nil {
			t.Fatal(err)
		}
		_, instances := watchManyChains(t, agent, d, manyWatches)
		time.Sleep(time.Minute)
		for i := 0; i < manyWatches; i += 70 {
			registerNamed(t, agent, serviceName(i), 2)
			synctest.Wait()
			if s, _ := instances[i].last(); len(s.Instances) != 2 {
				t.Fatalf("%s has %v at once", serviceName(i), addressesOf(s))
			}
		}
		before := counted.total("")
		time.Sleep(time.Minute)
		if n := counted.total("") - before; n > 3*manyWatches {
			t.Errorf("%d queries in a minute, want one for each watch, or two for each chain: %d", n, 3*manyWatches)
		}
		version.Store(1)
		time.Sleep(2 * time.Minute) // until all queries have ended
		counted.mostSince()
		time.Sleep(20 * time.Second)
		if most := counted.mostSince(); most > 60 {
			t.Errorf("%d queries in the air by HTTP/1.1, want 60 at most", most)
		}
	})
}

// Seventy chains of a real Consul are followed by the lists of entries: within less than the
// half minute in which a chain is due without a change.
//
// Case T6
func TestChainsShareTheListsOfARealConsul(t *testing.T) {
	agent := agenttest.Start(t)
	d, err := consul.New(consul.Config{Address: agent.Address, Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	chains := realChains(t, agent, d)
	inCapitals := watchChain(t, d, "SERVICE-6")
	inCapitals.await(t, "plain")
	put(t, agent, redirected(serviceName(6), "far"))
	inCapitals.await(t, "1 far=100")
	put(t, agent, redirected(serviceName(3), "middle"))
	chains[3].await(t, "1 middle=100")
	put(t, agent, redirected("middle", "far"))
	chains[3].await(t, "1 far=100")
	put(t, agent, `{"Kind":"service-router","Name":"service-4","Routes":[{"Match":{"HTTP":{"PathPrefix":"/a"}},"Destination":{"Service":"far"}}]}`)
	chains[4].await(t, "2 service-4=100")
	put(t, agent, `{"Kind":"service-splitter","Name":"service-4","Splits":[{"Weight":75},{"Weight":25,"Service":"far"}]}`)
	chains[4].await(t, "2 service-4=75 far=25")
	for _, kind := range []string{"service-splitter", "service-router"} {
		if _, err := agent.Send(t.Context(), http.MethodDelete, "/v1/config/"+kind+"/service-4", nil); err != nil {
			t.Fatal(err)
		}
	}
	chains[4].await(t, "plain")
	put(t, agent, `{"Kind":"service-resolver","Name":"service-5","Redirect":{"Service":"far","Datacenter":"dc2"}}`)
	chains[5].await(t, "1 far...")
	put(t, agent, `{"Kind":"proxy-defaults","Name":"global","MeshGateway":{"Mode":"local"}}`)
	chains[5].await(t, `the discovery chain of "service-5" has parts that are not supported...`)
}

// Entries that its token cannot list do not stop a chain of a real Consul from being followed.
//
// Case T6
func TestChainsAreFollowedPastTheRightsOfATokenOfARealConsul(t *testing.T) {
	agent := agenttest.StartSecured(t)
	const token = "22222222-2222-3333-4444-555555555555"
	agent.Token("few", token, `service_prefix "service-" { policy = "read" }`)
	d, err := consul.New(consul.Config{Address: "https://" + agent.Address, Token: token, Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	chains := realChains(t, agent.Agent, d)
	put(t, agent.Agent, redirected(serviceName(3), "middle"))
	chains[3].await(t, "1 middle=100")
	put(t, agent.Agent, redirected("middle", "far"))
	chains[3].await(t, "1 far=100")
}

// realChains watches seventy chains, with the entries that let them be routed.
func realChains(t *testing.T, agent *consulagent.Agent, d *consul.Directory) (chains []*reportLines) {
	t.Helper()
	for _, name := range []string{"middle", "far"} {
		put(t, agent, grpcOf(name))
	}
	for i := range 70 {
		put(t, agent, grpcOf(serviceName(i)))
		chains = append(chains, watchChain(t, d, serviceName(i)))
	}
	for _, chain := range chains {
		chain.await(t, "plain")
	}
	return chains
}
