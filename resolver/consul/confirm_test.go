package consul_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// inBubble runs test under virtual time with an agent with n instances of
// catalog, at ports from 1 on, and a watch that has its first answer.
func inBubble(t *testing.T, n int, test func(t *testing.T, agent *consultest.Server, r *reports)) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		for port := range n {
			register(t, agent, "catalog-"+string(rune('a'+port)), port+1)
		}
		r := watch(newDirectory(t, agent, consul.Config{}), catalog.Query{Service: "catalog"})
		defer r.stop()
		synctest.Wait()
		if s, _ := r.last(); len(s.Instances) != n {
			t.Fatalf("the first answer has %v", addressesOf(s))
		}
		test(t, agent, r)
	})
}

// fewest is the smallest number of instances that was ever reported.
func (r *reports) fewest() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	fewest := 1 << 20
	for _, s := range r.snapshots {
		fewest = min(fewest, len(s.Instances))
	}
	return fewest
}

// R3: an empty list with a lower index than before is not published until an
// index-0 read confirms it (Consul can answer exactly that: hashicorp/consul#20790).
//
// Case R3: An empty answer with a lower index is confirmed first.
func TestEmptyAnswerWithALowerIndexIsConfirmedFirst(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, agent *consultest.Server, r *reports) {
		before := len(agent.Queries())
		done := agent.Script(consultest.Empty().And(consultest.IndexBackwards()))
		synctest.Wait()
		select {
		case <-done:
		default:
			t.Fatal("the fault met no query")
		}
		if n := r.fewest(); n != 3 {
			t.Errorf("a list of %d was reported, which no second read confirms", n)
		}
		queries := agent.Queries()[before:]
		if len(queries) == 0 || queries[0].Index != 0 || strings.Contains(queries[0].RawQuery, "stale") {
			t.Errorf("asked then %+v, want an index-0 read that is not stale", queries)
		}
		if err := agent.Deregister("catalog-a"); err != nil { // and nothing is missed afterwards
			t.Fatal(err)
		}
		synctest.Wait()
		if s, _ := r.last(); len(s.Instances) != 2 {
			t.Errorf("the watch reports %v, want the two that are left", addressesOf(s))
		}
	})
}

// Case R3
func TestConfirmedEmptinessIsReported(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, agent *consultest.Server, r *reports) {
		for _, id := range []string{"catalog-a", "catalog-b"} {
			if err := agent.Deregister(id); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if s, _ := r.last(); len(s.Instances) != 0 || s.Hint == "" {
			t.Errorf("the watch reports %v and the hint %q, want an empty list and why", addressesOf(s), s.Hint)
		}
	})
}

// The first half of the guard against mass removal (R7): a fresh read.
//
// Case R7
func TestMassRemovalIsConfirmedFirst(t *testing.T) {
	inBubble(t, 10, func(t *testing.T, agent *consultest.Server, r *reports) {
		agent.Script(consultest.WithoutFirst(6))
		synctest.Wait()
		if n := r.fewest(); n != 10 {
			t.Errorf("a list of %d was reported, which no second read confirms", n)
		}
		lift := agent.Inject(consultest.WithoutFirst(6)) // now the leader says so too
		defer lift()
		synctest.Wait()
		if s, _ := r.last(); len(s.Instances) != 4 {
			t.Errorf("the watch reports %v, want the four that a second read confirms", addressesOf(s))
		}
	})
}

func TestSmallRemovalIsReportedAsItComes(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, agent *consultest.Server, r *reports) {
		before := len(agent.Queries())
		lift := agent.Inject(consultest.WithoutFirst(2))
		defer lift()
		synctest.Wait()
		if s, _ := r.last(); len(s.Instances) != 2 {
			t.Errorf("the watch reports %v, want two", addressesOf(s))
		}
		for _, q := range agent.Queries()[before:] {
			if q.Index == 0 {
				t.Errorf("half of the instances are gone and %q was asked", q.RawQuery)
			}
		}
	})
}

// Case R3
func TestUnconfirmedRemovalIsAnErrorAndNotAnAnswer(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, agent *consultest.Server, r *reports) {
		agent.Script(consultest.Empty(), consultest.NoLeader())
		synctest.Wait()
		if err := r.lastError(); err == nil || !strings.Contains(err.Error(), "No cluster leader") {
			t.Errorf("the error is %v, want what the leader's read has said", err)
		}
		time.Sleep(time.Second)
		if s, _ := r.last(); len(s.Instances) != 3 || r.fewest() != 3 {
			t.Errorf("the watch reports %v, want all three", addressesOf(s))
		}
	})
}

