package consul_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// rule is one of a policy.
var rule = regexp.MustCompile(`(?m)^\w+ "[^"]*" \{[^}]*\}\n`)

// What each policy of deploy/consul/policies is for, by a Consul with TLS, encrypted gossip
// and ACLs that deny: with it all works, and without any one rule of it something does not.
func TestPoliciesAreWhatEachRoleNeeds(t *testing.T) {
	a := startSecured(t)
	client := a.operator(t)
	called := instance("catalog-0", serveHealth(t))
	mustRegister(t, dial(t, a, consul.Config{Token: a.operations}), called)

	register := func(service string) func(*testing.T, *consul.Directory) error {
		return func(t *testing.T, d *consul.Directory) error {
			r := instance(service+"-1", called.Address)
			r.Service = service
			lease, err := d.Register(t.Context(), r)
			if err != nil {
				return err
			}
			return lease.Deregister(context.Background())
		}
	}
	list := func(t *testing.T, d *consul.Directory) error {
		entries, err := d.Entries(t.Context(), catalog.Query{Service: "catalog"})
		if err == nil && len(entries) != 1 {
			err = fmt.Errorf("%d instances are listed, want 1", len(entries))
		}
		return err
	}
	node := func(t *testing.T, d *consul.Directory) error { _, err := d.NodeAddress(t.Context()); return err }
	intentions := func(t *testing.T, d *consul.Directory) error {
		set, err := d.Intentions(t.Context(), "catalog")
		if err == nil && set.DefaultReason != "" {
			err = errors.New(set.DefaultReason)
		}
		return err
	}
	for role, needs := range map[string][]func(*testing.T, *consul.Directory) error{
		"service":  {register("catalog"), list, node, intentions},
		"client":   {list},
		"gateway":  {register("gateway"), list, node},
		"operator": {list, intentions, func(t *testing.T, d *consul.Directory) error { _, err := d.Agent(t.Context()); return err }},
	} {
		t.Run(role, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "consul", "policies", role+".hcl"))
			if err != nil {
				t.Fatal(err)
			}
			works := func(t *testing.T, name, rules string) error {
				t.Helper()
				if _, _, err := client.ACL().PolicyCreate(&api.ACLPolicy{Name: name, Rules: rules}, nil); err != nil {
					t.Fatal(err)
				}
				token, _, err := client.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{Name: name}}}, nil)
				if err != nil {
					t.Fatal(err)
				}
				d := dial(t, a, consul.Config{Token: token.SecretID})
				var all error
				for _, need := range needs {
					all = errors.Join(all, need(t, d))
				}
				return all
			}
			if err := works(t, role, string(text)); err != nil {
				t.Errorf("with the whole policy: %v", err)
			}
			rules := rule.FindAllString(string(text), -1)
			if len(rules) < 2 {
				t.Fatalf("%d rules are found", len(rules))
			}
			for i, one := range rules {
				if err := works(t, fmt.Sprintf("%s-without-%d", role, i), strings.Replace(string(text), one, "", 1)); err == nil {
					t.Errorf("nothing needs %s", one)
				}
			}
		})
	}
}

// A token that ends, or loses a right, while a watch is open: an error that names what is
// missing is reported, and never an empty list, so the last known instances serve on. A new
// token in the file, or the right given back, ends it without a restart.
func TestATokenThatLosesItsRightKeepsTheLastInstances(t *testing.T) {
	a := startSecured(t)
	client := a.operator(t)
	first, second := instance("catalog-1", serveHealth(t)), instance("catalog-2", serveHealth(t))
	third := instance("catalog-3", serveHealth(t))
	operator := dial(t, a, consul.Config{Token: a.operations})
	mustRegister(t, operator, first)
	readable := `service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }`
	policy, _, err := client.ACL().PolicyCreate(&api.ACLPolicy{Name: "shop", Rules: readable}, nil)
	if err != nil {
		t.Fatal(err)
	}
	change := func(rules string) {
		t.Helper()
		policy.Rules = rules
		if _, _, err := client.ACL().PolicyUpdate(policy, nil); err != nil {
			t.Fatal(err)
		}
	}
	path, token := filepath.Join(t.TempDir(), "token"), newToken(t, client)
	write(t, path, token.SecretID)
	w := watch(dial(t, a, consul.Config{TokenFile: path, Wait: time.Second}), catalog.Query{Service: "catalog"})
	defer w.stop()
	w.await(t, first.Address)

	change(`key_prefix "none" { policy = "read" }`)
	w.awaitErrors(t, 0)
	expect(t, "the watch", w.lastError(), "service:read")
	if got, _ := w.last(); len(got.Instances) != 1 {
		t.Errorf("the last report has %v, want the instance of before", addressesOf(got))
	}
	change(readable)
	mustRegister(t, operator, second)
	w.await(t, first.Address, second.Address)
	refused := w.awaitErrors(t, 0) // it reads again, so no error of before follows

	if _, err := client.ACL().TokenDelete(token.AccessorID, nil); err != nil {
		t.Fatal(err)
	}
	w.awaitErrors(t, refused)
	expect(t, "the watch", w.lastError(), "CONSUL_HTTP_TOKEN_FILE")
	if got, _ := w.last(); len(got.Instances) != 2 {
		t.Errorf("the last report has %v, want the instances of before", addressesOf(got))
	}
	write(t, path, newToken(t, client).SecretID)
	mustRegister(t, operator, third)
	w.await(t, first.Address, second.Address, third.Address)
}

// awaitErrors waits for more than n errors, and returns how many there are.
func (r *reports) awaitErrors(t *testing.T, n int) int {
	t.Helper()
	for deadline := time.After(60 * time.Second); ; {
		r.mu.Lock()
		count := len(r.errs)
		r.mu.Unlock()
		if count > n {
			return count
		}
		select {
		case <-time.After(20 * time.Millisecond): // await takes the news
		case <-deadline:
			t.Fatal("the watch reports no error")
		}
	}
}
