package consul_test

import (
	"context"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// answer gives a body with an index, as Consul would.
func answer(w http.ResponseWriter, index uint64, body string) {
	w.Header().Set("X-Consul-Index", strconv.FormatUint(index, 10))
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(body))
}

// R1: Consul answering index 0 forever causes at most 2 + t/15 s queries in t
// seconds, blocking on index 1.
//
// Case R1: Index 0 forever is asked at most 2 + t/15 s times.
func TestIndexZeroForeverIsAskedSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		agent.Intercept(func(w http.ResponseWriter, _ *http.Request) bool { answer(w, 0, "[]"); return true })
		r := watch(newDirectory(t, agent, consul.Config{}), catalog.Query{Service: "catalog"})
		defer r.stop()
		const seconds = 600
		time.Sleep(seconds * time.Second)
		queries := agent.Queries()
		if n := len(queries); n < 2 || n > 2+seconds/15 {
			t.Errorf("%d queries in %d s, want 2 to %d", n, seconds, 2+seconds/15)
		}
		for i, q := range queries[1:] {
			if q.Index != 1 {
				t.Errorf("query %d waits beyond index %d, want 1", i+2, q.Index)
			}
		}
	})
}

// R2: when the index goes backwards the next query carries index 0, and a change
// made in between is delivered.
//
// Case R2: An index that goes backwards starts afresh.
func TestIndexBackwardsStartsAfresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		register(t, agent, "catalog-1", 1)
		var count atomic.Int32
		agent.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasPrefix(r.URL.Path, "/v1/health/service/") {
				return false
			}
			switch count.Add(1) {
			case 1: // a high index, from before the snapshot that the servers went back to
				answer(w, 1000, "[]")
			case 2:
				answer(w, 3, "[]")
			default:
				return false
			}
			return true
		})
		r := watch(newDirectory(t, agent, consul.Config{}), catalog.Query{Service: "catalog"})
		defer r.stop()
		synctest.Wait()
		queries := agent.Queries()
		if len(queries) < 3 || queries[1].Index != 1000 || queries[2].Index != 0 {
			t.Fatalf("queries are %+v, want index 0, 1000, 0", queries)
		}
		if s, _ := r.last(); len(s.Instances) != 1 {
			t.Errorf("the change in between is not delivered: %v", addressesOf(s))
		}
	})
}

// R16: with a token, an ACL-filtered empty answer (ResultsFilteredByACLs, 403) is
// an error, not an empty service; without one the error for an empty service
// mentions ACLs.
//
// Case R16: Hidden by ACLs is an error, not an empty service.
func TestHiddenByACLsIsNotEmpty(t *testing.T) {
	for _, test := range []struct{ name, token, err, hint string }{
		{"powerless token", "weak", "service:read", ""},
		{"unknown token", "unknown", "denied", ""},
		{"no token", "", "", "ACLs"},
		{"good token, no service", "master", "", "name right"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				agent := consultest.New(consultest.WithACL("master", "weak"))
				defer agent.Close()
				if test.token != "master" {
					register(t, agent, "catalog-1", 1)
				}
				r := watch(newDirectory(t, agent, consul.Config{Token: test.token}), catalog.Query{Service: "catalog"})
				defer r.stop()
				synctest.Wait()
				s, answers := r.last()
				switch err := r.lastError(); {
				case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
					t.Errorf("error is %v, want one that says %q", err, test.err)
				case test.err != "" && test.token != "" && strings.Contains(err.Error(), test.token+" "):
					t.Errorf("error %v repeats the token", err)
				case test.err == "" && (err != nil || answers == 0):
					t.Errorf("error %v and %d answers, want an empty answer", err, answers)
				}
				if test.err == "" && !strings.Contains(s.Hint, test.hint) {
					t.Errorf("hint is %q, want one with %q", s.Hint, test.hint)
				}
			})
		})
	}
}

