package consultest_test

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// four is an agent with instances web-1 to web-4.
func four(t *testing.T, s *consultest.Server) {
	t.Helper()
	for _, id := range []string{"web-1", "web-2", "web-3", "web-4"} {
		must(t, s.Register(consultest.Service{ID: id, Name: "web", Port: 80}))
	}
}

const all = "web-1=passing web-2=passing web-3=passing web-4=passing"

// What Consul's own client makes of each fault, with a socket and without; and
// that nothing of it is left when it is lifted.
func TestFaults(t *testing.T) {
	says := func(parts ...string) func(asked) bool {
		return func(got asked) bool {
			for _, part := range parts {
				if got.err == nil || !strings.Contains(got.err.Error(), part) {
					return false
				}
			}
			return true
		}
	}
	is := func(wants ...error) func(asked) bool {
		return func(got asked) bool {
			return slices.ContainsFunc(wants, func(want error) bool { return errors.Is(got.err, want) })
		}
	}
	shows := func(want string) func(asked) bool {
		return func(got asked) bool { return got.err == nil && got.shown == want && got.index > 0 }
	}
	tests := map[string]struct {
		fault consultest.Fault
		want  func(asked) bool
	}{
		"pass":          {consultest.Pass(), shows(all)},
		"index zero":    {consultest.IndexZero(), func(got asked) bool { return got.shown == all && got.err == nil && got.index == 0 }},
		"empty":         {consultest.Empty(), shows("")},
		"half":          {consultest.Without(0.5), shows("web-3=passing web-4=passing")},
		"rounded up":    {consultest.Without(0.6), shows("web-4=passing")},
		"without none":  {consultest.Without(0), shows(all)},
		"without first": {consultest.WithoutFirst(1), shows("web-2=passing web-3=passing web-4=passing")},
		"without more":  {consultest.WithoutFirst(9), shows("")},
		"duplicates":    {consultest.Without(0.75).And(consultest.Duplicates()), shows("web-4=passing web-4=passing")},
		"edit":          {consultest.Edit(func(b []byte) []byte { return []byte(strings.ReplaceAll(string(b), "web-4", "db-4")) }), shows(strings.Replace(all, "web-4", "db-4", 1))},
		"wrong content": {consultest.Edit(func([]byte) []byte { return []byte(`{"Node":1}`) }), says("cannot unmarshal object")},
		"forbidden":     {consultest.Forbidden(), says("Unexpected response code: 403 (ACL not found)")},
		"no leader":     {consultest.NoLeader(), says("Unexpected response code: 500 (No cluster leader)")},
		"server error":  {consultest.ServerError(503, "try later"), says("Unexpected response code: 503 (try later)")},
		"garbage":       {consultest.Garbage(), says("invalid character '<'")},
		"truncate":      {consultest.Truncate(), is(io.ErrUnexpectedEOF)},
		"slow and cut":  {consultest.SlowBody(10 * time.Millisecond).And(consultest.Truncate()), is(io.ErrUnexpectedEOF)},
		"reset":         {consultest.Reset(), is(syscall.ECONNRESET, io.ErrUnexpectedEOF)},
		"delay":         {consultest.Delay(time.Millisecond), shows(all)},
		"slow body":     {consultest.SlowBody(10 * time.Millisecond), shows(all)},
		"late error":    {consultest.Delay(time.Millisecond).And(consultest.NoLeader()), says("500")},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			eachWay(t, func(t *testing.T, s *consultest.Server, c *http.Client) {
				client := agentOver(t, c)
				four(t, s)
				lift := s.Inject(test.fault)
				if got := <-ask(client, "web", nil); !test.want(got) {
					t.Errorf("got %+v", got)
				}
				if got := <-ask(client, "web", nil); !test.want(got) { // over a connection that was used before, if any is left
					t.Errorf("the second time got %+v", got)
				}
				_, _, err := client.Catalog().Service("web", "", nil)
				must(t, err) // the aim is health alone
				lift()
				lift()
				if got := <-ask(client, "web", nil); !shows(all)(got) {
					t.Errorf("lifted, got %+v", got)
				}
			})
		})
	}
}

func TestFilteredByACLsSaysSo(t *testing.T) {
	s, client := newAgent(t)
	four(t, s)
	s.Inject(consultest.ACLFiltered())
	entries, meta, err := client.Health().Service("web", "", true, nil)
	must(t, err)
	if len(entries) != 0 || !meta.ResultsFilteredByACLs || meta.LastIndex == 0 {
		t.Errorf("got %d entries, %+v", len(entries), meta)
	}
}

func TestStaleSaysHowOldItIs(t *testing.T) {
	s, client := newAgent(t)
	s.Inject(consultest.Stale(90 * time.Second))
	_, meta, err := client.Health().Service("web", "", true, nil)
	must(t, err)
	if meta.LastContact != 90*time.Second || meta.KnownLeader {
		t.Errorf("got %+v", meta)
	}
}

