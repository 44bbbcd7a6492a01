package consultest_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// asked is the outcome of a query that may have blocked.
type asked struct {
	shown string
	index uint64
	took  time.Duration
	err   error
}

// ask queries health in the background and delivers the outcome.
func ask(client *api.Client, service string, opts *api.QueryOptions) <-chan asked {
	done := make(chan asked, 1)
	go func() {
		start := time.Now()
		entries, meta, err := client.Health().Service(service, "", false, opts)
		if err != nil {
			done <- asked{err: err, took: time.Since(start)}
			return
		}
		done <- asked{show(entries), meta.LastIndex, time.Since(start), nil}
	}()
	return done
}

// pending reports whether nothing was delivered although everybody waits.
func pending(done <-chan asked) bool {
	synctest.Wait()
	return len(done) == 0
}

func TestABlockingQueryEndsWithAChangeToItsServiceOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, client := newAgent(t)
		must(t, s.Register(consultest.Service{Name: "web"}))
		_, meta := health(t, client, "web", false)

		done := ask(client, "web", &api.QueryOptions{WaitIndex: meta.LastIndex})
		must(t, s.Register(consultest.Service{Name: "other"}))
		must(t, s.SetStatus("other", consultest.HealthCritical))
		must(t, s.Deregister("other"))
		if _, err := client.KV().Put(&api.KVPair{Key: "a"}, nil); err != nil {
			t.Fatal(err)
		}
		if !pending(done) {
			t.Fatalf("changes elsewhere ended the query: %+v", <-done)
		}
		time.Sleep(time.Minute)
		must(t, s.SetStatus("web", consultest.HealthWarning))
		if got := <-done; got.shown != "web=warning" || got.took != time.Minute || got.index <= meta.LastIndex {
			t.Errorf("got %+v", got)
		}
	})
}

func TestABlockingQueryWaitsAsLongAsAsked(t *testing.T) {
	tests := map[string]struct{ ask, want time.Duration }{
		"by default five minutes": {0, 5 * time.Minute},
		"as asked":                {time.Second, time.Second},
		"ten minutes at most":     {time.Hour, 10 * time.Minute},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, client := newAgent(t)
				must(t, s.Register(consultest.Service{Name: "web"}))
				_, meta := health(t, client, "web", false)
				var spread bool
				for range 10 {
					got := <-ask(client, "web", &api.QueryOptions{WaitIndex: meta.LastIndex, WaitTime: test.ask})
					if got.index != meta.LastIndex || got.took < test.want || got.took > test.want+test.want/16 {
						t.Fatalf("took %v, want %v and up to a sixteenth more", got.took, test.want)
					}
					spread = spread || got.took != test.want
				}
				if !spread {
					t.Error("no query was jittered")
				}
			})
		})
	}
}

// A client that keeps an index from before the agent restarted is not notified, as
// with Consul: noticing that it went backwards is the client's part.
func TestAnIndexFromTheFutureBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, client := newAgent(t)
		done := ask(client, "web", &api.QueryOptions{WaitIndex: 1000, WaitTime: time.Minute})
		must(t, s.Register(consultest.Service{Name: "web"}))
		if got := <-done; got.took < time.Minute || got.index >= 1000 || got.shown != "web=passing" {
			t.Errorf("got %+v", got)
		}
	})
}

func TestAQueryForAMissingServiceEndsWhenItComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, client := newAgent(t)
		must(t, s.Register(consultest.Service{Name: "other"}))
		_, meta := health(t, client, "web", false)
		done := ask(client, "web", &api.QueryOptions{WaitIndex: meta.LastIndex})
		if !pending(done) {
			t.Fatalf("the query did not block: %+v", <-done)
		}
		must(t, s.Deregister("other"))
		if !pending(done) {
			t.Fatalf("the end of another service ended the query: %+v", <-done)
		}
		must(t, s.Register(consultest.Service{Name: "web"}))
		if got := <-done; got.shown != "web=passing" || got.index <= meta.LastIndex {
			t.Errorf("got %+v", got)
		}
	})
}

