package consultest_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

func TestCloseEndsOpenQueriesAndIsFinal(t *testing.T) {
	eachWay(t, func(t *testing.T, s *consultest.Server, c *http.Client) {
		client := agentOver(t, c)
		must(t, s.Register(consultest.Service{Name: "web", Checks: []consultest.Check{
			{TTL: time.Hour}, {TCP: "127.0.0.1:1", Interval: time.Hour}}}))
		done := ask(client, "web", &api.QueryOptions{WaitIndex: 1000, WaitTime: 10 * time.Minute})
		waitFor(t, func() bool { return len(s.Queries()) == 1 })
		s.Close()
		s.Close()
		if got := <-done; got.err == nil { // and not the answer that is due in ten minutes
			t.Errorf("got %+v", got)
		}
		if got := <-ask(client, "web", nil); !errors.Is(got.err, syscall.ECONNREFUSED) {
			t.Errorf("a closed agent answers %v", got.err)
		}
		if _, err := s.Listen("127.0.0.1:0"); err == nil || !strings.Contains(err.Error(), "closed") {
			t.Errorf("a closed agent listens: %v", err)
		}
	})
}

func TestRestartForgetsEverything(t *testing.T) {
	eachWay(t, func(t *testing.T, s *consultest.Server, c *http.Client) {
		client := agentOver(t, c)
		for i := range 5 {
			must(t, s.Register(consultest.Service{ID: strconv.Itoa(i), Name: "web", Checks: []consultest.Check{{TTL: time.Hour}}}))
		}
		put(t, client, "k", "v")
		_, before := health(t, client, "web", false)
		done := ask(client, "web", &api.QueryOptions{WaitIndex: 1000})
		waitFor(t, func() bool { return len(s.Queries()) == 2 })
		s.Restart()
		if got := <-done; got.err == nil {
			t.Errorf("the restart left the query alone: %+v", got)
		}
		got, after := health(t, client, "web", false)
		if got != "" || after.LastIndex >= before.LastIndex {
			t.Errorf("after the restart got %q at index %d, was %d", got, after.LastIndex, before.LastIndex)
		}
		if pair, _, _ := client.KV().Get("k", nil); pair != nil {
			t.Errorf("a key outlived the restart: %+v", pair)
		}
		must(t, s.Register(consultest.Service{Name: "web"}))
		if got, _ := health(t, client, "web", true); got != "web=passing" {
			t.Errorf("registered again, got %q", got)
		}
	})
}

func TestAnUnreachableAgent(t *testing.T) {
	eachWay(t, func(t *testing.T, s *consultest.Server, c *http.Client) {
		client := agentOver(t, c)
		must(t, s.Register(consultest.Service{Name: "web"}))
		_, before := health(t, client, "web", true)
		done := ask(client, "web", &api.QueryOptions{WaitIndex: before.LastIndex})
		waitFor(t, func() bool { return len(s.Queries()) == 2 })
		s.SetReachable(false)
		if got := <-done; got.err == nil {
			t.Errorf("an open query went on: %+v", got)
		}
		if got := <-ask(client, "web", nil); got.err == nil {
			t.Errorf("a new query went through: %+v", got)
		}
		s.SetReachable(true)
		got, after := health(t, client, "web", true)
		if got != "web=passing" || after.LastIndex != before.LastIndex {
			t.Errorf("reachable again, got %q at %d, was %d", got, after.LastIndex, before.LastIndex)
		}
	})
}

func TestARefusedConnectionLooksLikeOne(t *testing.T) {
	s, client := newAgent(t)
	s.SetReachable(false)
	_, _, err := client.Health().Service("web", "", true, nil)
	if !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "dial tcp consul.test:8500: connect: connection refused") {
		t.Errorf("got %v", err)
	}
	if q := s.Queries(); len(q) != 1 || !q[0].Refused {
		t.Errorf("queries are %+v", q)
	}
}

func TestQueriesReturnWhatWasAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, client := newAgent(t)
		start := time.Now()
		health(t, client, "web", true)
		time.Sleep(time.Minute)
		<-ask(client, "db", &api.QueryOptions{WaitIndex: 99, WaitTime: 2 * time.Second})
		_, _, err := client.KV().Get("not a health query", nil)
		must(t, err)
		q := s.Queries()
		if len(q) != 2 || q[0].Service != "web" || q[0].Index != 0 || q[0].RawQuery != "passing=1" || !q[0].Time.Equal(start) {
			t.Fatalf("got %+v", q)
		}
		if q[1].Service != "db" || q[1].Index != 99 || q[1].Wait != 2*time.Second || q[1].Time.Sub(start) != time.Minute {
			t.Errorf("got %+v", q[1])
		}
	})
}

