package consul_test

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/internal/certtest"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// startSecureConsul runs a real Consul as production has it: its API by TLS alone, gossip
// encrypted, ACLs that deny. The environment has its authority.
func startSecureConsul(t *testing.T) (address string, client *api.Client) {
	t.Helper()
	authority, dir := certtest.New(t), t.TempDir()
	leaf := authority.Issue(t, "127.0.0.1", "localhost", "server.dc1.consul")
	key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	roots := put("ca.pem", authority.PEM)
	certificate := put("cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate[0]}))
	private := put("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	t.Setenv("CONSUL_HTTP_SSL", "true")
	t.Setenv("CONSUL_CACERT", roots)
	return runGuardedConsul(t, "-https-port=", "-http-port=-1",
		"-encrypt="+base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32))),
		"-hcl", fmt.Sprintf(`tls { defaults { ca_file = %q cert_file = %q key_file = %q verify_outgoing = true } }`, roots, certificate, private))
}

// rule is one of a policy.
var rule = regexp.MustCompile(`(?m)^\w+ "[^"]*" \{[^}]*\}\n`)

// What each policy of deploy/consul/policies is for, by a Consul with TLS, encrypted gossip
// and ACLs that deny: with it all works, and without any one rule of it something does not.
func TestPoliciesAreWhatEachRoleNeeds(t *testing.T) {
	address, client := startSecureConsul(t)
	called := instance("catalog-0", serveHealth(t))
	mustRegister(t, dial(t, agent{address: address}, consul.Config{Token: master}), called)

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
				d := dial(t, agent{address: address}, consul.Config{Token: token.SecretID})
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
