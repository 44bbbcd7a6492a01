package consul_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/identity/intention"
	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// watchIntentions reports the default and the intentions.
func watchIntentions(t *testing.T, d *consul.Directory, destination string) *reportLines {
	return follow(t, func(ctx context.Context, r *reportLines) {
		d.WatchIntentions(ctx, destination, func(set intention.Set, err error) {
			line := string(set.Default)
			for _, i := range set.Intentions {
				line += fmt.Sprintf(", %v %s", &i, i.Action)
			}
			r.add(line, err)
		})
	})
}

func setIntentions(t *testing.T, agent *consultest.Server, destination, sources string) {
	t.Helper()
	if err := agent.SetIntentions(destination, sources); err != nil {
		t.Fatal(err)
	}
}

// A change is reported at once, an outage as an error, and what follows it too.
func TestIntentionsAreWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		t.Cleanup(agent.Close)
		d := newDirectory(t, agent, consul.Config{})
		t.Cleanup(d.Close)
		r := watchIntentions(t, d, "catalog")
		synctest.Wait()
		setIntentions(t, agent, "catalog", `[{"Name":"web","Action":"allow"}]`)
		time.Sleep(time.Second)
		setIntentions(t, agent, "*", `[{"Name":"*","Action":"deny"}]`)
		time.Sleep(time.Second)
		agent.SetReachable(false)
		time.Sleep(10 * time.Minute)
		agent.SetReachable(true)
		setIntentions(t, agent, "catalog", "")
		time.Sleep(time.Minute)
		r.want(t, "allow", "allow, web => catalog allow", "allow, web => catalog allow, * => * deny",
			"consul at 127.0.0.1:8500 closed the connection...", "consul at 127.0.0.1:8500 refused the connection...", "allow, * => * deny")
	})
}

// Hours without a change take one query a minute, and an agent that answers at once without
// a change is not flooded.
func TestIntentionsThatDoNotChangeCostLittle(t *testing.T) {
	for name, fault := range map[string]func(*consultest.Server){
		"blocks":        func(*consultest.Server) {},
		"answers early": func(s *consultest.Server) { s.Inject(consultest.IndexZero().On("/v1/connect/intentions/")) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				agent := consultest.New()
				t.Cleanup(agent.Close)
				fault(agent)
				d := newDirectory(t, agent, consul.Config{})
				t.Cleanup(d.Close)
				watchIntentions(t, d, "catalog")
				time.Sleep(time.Hour)
				if n := d.Stats()[0].Requests; n < 50 || n > 1000 {
					t.Errorf("%d requests in an hour", n)
				}
			})
		})
	}
}

// All intentions gone at once are read again from the leader before that is believed.
func TestIntentionsThatAreGoneAreReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := consultest.New()
		t.Cleanup(agent.Close)
		setIntentions(t, agent, "catalog", `[{"Name":"*","Action":"deny"}]`)
		agent.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			q := r.URL.Query()
			if r.URL.Path != "/v1/connect/intentions/match" || q.Has("consistent") || !q.Has("index") {
				return false
			}
			w.Header().Set("X-Consul-Index", "1000")
			_, _ = w.Write([]byte(`{"catalog":[]}`)) // of a server that lags behind
			return true
		})
		d := newDirectory(t, agent, consul.Config{})
		t.Cleanup(d.Close)
		r := watchIntentions(t, d, "catalog")
		time.Sleep(time.Minute)
		r.want(t, "allow, * => catalog deny")
	})
}

