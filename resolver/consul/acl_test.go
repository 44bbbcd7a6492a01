package consul_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

func TestTokensAgainstAConsulWithACLs(t *testing.T) {
	a := startSecured(t)
	directory := func(token string) *consul.Directory {
		a.service = token
		return dial(t, a, consul.Config{})
	}

	right := directory(a.operations)
	expect(t, "CheckToken", right.CheckToken(t.Context()), "")
	if got, err := right.Agent(t.Context()); err != nil || !got.ACLs || got.Version == "" {
		t.Errorf("the agent is %+v, %v", got, err)
	}
	expect(t, "CheckToken", directory("").CheckToken(t.Context()), "no token is given")
	expect(t, "CheckToken", directory("a-secret").CheckToken(t.Context()), "rejects the token")
	got, err := directory("a-secret").Agent(t.Context())
	expect(t, "Agent", err, "agent:read")
	if !got.ACLs || got.Leader == "" {
		t.Errorf("the agent is %+v, want ACLs and the leader in any case", got)
	}

	t.Run("rotation", func(t *testing.T) { rotate(t, a.address, a.operator(t)) })
}

// rotate replaces the token of a registration and of a watch while they go on,
// and takes the old one away, with which the agent could write nothing any more.
func rotate(t *testing.T, address string, client *api.Client) {
	if _, _, err := client.ACL().PolicyCreate(&api.ACLPolicy{Name: "shop", Rules: `
		service_prefix "" { policy = "write" }
		node_prefix "" { policy = "read" }`}, nil); err != nil {
		t.Fatal(err)
	}
	first, second := newToken(t, client), newToken(t, client)
	path := filepath.Join(t.TempDir(), "token")
	write(t, path, first.SecretID)
	log := newJournal()
	// A query that is open when its token is deleted may be held to the end of its wait.
	d, err := consul.New(consul.Config{Address: address, TokenFile: path, Heartbeat: time.Second, Wait: 3 * time.Second, Logger: slog.New(log)})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	r := instance("catalog-1", serveHealth(t))
	lease, err := d.Register(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	w := watch(d, catalog.Query{Service: "catalog"})
	defer w.stop()
	w.await(t, r.Address)

	write(t, path, second.SecretID)
	if _, err := client.ACL().TokenDelete(first.AccessorID, nil); err != nil {
		t.Fatal(err)
	}
	log.await(t, "the token has changed")
	if err := client.Agent().ServiceDeregister("catalog-1"); err != nil {
		t.Fatal(err)
	}
	log.await(t, "changed=the service")
	if err := lease.Deregister(context.Background()); err != nil {
		t.Error(err)
	}
	w.await(t)
}

func newToken(t *testing.T, client *api.Client) *api.ACLToken {
	t.Helper()
	token, _, err := client.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{Name: "shop"}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return token
}