// R17: the HTTP timeout is longer than wait x 17/16.
//
// Case R17: The HTTP timeout outlasts the wait.
func TestHTTPTimeoutOutlastsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		held := make(chan time.Duration, 1)
		agent.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
			start := time.Now()
			<-r.Context().Done()
			select {
			case held <- time.Since(start):
			default:
			}
			return true
		})
		const wait = 10 * time.Minute
		r := watch(newDirectory(t, agent, consul.Config{Wait: wait}), catalog.Query{Service: "catalog"})
		defer r.stop()
		if d := <-held; d <= wait*17/16 {
			t.Errorf("the query was given up after %v, within wait x 17/16 = %v", d, wait*17/16)
		}
	})
}

// R4, the directory's half: an outage is asked about with a back-off that is
// jittered and capped, and the watch goes on after it.
//
// Case R4
func TestOutageBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		agent.SetReachable(false)
		r := watch(newDirectory(t, agent, consul.Config{}), catalog.Query{Service: "catalog"})
		defer r.stop()
		time.Sleep(10 * time.Minute)
		queries := agent.Queries()
		if n := len(queries); n < 600/15 || n > 600/7+6 {
			t.Errorf("%d queries in 10 minutes of outage, want one each 7.5 to 15 s after the first", n)
		}
		for i := 8; i < len(queries); i++ {
			if gap := queries[i].Time.Sub(queries[i-1].Time); gap < 7500*time.Millisecond || gap > 15*time.Second {
				t.Errorf("query %d came %v after the one before, want 7.5s to 15s", i, gap)
			}
		}
		register(t, agent, "catalog-1", 1)
		agent.SetReachable(true)
		time.Sleep(15 * time.Second)
		if s, _ := r.last(); len(s.Instances) != 1 {
			t.Errorf("after the outage the watch reports %v", addressesOf(s))
		}
	})
}

// R10, the directory's half: a watch ends at once while a 10-minute query is open.
//
// Case R10
func TestWatchEndsWithinAnOpenQuery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		r := watch(newDirectory(t, agent, consul.Config{Wait: 10 * time.Minute}), catalog.Query{Service: "catalog"})
		synctest.Wait()
		before := time.Now()
		r.stop()
		if d := time.Since(before); d > 0 {
			t.Errorf("ending took %v of virtual time, want none", d)
		}
	})
}

func TestConfigurationIsChecked(t *testing.T) {
	for name, test := range map[string]struct {
		config consul.Config
		want   string
	}{
		"wait too long":    {consul.Config{Wait: 11 * time.Minute}, "Wait 11m0s"},
		"wait too short":   {consul.Config{Wait: time.Millisecond}, "Wait 1ms"},
		"heartbeat":        {consul.Config{Heartbeat: time.Millisecond}, "Heartbeat 1ms"},
		"address scheme":   {consul.Config{Address: "ftp://x"}, `"ftp://x"`},
		"user in address":  {consul.Config{Address: "http://user:hunter2@127.0.0.1:8500"}, "user information"},
		"token in a query": {consul.Config{Address: "127.0.0.1:8500?token=hunter2"}, "has a query"},
		"missing CA file":  {consul.Config{Address: "https://x:1"}, "CONSUL_CACERT"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "missing CA file" {
				t.Setenv("CONSUL_CACERT", "/does/not/exist.pem")
				test.want = "CONSUL_* environment: Error loading CA File: open /does/not/exist.pem"
			}
			if _, err := consul.New(test.config); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want one that says %q", err, test.want)
			} else if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error %v repeats the password", err)
			}
		})
	}
}

