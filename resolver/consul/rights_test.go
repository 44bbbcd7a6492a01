package consul_test

import (
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/interceptors/authz"
	"github.com/meshlite-go/meshlite/internal/sourcetest"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// asked records when requests are sent whose paths begin with one of some prefixes.
type asked struct {
	http.RoundTripper
	prefixes []string

	mu    sync.Mutex
	times []time.Time
}

func (a *asked) RoundTrip(r *http.Request) (*http.Response, error) {
	if slices.ContainsFunc(a.prefixes, func(prefix string) bool { return strings.HasPrefix(r.URL.Path, prefix) }) {
		a.mu.Lock()
		a.times = append(a.times, time.Now())
		a.mu.Unlock()
	}
	return a.RoundTripper.RoundTrip(r)
}

// between are the pauses between the requests in a time.
func (a *asked) between(from, to time.Time) (pauses []time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, at := range a.times {
		if at.After(from) && at.Before(to) {
			pauses = append(pauses, at.Sub(from))
			from = at
		}
	}
	return append(pauses, to.Sub(from))
}

// rightsScene is an agent, and a directory that logs to log.
type rightsScene struct {
	*testing.T
	agent     *consultest.Server
	directory *consul.Directory
	log       *slog.Logger
}

// right is what a token may do, and what goes on without it.
type right struct {
	paths []string      // of requests that are refused without it
	retry time.Duration // the longest pause between two attempts without it
	begin func(*rightsScene) following
	names string // what the line about its loss has to name, "" if another room logs it
}

// following is what a process keeps up to date by a right.
type following struct {
	holds  func() bool // whether what was last known still is
	change func()      // something that is to be noticed
	seen   func() bool // whether it was
}

// rights has no watch of policies: these are of the program, and read when it starts.
var rights = map[string]right{
	"leaf": {[]string{"/v1/agent/connect/ca/leaf/"}, 31 * time.Second, func(s *rightsScene) following {
		i := newIdentity(s, s.directory, "catalog")
		first := next(s, i, nil)
		now := func() *identity.Snapshot { n, _ := i.Current(); return n }
		return following{
			holds:  func() bool { return now().Leaf().Equal(first.Leaf()) },
			change: s.agent.RotateCA,
			seen:   func() bool { return !now().Leaf().Equal(first.Leaf()) },
		}
	}, "service:write on"},
	"intentions": {[]string{"/v1/connect/intentions/match"}, 15 * time.Second, func(s *rightsScene) following {
		setIntentions(s.T, s.agent, "catalog", `[{"Name":"web","Action":"allow"}]`)
		a, err := authz.New("catalog", authz.WithWatcher(s.directory), authz.WithLogger(s.log))
		if err != nil {
			s.Fatal(err)
		}
		s.Cleanup(a.Close)
		if err := a.Wait(s.Context()); err != nil {
			s.Fatal(err)
		}
		return following{
			holds: func() bool { return a.Stats().Intentions == 1 },
			change: func() {
				setIntentions(s.T, s.agent, "catalog", `[{"Name":"web","Action":"allow"},{"Name":"ops","Action":"allow"}]`)
			},
			seen: func() bool { return a.Stats().Intentions == 2 && !a.Stats().Failing },
		}
	}, "intentions:read on"},
	"default of intentions": {[]string{"/v1/agent/self"}, 64 * time.Second, func(s *rightsScene) following {
		r := watchIntentions(s.T, s.directory, "catalog")
		const changed = "allow, web => catalog deny"
		return following{
			holds:  func() bool { return slices.Equal(r.all(), []string{"allow"}) },
			change: func() { setIntentions(s.T, s.agent, "catalog", `[{"Name":"web","Action":"deny"}]`) },
			seen:   func() bool { return slices.Equal(r.all(), []string{"allow", changed}) },
		}
	}, "default of intentions"},
	"registration": {[]string{"/v1/agent/health/service/id/", "/v1/agent/service/register"}, 6 * time.Second, func(s *rightsScene) following {
		mustRegister(s.T, s.directory, instance("catalog-1", "10.0.0.1:80"))
		registered := func() bool {
			entries, err := s.directory.Entries(s.Context(), catalog.Query{Service: "catalog"})
			return err == nil && len(entries) == 1
		}
		return following{
			holds: registered,
			change: func() {
				if err := s.agent.Deregister("catalog-1"); err != nil {
					s.Error(err)
				}
			},
			seen: registered,
		}
	}, "service:read"},
	"discovery": {[]string{"/v1/health/service/"}, 15 * time.Second, func(s *rightsScene) following {
		register(s.T, s.agent, "catalog-1", 80)
		r := watch(s.directory, catalog.Query{Service: "catalog"})
		s.Cleanup(r.stop)
		size := func() int { snapshot, _ := r.last(); return len(snapshot.Instances) }
		return following{
			holds:  func() bool { return size() == 1 },
			change: func() { register(s.T, s.agent, "catalog-2", 81) },
			seen:   func() bool { return size() == 2 },
		}
	}, ""}, // the resolver logs it
}

// A token that loses a right while everything runs, for half an hour: what was last known
// holds, one line says what is missing and one that it is over, the agent is asked again at
// bounded intervals, and what has changed meanwhile is noticed without a restart.
func TestARightThatIsLostForAWhile(t *testing.T) {
	for name, right := range rights {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				agent := consultest.New(passingProbe())
				defer agent.Close()
				text := &sourcetest.Log{}
				s := &rightsScene{T: t, agent: agent, log: slog.New(slog.NewTextHandler(text, nil))}
				var err error
				asked := &asked{RoundTripper: agent.Transport(), prefixes: right.paths}
				if s.directory, err = consul.New(consul.Config{Address: "127.0.0.1:8500", Transport: asked, Logger: s.log}); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(s.directory.Close)
				f := right.begin(s)
				time.Sleep(2 * time.Minute)
				if !f.holds() {
					t.Fatal("nothing is known before the right is lost")
				}
				before := text.String()

				lift := agent.Inject(consultest.Forbidden().On(right.paths...))
				lostAt := time.Now()
				time.Sleep(30 * time.Minute)
				if !f.holds() {
					t.Error("what was last known does not hold")
				}
				loss := strings.TrimPrefix(text.String(), before)
				f.change()
				lift()
				liftedAt := time.Now()
				time.Sleep(right.retry + time.Minute)
				if !f.seen() {
					t.Error("what has changed is not noticed once the right is back")
				}

				pauses := asked.between(lostAt, liftedAt)
				if longest := slices.Max(pauses); longest > right.retry {
					t.Errorf("no attempt for %v, want one in %v", longest, right.retry)
				}
				if len(pauses) > 450 { // heartbeats, which are no faster than before
					t.Errorf("%d attempts in half an hour", len(pauses))
				}
				if right.names == "" {
					return
				}
				if n := strings.Count(loss, "level=WARN") + strings.Count(loss, "level=ERROR"); n != 1 || !strings.Contains(loss, right.names) {
					t.Errorf("the loss is logged in %d lines, want one that names %q:\n%s", n, right.names, loss)
				}
				if end := strings.TrimPrefix(text.String(), before+loss); strings.Count(end, "level=INFO") != 1 {
					t.Errorf("the end of it is logged as:\n%s", end)
				}
			})
		})
	}
}