// An object is as empty as a list can be.
func TestEmptyFitsTheAnswer(t *testing.T) {
	s, client := newAgent(t)
	four(t, s)
	s.Inject(consultest.Empty().On(consultest.Everything))
	names, _, err := client.Catalog().Services(nil)
	if must(t, err); len(names) != 0 {
		t.Errorf("got %v", names)
	}
	nodes, _, err := client.Catalog().Nodes(nil)
	if must(t, err); len(nodes) != 0 {
		t.Errorf("got %v", nodes)
	}
}

// A fault is met by what it is aimed at and by nothing else.
func TestAim(t *testing.T) {
	requests := []string{
		"GET /v1/health/service/web", "GET /v1/health/service/web-admin", "GET /v1/catalog/service/web", "GET /v1/kv/web",
		"PUT /v1/kv/web", "PUT /v1/agent/service/register", "PUT /v1/agent/check/pass/service:web", "GET /v1/agent/self",
	}
	fault := consultest.ServerError(599, "")
	tests := map[string]struct {
		fault consultest.Fault
		meet  string // which of the requests, by index
	}{
		"nothing said":    {fault, "01"},
		"everything":      {fault.On(consultest.Everything), "01234567"},
		"service":         {fault.Service("web"), "0"},
		"service's reads": {fault.On(consultest.HealthReads, consultest.CatalogReads).Service("web"), "02"},
		"registrations":   {fault.On(consultest.Registrations), "5"},
		"heartbeats":      {fault.On(consultest.Heartbeats), "6"},
		"keys and values": {fault.On(consultest.KeyValues), "34"},
		"a method":        {fault.On("PUT /v1/kv/"), "4"},
		"a path":          {fault.On("/v1/agent/self", "/v1/kv/w"), "7"},
		"a condition":     {fault.On("/").When(func(r *http.Request) bool { return r.ContentLength > 0 }), "456"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s, _ := newAgent(t)
			must(t, s.Register(consultest.Service{Name: "web", Checks: []consultest.Check{{TTL: time.Hour}}}))
			s.Inject(test.fault)
			met := ""
			for i, request := range requests {
				method, path, _ := strings.Cut(request, " ")
				body := ""
				if method == "PUT" {
					body = `{"Name":"other"}`
				}
				if do(t, &http.Client{Transport: s.Transport()}, method, path, body).code == 599 {
					met += string(rune('0' + i))
				}
			}
			if met != test.meet {
				t.Errorf("met by %s, want %s", met, test.meet)
			}
		})
	}
}

// A registration that met a fault has not happened, and one that was only held
// back has.
func TestRegistrationsMeetFaults(t *testing.T) {
	eachWay(t, func(t *testing.T, s *consultest.Server, c *http.Client) {
		client := agentOver(t, c)
		register := func() error {
			return client.Agent().ServiceRegister(&api.AgentServiceRegistration{Name: "web", Port: 80})
		}
		s.Script(consultest.NoLeader().On(consultest.Registrations), consultest.Reset().On(consultest.Registrations),
			consultest.Delay(time.Millisecond).On(consultest.Registrations))
		if err := register(); err == nil || !strings.Contains(err.Error(), "No cluster leader") {
			t.Errorf("got %v", err)
		}
		if err := register(); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("got %v", err)
		}
		if got, _ := health(t, client, "web", true); got != "" {
			t.Errorf("registered in spite of the faults: %s", got)
		}
		must(t, register())
		if got, _ := health(t, client, "web", true); got != "web=passing" {
			t.Errorf("got %q", got)
		}
	})
}

func TestImpossibleFaultsAreRefused(t *testing.T) {
	for want, build := range map[string]func(){
		`bad pattern "health": want "/path" or "METHOD /path"`: func() { consultest.Empty().On("health") },
		"a fault cannot happen 0 times: want 1 or more":        func() { consultest.Empty().Times(0) },
		"a list cannot lack a share of 50: want 0 to 1":        func() { consultest.Without(50) },
		"a list cannot lack -1 entries: want 0 or more":        func() { consultest.WithoutFirst(-1) },
	} {
		t.Run(want, func(t *testing.T) {
			defer func() {
				if text, _ := recover().(string); !strings.HasPrefix(text, "consultest: "+want) {
					t.Errorf("got %q", text)
				}
			}()
			build()
		})
	}
}

// Methods of a fault make another one, as those of time.Time do.
func TestFaultsAreValues(t *testing.T) {
	s, client := newAgent(t)
	four(t, s)
	empty := consultest.Empty()
	_ = empty.On(consultest.KeyValues).Service("db").Times(1).And(consultest.NoLeader())
	s.Inject(empty)
	for range 2 {
		if got, _ := health(t, client, "web", true); got != "" {
			t.Errorf("got %q", got)
		}
	}
}
