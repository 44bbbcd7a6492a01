package consultest_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// Region and zone of a registration are shown wherever Consul shows them.
func TestLocality(t *testing.T) {
	eachWay(t, func(t *testing.T, s *consultest.Server, c *http.Client) {
		client := agentOver(t, c)
		here := api.Locality{Region: "eu-west-1", Zone: "eu-west-1a"}
		must(t, client.Agent().ServiceRegister(&api.AgentServiceRegistration{ID: "far", Name: "web", Locality: &here}))
		must(t, s.Register(consultest.Service{ID: "near", Name: "web", Locality: &consultest.Locality{Region: "eu-west-1", Zone: "eu-west-1a"}}))
		must(t, s.Register(consultest.Service{ID: "nowhere", Name: "web"}))
		entries, _, err := client.Health().Service("web", "", true, nil)
		must(t, err)
		for _, e := range entries {
			if got := e.Service.Locality; e.Service.ID == "nowhere" && got != nil || e.Service.ID != "nowhere" && (got == nil || *got != here) {
				t.Errorf("%s is in %+v", e.Service.ID, got)
			}
		}
		agents, _, err := client.Agent().Service("far", nil)
		must(t, err)
		if agents.Locality == nil || *agents.Locality != here {
			t.Errorf("the agent says %+v", agents.Locality)
		}
		listed, _, err := client.Catalog().Service("web", "", nil)
		must(t, err)
		if got := listed[0].ServiceLocality; got == nil || *got != here {
			t.Errorf("the catalog says %+v", got)
		}
	})
}

// Real servers send a Date, and clients compute ages from it.
func TestAnswersHaveADate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newAgent(t)
		time.Sleep(time.Hour)
		s.Inject(consultest.SlowBody(time.Hour))
		got := do(t, &http.Client{Transport: s.Transport()}, "GET", "/v1/health/service/web", "")
		if date, err := http.ParseTime(got.header.Get("Date")); err != nil || time.Since(date) != time.Hour {
			t.Errorf("at %v got %q, %v", time.Now(), got.header.Get("Date"), err)
		}
	})
}

func TestATokenMayReadItself(t *testing.T) {
	eachWay(t, func(t *testing.T, s *consultest.Server, c *http.Client) {
		client := agentOver(t, c)
		root, _, err := client.ACL().TokenReadSelf(&api.QueryOptions{Token: "root"})
		must(t, err)
		if root.SecretID != "root" || len(root.Policies) != 1 || root.Policies[0].Name != "global-management" || root.AccessorID == "" {
			t.Errorf("got %+v", root)
		}
		weak, _, err := client.ACL().TokenReadSelf(&api.QueryOptions{Token: "nothing"})
		must(t, err)
		if len(weak.Policies) != 0 || weak.AccessorID == root.AccessorID || string(weak.Hash) == string(root.Hash) {
			t.Errorf("got %+v", weak)
		}
		for _, header := range []string{"X-Consul-Token: wrong", "X-None: none"} {
			if got := do(t, c, "GET", "/v1/acl/token/self", "", header); got.code != 403 || got.body != "token does not exist: ACL not found" {
				t.Errorf("%s: got %+v", header, got)
			}
		}
		health(t, client, "web", true)
		do(t, c, "GET", "/v1/health/service/web", "", "X-Consul-Token: nothing")
		q := s.Queries()
		if shown, _ := json.Marshal(q); q[0].HasToken || !q[1].HasToken {
			t.Errorf("got %s", shown)
		}
	}, consultest.WithACL("root", "nothing"))
}

func TestWithoutACLThereIsNoTokenToRead(t *testing.T) {
	s, _ := newAgent(t)
	got := do(t, &http.Client{Transport: s.Transport()}, "GET", "/v1/acl/token/self", "", "X-Consul-Token: root")
	if got.code != 401 || got.body != "ACL support disabled" {
		t.Errorf("got %+v", got)
	}
}