// What decides where no intention does is what the agent has for its proxies; where it may
// not be read it is deny.
func TestTheDefaultIsTheAgents(t *testing.T) {
	for name, test := range map[string]struct {
		opts   []consultest.Option
		token  string
		faulty bool
		want   string
	}{
		"no ACLs":                    {nil, "", false, "allow"},
		"no ACLs, a policy of deny":  {[]consultest.Option{consultest.WithDefaultIntentionPolicy("deny")}, "", false, "deny"},
		"ACLs":                       {[]consultest.Option{consultest.WithACL("root")}, "root", false, "deny"},
		"ACLs, a policy of allow":    {[]consultest.Option{consultest.WithACL("root"), consultest.WithDefaultIntentionPolicy("allow")}, "root", false, "allow"},
		"without agent:read":         {nil, "", true, "deny"},
		"without intentions:read":    {[]consultest.Option{consultest.WithACL("root", "none")}, "none", false, `give a token with intentions:read on "catalog"`},
		"a policy that is not known": {[]consultest.Option{consultest.WithDefaultIntentionPolicy("ask")}, "", false, "deny"},
	} {
		t.Run(name, func(t *testing.T) {
			agent := consultest.New(test.opts...)
			defer agent.Close()
			if test.faulty {
				defer agent.Inject(consultest.Forbidden().On("/v1/agent/self"))()
			}
			d := newDirectory(t, agent, consul.Config{Token: test.token})
			defer d.Close()
			set, err := d.Intentions(t.Context(), "catalog")
			if err != nil {
				if !strings.Contains(err.Error(), test.want) {
					t.Errorf("%v, want %q", err, test.want)
				}
				return
			}
			if string(set.Default) != test.want || set.TrustDomain != agent.TrustDomain() || test.faulty != strings.Contains(set.DefaultReason, "agent:read") {
				t.Errorf("%+v, want %s", set, test.want)
			}
		})
	}
}

// Answers that are none are errors, so that the last intentions stay.
func TestIntentionsThatCannotBeRead(t *testing.T) {
	agent := consultest.New()
	defer agent.Close()
	d := newDirectory(t, agent, consul.Config{})
	defer d.Close()
	for _, body := range []string{`{}`, `null`, `[]`, `x`, `{"catalog":{}}`, `{"catalog":[{}]}`, `{"catalog":[{"SourceName":"web"`, `{"catalog":"` + strings.Repeat("x", 5<<20) + `"}`} {
		agent.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/v1/connect/intentions/match" {
				_, _ = w.Write([]byte(body))
				return true
			}
			return false
		})
		if set, err := d.Intentions(t.Context(), "catalog"); err == nil {
			t.Errorf("%.40s: %+v", body, set)
		}
	}
	if _, err := d.Intentions(t.Context(), "a/b"); err == nil {
		t.Error("a name with a slash is read")
	}
}

// Case I6
func TestTheRealConsulIsWatched(t *testing.T) {
	agent := agenttest.Start(t)
	d, err := consul.New(consul.Config{Address: agent.Address, Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	r := watchIntentions(t, d, "catalog")
	r.await(t, "allow")
	put(t, agent, `{"Kind":"service-intentions","Name":"catalog","Sources":[{"Name":"web","Action":"allow"},{"Name":"*","Action":"deny"}]}`)
	r.await(t, "allow, web => catalog allow, * => catalog deny")
	put(t, agent, `{"Kind":"service-intentions","Name":"catalog","Sources":[{"Name":"*","Action":"deny"}]}`)
	r.await(t, "allow, * => catalog deny")
	set, err := d.Intentions(t.Context(), "catalog")
	if err != nil || !strings.HasSuffix(set.TrustDomain, ".consul") {
		t.Errorf("%+v, %v", set, err)
	}
}

// The token of a service is enough: what it may write it may read the intentions about.
func TestIntentionsOfAGuardedConsul(t *testing.T) {
	a := startSecured(t)
	client := a.operator(t)
	if _, _, err := client.ACL().PolicyCreate(&api.ACLPolicy{Name: "shop", Rules: `service "catalog" { policy = "write" }`}, nil); err != nil {
		t.Fatal(err)
	}
	read := func(token, destination string) (intention.Set, error) {
		d := dial(t, a, consul.Config{Token: token})
		return d.Intentions(t.Context(), destination)
	}
	token := newToken(t, client).SecretID
	set, err := read(token, "catalog")
	if err != nil || set.Default != intention.Deny || !strings.Contains(set.DefaultReason, "agent:read") || set.TrustDomain == "" {
		t.Errorf("%+v, %v", set, err)
	}
	if _, err := read(token, "prices"); err == nil || !strings.Contains(err.Error(), `intentions:read on "prices"`) {
		t.Error(err)
	}
	if set, err := read(a.operations, "prices"); err != nil || set.Default != intention.Deny || set.DefaultReason != "" {
		t.Errorf("%+v, %v", set, err)
	}
}