// The index of a service never goes backwards, not even when its last instance goes.
func TestIndexesOnlyRise(t *testing.T) {
	s, client := newAgent(t)
	var last uint64
	step := func(what string, err error) {
		t.Helper()
		must(t, err)
		_, meta := health(t, client, "web", false)
		if meta.LastIndex < last || meta.LastIndex == 0 {
			t.Errorf("after %s the index went from %d to %d", what, last, meta.LastIndex)
		}
		last = meta.LastIndex
	}
	step("nothing", nil)
	step("another service", s.Register(consultest.Service{Name: "other"}))
	step("the first instance", s.Register(consultest.Service{ID: "1", Name: "web"}))
	step("the second", s.Register(consultest.Service{ID: "2", Name: "web"}))
	step("removing the first", s.Deregister("1"))
	step("a change elsewhere", s.SetStatus("other", consultest.HealthCritical))
	step("removing the last", s.Deregister("2"))
	step("the end of another service", s.Deregister("other"))
	step("coming back", s.Register(consultest.Service{ID: "1", Name: "web"}))
}

func TestCancellingEndsAQueryAtOnce(t *testing.T) {
	eachWay(t, func(t *testing.T, s *consultest.Server, c *http.Client) {
		client := agentOver(t, c)
		must(t, s.Register(consultest.Service{Name: "web"}))
		_, meta := health(t, client, "web", false)
		ctx, cancel := context.WithCancel(context.Background())
		done := ask(client, "web", (&api.QueryOptions{WaitIndex: meta.LastIndex}).WithContext(ctx))
		waitFor(t, func() bool { return len(s.Queries()) == 2 })
		cancel()
		select {
		case got := <-done:
			if !errors.Is(got.err, context.Canceled) {
				t.Errorf("got %v", got.err)
			}
		case <-time.After(5 * time.Second):
			t.Error("the query outlived its context")
		}
	})
}

func TestADeadlineEndsAQuery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client := newAgent(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		got := <-ask(client, "web", (&api.QueryOptions{WaitIndex: 1000}).WithContext(ctx))
		if !errors.Is(got.err, context.DeadlineExceeded) || got.took != time.Second {
			t.Errorf("got %+v", got)
		}
	})
}

func TestTheAgentsServiceBlocksOnItsHash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, client := newAgent(t)
		must(t, s.Register(consultest.Service{Name: "web"}))
		svc, meta, err := client.Agent().Service("web", nil)
		must(t, err)
		time.AfterFunc(time.Minute, func() { _ = s.Register(consultest.Service{Name: "web", Port: 1}) })
		start := time.Now()
		changed, _, err := client.Agent().Service("web", &api.QueryOptions{WaitHash: meta.LastContentHash})
		must(t, err)
		if time.Since(start) != time.Minute || changed.Port != 1 || changed.ContentHash == svc.ContentHash {
			t.Errorf("after %v got %+v", time.Since(start), changed)
		}
	})
}

func TestConsistencyModes(t *testing.T) {
	s, _ := newAgent(t)
	c := &http.Client{Transport: s.Transport()}
	for query, want := range map[string]string{"": "leader", "?stale": "stale", "?consistent": "consistent", "?max_stale=1s": "stale"} {
		if got := do(t, c, "GET", "/v1/health/service/web"+query, "").header.Get("X-Consul-Effective-Consistency"); got != want {
			t.Errorf("%q: got %s, want %s", query, got, want)
		}
	}
	if got := do(t, c, "GET", "/v1/health/service/web?cached", "").header.Get("X-Cache"); got != "MISS" {
		t.Errorf("a cached read says %q", got)
	}
}

// waitFor polls in real time.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come about within 10 seconds")
		}
	}
}