// R6, with an agent that fails every other request: a removal is confirmed at last.
//
// Case R6
func TestRemovalIsConfirmedByAnAgentThatKeepsFailing(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, agent *consultest.Server, r *reports) {
		var count atomic.Int32
		agent.Intercept(func(w http.ResponseWriter, q *http.Request) bool {
			if !strings.HasPrefix(q.URL.Path, "/v1/health/service/") || count.Add(1)%2 == 0 {
				return false
			}
			w.WriteHeader(http.StatusBadGateway)
			return true
		})
		lift := agent.Inject(consultest.Empty())
		defer lift()
		time.Sleep(time.Minute)
		if s, _ := r.last(); len(s.Instances) != 0 {
			t.Errorf("after a minute the watch still reports %v", addressesOf(s))
		}
	})
}

// R1 and R3 together: confirmation that never ends costs two queries in 15 s: the blocking
// one, and the one that does not confirm it.
//
// Case R3
func TestEndlessDoubtIsAskedSlowly(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, agent *consultest.Server, r *reports) {
		var count atomic.Int32
		agent.Intercept(func(w http.ResponseWriter, q *http.Request) bool {
			if !strings.HasPrefix(q.URL.Path, "/v1/health/service/") || !q.URL.Query().Has("stale") {
				return false
			}
			count.Add(1)
			answer(w, 1, "[]")
			return true
		})
		register(t, agent, "catalog-z", 99)
		const seconds = 600
		time.Sleep(seconds * time.Second)
		if n := count.Load(); n > 2+seconds/15 {
			t.Errorf("%d stale reads in %d s", n, seconds)
		}
		if n := r.fewest(); n != 3 {
			t.Errorf("a list of %d was reported, which no second read confirms", n)
		}
	})
}

// The same of an index that goes to and fro, whether the list goes with it or not.
//
// Case R1
func TestIndexToAndFroIsAskedSlowly(t *testing.T) {
	const one = `[{"Node": {"Node": "n", "Address": "10.0.0.1"}, "Service": {"ID": "1", "Service": "catalog", "Port": 1, "Weights": {"Passing": 1}}, "Checks": []}]`
	for name, other := range map[string]string{"the list stays": one, "the list goes": "[]"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				agent := consultest.New()
				defer agent.Close()
				var count atomic.Int32
				agent.Intercept(func(w http.ResponseWriter, q *http.Request) bool {
					if count.Add(1)%2 == 1 {
						answer(w, 1000, one)
					} else {
						answer(w, 3, other)
					}
					return true
				})
				r := watch(newDirectory(t, agent, consul.Config{}), catalog.Query{Service: "catalog"})
				defer r.stop()
				const seconds = 600
				time.Sleep(seconds * time.Second)
				if n := count.Load(); n > 6+2*seconds/15 {
					t.Errorf("%d queries in %d s", n, seconds)
				}
				if n := r.fewest(); n != 1 {
					t.Errorf("a list of %d was reported, which no second read confirms", n)
				}
			})
		})
	}
}

// A service that changes all the time neither floods the agent nor is its first
// change late.
//
// Case F7
func TestFlappingServiceIsReadTwiceASecond(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, agent *consultest.Server, r *reports) {
		time.Sleep(20 * time.Second)
		before := len(agent.Queries())
		_, reported := r.last()
		if err := agent.SetStatus("catalog-a", consultest.HealthCritical); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, n := r.last(); n != reported+1 {
			t.Error("the first change is not reported at once")
		}
		stop := agent.Flap("catalog-a", 100*time.Millisecond)
		const seconds = 60
		time.Sleep(seconds * time.Second)
		stop()
		if n := len(agent.Queries()) - before; n > 20+2*seconds+2 {
			t.Errorf("%d queries in %d s of flapping, want two a second after the first twenty", n, seconds)
		}
	})
}

// The second reads are paid for, too: a lone instance that flaps makes each removal
// cost three requests.
func TestFlappingLoneInstanceFloodsNobody(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, agent *consultest.Server, r *reports) {
		var count atomic.Int32
		agent.Intercept(func(http.ResponseWriter, *http.Request) bool { count.Add(1); return false })
		defer agent.Flap("catalog-a", 100*time.Millisecond)()
		const seconds = 60
		time.Sleep(seconds * time.Second)
		if n := count.Load(); n < seconds || n > 20+2*seconds+3 {
			t.Errorf("%d requests in %d s of flapping, want two a second after the first twenty", n, seconds)
		}
	})
}

