package consul_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// seen collects the tokens that an agent is given.
type seen struct {
	mu     sync.Mutex
	tokens []string
}

func (s *seen) collect(_ http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = append(s.tokens, r.Header.Get("X-Consul-Token"))
	return false
}

func (s *seen) last() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tokens[len(s.tokens)-1]
}

// write puts a token into a file as a careful writer does, in one step.
func write(t *testing.T, path, token string) {
	t.Helper()
	next := path + ".next"
	if err := os.WriteFile(next, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
}

// A token that is rotated in its file is used from the next request on, by watches
// that are open too; a file that is away or empty for a while changes nothing.
func TestARotatedTokenIsUsedByTheNextRequest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write(t, path, "first-secret\n")
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		defer agent.Close()
		var got seen
		agent.Intercept(got.collect)
		log := newJournal()
		d, err := consul.New(consul.Config{Address: "127.0.0.1:8500", TokenFile: path, Transport: agent.Transport(), Logger: slog.New(log)})
		if err != nil {
			t.Fatal(err)
		}
		r := watch(d, catalog.Query{Service: "catalog"})
		defer r.stop()
		port := 80
		step := func(want string) {
			t.Helper()
			port++
			register(t, agent, "catalog-1", port) // wakes the watch
			synctest.Wait()
			if token := got.last(); token != want {
				t.Errorf("the watch goes on with %q, want %q", token, want)
			}
		}
		step("first-secret")
		write(t, path, "second-secret")
		step("second-secret")
		for range 3 {
			write(t, path, " \n")
			step("second-secret")
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		step("second-secret")
		write(t, path, "third-secret")
		step("third-secret")
		if len(log.lines) != 1 {
			t.Errorf("%d lines are logged of one spell without a token, want one", len(log.lines))
		}
		for len(log.lines) > 0 {
			if line := <-log.lines; strings.Contains(line, "secret") || !strings.Contains(line, path) {
				t.Errorf("the log says %q, want the file and no token", line)
			}
		}
	})
}

// Each way in which a file becomes another is noticed: written in place with a token of
// the same length, or with one of another length at the same time, or replaced by a
// file of the same length and time, as a copy that keeps times is.
func TestATokenIsReadAgainHoweverItsFileChanges(t *testing.T) {
	when := time.Now().Add(-time.Hour).Truncate(time.Second)
	put := func(t *testing.T, path, token string, when time.Time) {
		t.Helper()
		if err := os.WriteFile(path, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		token  string
		change func(t *testing.T, path, token string)
	}{
		"in place, of the same length": {"secret-2", func(t *testing.T, path, token string) { put(t, path, token, when.Add(time.Minute)) }},
		"in place, and dated back":     {"secret-2", func(t *testing.T, path, token string) { put(t, path, token, when.Add(-time.Minute)) }},
		"in place, at the same time":   {"secret-22", func(t *testing.T, path, token string) { put(t, path, token, when) }},
		"by another file": {"secret-2", func(t *testing.T, path, token string) {
			put(t, path+".next", token, when)
			if err := os.Rename(path+".next", path); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "token")
			put(t, path, "secret-1", when)
			agent := consultest.New()
			defer agent.Close()
			var got seen
			agent.Intercept(got.collect)
			d := newDirectory(t, agent, consul.Config{TokenFile: path})
			if _, err := d.NodeAddress(t.Context()); err != nil || got.last() != "secret-1" {
				t.Fatalf("the token is %q, %v", got.last(), err)
			}
			test.change(t, path, test.token)
			if _, err := d.NodeAddress(t.Context()); err != nil || got.last() != test.token {
				t.Errorf("the token is %q, %v; want %q", got.last(), err, test.token)
			}
		})
	}
}

// The agent writes to the catalog with the token of the registration, so a rotated
// one has to reach it, within a heartbeat, before the old one ends.
func TestARotatedTokenReachesTheAgent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write(t, path, "first")
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New(passingProbe())
		defer agent.Close()
		var got seen
		agent.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			return r.URL.Path == "/v1/agent/service/register" && got.collect(w, r)
		})
		mustRegister(t, newDirectory(t, agent, consul.Config{TokenFile: path}), instance("catalog-1", "10.0.0.1:80"))
		time.Sleep(time.Minute)
		write(t, path, "second")
		time.Sleep(6*time.Second + time.Millisecond)
		if got.last() != "second" {
			t.Errorf("a heartbeat after the rotation the agent has the token %q", got.last())
		}
		time.Sleep(time.Minute)
		if n := len(got.tokens); n != 2 {
			t.Errorf("registered %d times, want once for each token", n)
		}
	})
}

func TestTokensByTheirOrder(t *testing.T) {
	dir := t.TempDir()
	ours, theirs := filepath.Join(dir, "ours"), filepath.Join(dir, "theirs")
	write(t, ours, "of our file")
	write(t, theirs, "of their file")
	t.Setenv("CONSUL_HTTP_TOKEN", "of the environment")
	for _, test := range []struct {
		config      consul.Config
		environment string
		want        string
	}{
		{consul.Config{}, "", "of the environment"},
		{consul.Config{}, theirs, "of their file"},
		{consul.Config{TokenFile: ours}, theirs, "of our file"},
		{consul.Config{TokenFile: ours, Token: "ours"}, theirs, "ours"},
		{consul.Config{Token: "of the environment"}, theirs, "of the environment"},
	} {
		t.Run(test.want, func(t *testing.T) {
			t.Setenv("CONSUL_HTTP_TOKEN_FILE", test.environment)
			agent := consultest.New()
			defer agent.Close()
			var got seen
			agent.Intercept(got.collect)
			d := newDirectory(t, agent, test.config)
			if _, err := d.NodeAddress(t.Context()); err != nil || got.last() != test.want {
				t.Errorf("the token is %q, %v; want %q", got.last(), err, test.want)
			}
			other, err := d.At("127.0.0.2:8500")
			if err != nil {
				t.Fatal(err)
			}
			r := watch(other, catalog.Query{Service: "catalog"})
			defer r.stop()
			if r.await(t); got.last() != test.want {
				t.Errorf("another agent is given %q, want %q", got.last(), test.want)
			}
		})
	}
}

func TestATokenFileIsCheckedWhenTheDirectoryIsMade(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"empty": " \n", "lines": "secret\nsecret\n"} {
		write(t, filepath.Join(dir, name), content)
	}
	for name, want := range map[string]string{"missing": "no such file", "empty": "it is empty", "lines": "more than one line"} {
		path := filepath.Join(dir, name)
		_, err := consul.New(consul.Config{TokenFile: path})
		expect(t, name, err, want)
		expect(t, name, err, path)
	}
}

// X12: an agent that redirects elsewhere does not get the token sent there.
//
// Case X12 (target)
func TestATokenIsNotSentToWhereTheAgentRedirects(t *testing.T) {
	var asked atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer other.Close()
	elsewhere := strings.Replace(other.URL, "127.0.0.1", "localhost", 1)
	agent := httptest.NewServer(http.RedirectHandler(elsewhere, http.StatusFound))
	defer agent.Close()
	d, err := consul.New(consul.Config{Address: agent.Listener.Addr().String(), Token: "hunter2", Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	_, err = d.NodeAddress(t.Context())
	if err == nil || !strings.Contains(err.Error(), "redirects to localhost") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the redirect is answered by %v", err)
	}
	if _, err = d.Agent(t.Context()); err == nil {
		t.Error("the agent describes itself in spite of the redirect")
	}
	if asked.Load() != 0 {
		t.Error("the other host was asked")
	}
}