func TestInterceptAnswersInsteadOrAlters(t *testing.T) {
	eachWay(t, func(t *testing.T, s *consultest.Server, c *http.Client) {
		client := agentOver(t, c)
		must(t, s.Register(consultest.Service{Name: "web"}))
		s.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			switch {
			case strings.HasSuffix(r.URL.Path, "/broken"):
				http.Error(w, "rpc error", http.StatusInternalServerError)
			case strings.HasSuffix(r.URL.Path, "/web"):
				s.ServeHTTP(indexZero{w}, r)
			case strings.HasSuffix(r.URL.Path, "/reset"):
				panic(http.ErrAbortHandler)
			default:
				return false
			}
			return true
		})
		if got := <-ask(client, "broken", nil); got.err == nil || !strings.Contains(got.err.Error(), "500 (rpc error") {
			t.Errorf("got %+v", got)
		}
		if got := <-ask(client, "web", nil); got.shown != "web=passing" || got.index != 0 {
			t.Errorf("got %+v", got)
		}
		if got := <-ask(client, "reset", nil); !errors.Is(got.err, io.EOF) {
			t.Errorf("got %+v", got)
		}
		if got := <-ask(client, "other", nil); got.err != nil || got.index == 0 {
			t.Errorf("got %+v", got)
		}
		if got := len(s.Queries()); got < 4 || got > 5 { // net/http may repeat the one that was reset
			t.Errorf("%d queries recorded, want 4", got)
		}
		s.Intercept(nil)
		if got := <-ask(client, "web", nil); got.index == 0 {
			t.Errorf("got %+v", got)
		}
	})
}

// indexZero is the header of a Consul that lost its index.
type indexZero struct{ http.ResponseWriter }

func (w indexZero) WriteHeader(code int) {
	w.Header().Set("X-Consul-Index", "0")
	w.ResponseWriter.WriteHeader(code)
}

func TestListenRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	s := consultest.New()
	defer s.Close()
	for addr, want := range map[string]string{
		taken.Addr().String(): "cannot listen on " + taken.Addr().String() + " (is another agent running there? stop it or take another port, 0 for a free one)",
		"0.0.0.0:0":           `listen address "0.0.0.0:0" is not loopback: use 127.0.0.1 or turn on WithACL`,
		":0":                  `listen address ":0" is not loopback`,
		"8500":                `bad listen address "8500": want host:port, such as 127.0.0.1:8500`,
	} {
		if _, err := s.Listen(addr); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", addr, err)
		}
	}
}

func TestGoMethodsRefuse(t *testing.T) {
	s, _ := newAgent(t)
	must(t, s.Register(consultest.Service{Name: "web"}))
	for want, err := range map[string]error{
		"Missing service name":           s.Register(consultest.Service{}),
		`Unknown service ID "x"`:         s.Deregister("x"),
		`Unknown service ID "y"`:         s.SetStatus("y", "passing"),
		"Invalid check status: 'bogus'":  s.SetStatus("web", "bogus"),
		`Unknown service ID "consul"`:    s.Deregister("consul"),
		"Passing must be greater than 0": s.Register(consultest.Service{Name: "w", Weights: consultest.Weights{Warning: 1}}),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	s, client := newAgent(t)
	var err error
	for i := 0; err == nil && i < 30000; i++ {
		err = s.Register(consultest.Service{ID: strconv.Itoa(i), Name: "web"})
	}
	if err == nil || !strings.Contains(err.Error(), "the registry is full: it holds at most 20000 services") {
		t.Errorf("got %v", err)
	}
	must(t, s.Register(consultest.Service{ID: "0", Name: "web", Port: 1})) // replacing still works
	for i := 0; err != nil && i < 30000; i++ {
		if _, kvErr := client.KV().Put(&api.KVPair{Key: strconv.Itoa(i)}, nil); kvErr != nil {
			err = kvErr
			break
		}
	}
	if !strings.Contains(err.Error(), "507 (the KV store is full") {
		t.Errorf("got %v", err)
	}
}

// Writers, watchers and restarts at once, for the race detector.
func TestConcurrentUse(t *testing.T) {
	s, client := newAgent(t)
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := range 40 {
				id := fmt.Sprint("web-", worker, i%3)
				_ = s.Register(consultest.Service{ID: id, Name: "web", Checks: []consultest.Check{{TTL: time.Minute, Status: "passing"}}})
				_ = s.SetStatus(id, consultest.HealthWarning)
				<-ask(client, "web", &api.QueryOptions{WaitIndex: 1, WaitTime: time.Millisecond})
				_ = s.Deregister(id)
				if i == 20 && worker == 0 {
					s.Restart()
				}
				s.Queries()
			}
		})
	}
	all.Wait()
}