// The second read is the leader's, whatever the first was.
//
// Case R3
func TestDoubtfulAnswersAreReadFromTheLeader(t *testing.T) {
	for c, parameters := range map[catalog.Consistency]string{catalog.Stale: "", catalog.Cached: "", catalog.Consistent: "consistent"} {
		t.Run(c.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				agent := consultest.New()
				defer agent.Close()
				register(t, agent, "catalog-a", 1)
				r := watch(newDirectory(t, agent, consul.Config{}), catalog.Query{Service: "catalog", Consistency: c})
				defer r.stop()
				synctest.Wait()
				before := len(agent.Queries())
				agent.Script(consultest.Empty())
				synctest.Wait()
				if r.fewest() != 1 || r.lastError() != nil {
					t.Errorf("the watch reports lists of %d and the error %v", r.fewest(), r.lastError())
				}
				query := agent.Queries()[before]
				got := ""
				for _, mode := range []string{"stale", "cached", "consistent"} {
					if strings.Contains(query.RawQuery, mode) {
						got += mode
					}
				}
				if query.Index != 0 || got != parameters {
					t.Errorf("the second read is %q, want index 0 and the mode %q", query.RawQuery, parameters)
				}
			})
		})
	}
}

// An agent's cache that has loaded nothing yet answers index 1 and an empty list
// when the time is over: that is not what a service without instances looks like.
//
// Case R3
func TestEmptyCacheIsNoEmptyService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		register(t, agent, "catalog-a", 1)
		agent.Intercept(func(w http.ResponseWriter, q *http.Request) bool {
			if !q.URL.Query().Has("cached") {
				return false
			}
			answer(w, 1, "[]")
			return true
		})
		r := watch(newDirectory(t, agent, consul.Config{}), catalog.Query{Service: "catalog", Consistency: catalog.Cached})
		defer r.stop()
		time.Sleep(10 * time.Minute)
		if r.fewest() != 1 || r.lastError() != nil {
			t.Errorf("the watch reports lists of %d and the error %v", r.fewest(), r.lastError())
		}
		if n := len(agent.Queries()); n > 2*(3+600/15) {
			t.Errorf("%d queries in ten minutes", n)
		}
	})
}

// Why a service is empty is worth 5 s, not the watch.
func TestHintDoesNotHoldTheWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		defer agent.Inject(consultest.Hang().On("/v1/health/checks/"))()
		r := watch(newDirectory(t, agent, consul.Config{}), catalog.Query{Service: "catalog"})
		defer r.stop()
		time.Sleep(5*time.Second + time.Millisecond)
		if s, n := r.last(); n != 1 || s.Hint == "" {
			t.Fatalf("%d answers with the hint %q after 5 s, want one", n, s.Hint)
		}
		register(t, agent, "catalog-a", 1)
		synctest.Wait()
		if s, _ := r.last(); len(s.Instances) != 1 {
			t.Errorf("the watch reports %v", addressesOf(s))
		}
	})
}

// Faults of the way, not of the answer: each is an error, backs off, and is over
// when it is over.
//
// Case R4
func TestEveryFaultIsAnErrorAndPasses(t *testing.T) {
	for name, fault := range map[string]consultest.Fault{
		"server error": consultest.ServerError(http.StatusBadGateway, "bad gateway"),
		"no leader":    consultest.NoLeader(),
		"forbidden":    consultest.Forbidden(),
		"garbage":      consultest.Garbage(),
		"truncated":    consultest.Truncate(),
		"reset":        consultest.Reset(),
		"hang":         consultest.Hang(),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 3, func(t *testing.T, agent *consultest.Server, r *reports) {
				before := len(agent.Queries())
				lift := agent.Inject(fault)
				time.Sleep(10 * time.Minute)
				if r.lastError() == nil || r.fewest() != 3 {
					t.Errorf("the watch reports lists of %d and the error %v", r.fewest(), r.lastError())
				}
				if n := len(agent.Queries()) - before; n > 100 {
					t.Errorf("%d queries in ten minutes", n)
				}
				lift()
				register(t, agent, "catalog-z", 99)
				time.Sleep(80 * time.Second)
				if s, _ := r.last(); len(s.Instances) != 4 {
					t.Errorf("after the fault the watch reports %v", addressesOf(s))
				}
			})
		})
	}
}

func TestSlowBodiesAreNoErrors(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, agent *consultest.Server, r *reports) {
		lift := agent.Inject(consultest.SlowBody(3 * time.Second))
		defer lift()
		register(t, agent, "catalog-z", 99)
		time.Sleep(10 * time.Second)
		if s, _ := r.last(); len(s.Instances) != 4 || r.lastError() != nil {
			t.Errorf("the watch reports %v and the error %v", addressesOf(s), r.lastError())
		}
	})
}