// R8, the directory's half: answers that differ only in order, check output or
// index are equal snapshots.
//
// Case R8
func TestOrderAndOutputDoNotMatter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		entry := func(id, output string) string {
			return `{"Node": {"Node": "n", "Address": "10.0.0.1", "Datacenter": "dc1"}, "Service": {"ID": "` + id + `", "Service": "catalog", "Port": ` + id +
				`, "Weights": {"Passing": 1, "Warning": 1}}, "Checks": [{"Status": "passing", "Output": "` + output + `"}]}`
		}
		bodies := []string{
			"[" + entry("1", "fine") + "," + entry("2", "fine") + "]",
			"[" + entry("2", "fine") + "," + entry("1", "fine") + "]",
			"[" + entry("1", "still fine") + "," + entry("2", "") + "]",
		}
		agent := consultest.New()
		defer agent.Close()
		var index atomic.Uint64
		agent.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			n := index.Add(1)
			if n > uint64(len(bodies)) {
				<-r.Context().Done()
				return true
			}
			answer(w, n, bodies[n-1])
			return true
		})
		r := watch(newDirectory(t, agent, consul.Config{}), catalog.Query{Service: "catalog"})
		defer r.stop()
		synctest.Wait()
		if len(r.snapshots) != len(bodies) {
			t.Fatalf("%d snapshots, want %d", len(r.snapshots), len(bodies))
		}
		for _, s := range r.snapshots[1:] {
			if !reflect.DeepEqual(s.Instances, r.snapshots[0].Instances) {
				t.Errorf("%+v differs from %+v", s.Instances, r.snapshots[0].Instances)
			}
		}
	})
}

// G1: after the agent restarts empty, the service is back within one heartbeat (5
// s, jittered by 20 %), and not always after the same time.
//
// Case G1: A forgotten or changed service is back within a heartbeat.
func TestHeartbeatIsFiveSecondsAndJittered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New(consultest.WithProbe(func(context.Context, consultest.Check) (string, string) {
			return consultest.HealthPassing, ""
		}))
		defer agent.Close()
		var looks []time.Time
		agent.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.HasPrefix(r.URL.Path, "/v1/agent/health/service/id/catalog-1") {
				looks = append(looks, time.Now())
			}
			return false
		})
		d := newDirectory(t, agent, consul.Config{})
		mustRegister(t, d, instance("catalog-1", "10.0.0.1:80"))
		for range 20 {
			agent.Restart()
			time.Sleep(6*time.Second + time.Millisecond)
			r := watch(d, catalog.Query{Service: "catalog"})
			synctest.Wait()
			if s, _ := r.last(); len(s.Instances) != 1 {
				t.Fatal("6 s after the agent was restarted empty the service is not back")
			}
			r.stop()
		}
		gaps := map[time.Duration]bool{}
		for i := 1; i < len(looks); i++ {
			gap := looks[i].Sub(looks[i-1])
			if gaps[gap] = true; gap < 4*time.Second || gap > 6*time.Second {
				t.Errorf("a heartbeat came %v after the one before, want 4s to 6s", gap)
			}
		}
		if len(gaps) < 10 {
			t.Errorf("the heartbeats of 20 restarts have %d different distances", len(gaps))
		}
	})
}

func TestWhatElseListensThereIsReportedInOneLine(t *testing.T) {
	agent := consultest.New()
	defer agent.Close()
	agent.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(strings.Repeat("<p>not here</p>\n", 1000)))
		return true
	})
	_, err := newDirectory(t, agent, consul.Config{}).NodeAddress(t.Context())
	if err == nil || len(err.Error()) > 300 || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "404") {
		t.Errorf("error is %v, want one short line", err)
	}
}

func TestErrorsNameTheAgentAndTheFix(t *testing.T) {
	d, err := consul.New(consul.Config{Address: "127.0.0.1:1", Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	_, err = d.NodeAddress(context.Background())
	for _, want := range []string{"127.0.0.1:1", "refused", "consul agent -dev"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want one that says %q", err, want)
		}
	}
}

func register(t *testing.T, agent *consultest.Server, id string, port int) {
	t.Helper()
	name, _, _ := strings.Cut(id, "-")
	if err := agent.Register(consultest.Service{ID: id, Name: name, Port: port}); err != nil {
		t.Fatal(err)
	}
}
