package consul_test

import (
	"context"
	"log/slog"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	"github.com/meshlite-go/meshlite/internal/freeport"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

const master = "11111111-2222-3333-4444-555555555555"

// startGuardedConsul runs a real Consul that enforces access control.
func startGuardedConsul(t *testing.T) (address string, client *api.Client) {
	t.Helper()
	return runGuardedConsul(t, "-http-port=")
}

// runGuardedConsul serves the API at the port that it completes portFlag with.
func runGuardedConsul(t *testing.T, portFlag string, flags ...string) (address string, client *api.Client) {
	t.Helper()
	path := agenttest.Path(t)
	ports, err := freeport.Ports(4)
	if err != nil {
		t.Fatal(err)
	}
	number := func(i int) string { return strconv.Itoa(ports[i]) }
	cmd := exec.Command(path, append([]string{"agent", "-dev", "-log-level=err", "-bind=127.0.0.1", "-client=127.0.0.1",
		portFlag + number(0), "-server-port=" + number(1), "-serf-lan-port=" + number(2), "-serf-wan-port=" + number(3),
		"-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1",
		"-hcl", `acl { enabled = true default_policy = "deny" tokens { initial_management = "` + master + `" agent = "` + master + `" } }`}, flags...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	address = net.JoinHostPort("127.0.0.1", number(0))
	client = apiOf(t, address, nil)
	client.AddHeader("X-Consul-Token", master)
	awaitReady(t, client)
	return address, client
}

// awaitReady waits until the agent is in its own catalog.
func awaitReady(t *testing.T, client *api.Client) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		nodes, _, err := client.Catalog().Nodes(nil)
		if err == nil && len(nodes) > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("consul did not get ready: %v", err)
		}
		time.Sleep(50 * time.Millisecond) // there is no event for it
	}
}

func TestTokensAgainstAConsulWithACLs(t *testing.T) {
	address, client := startGuardedConsul(t)
	directory := func(token string) *consul.Directory {
		return dial(t, agent{address: address}, consul.Config{Token: token})
	}

	right := directory(master)
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

	t.Run("rotation", func(t *testing.T) { rotate(t, address, client) })
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
