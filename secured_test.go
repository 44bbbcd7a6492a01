package meshlite_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/interceptors/authz"
	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// securedMesh is a mesh of a secured agent, in which each service has the rights of its
// policy in deploy/consul/policies alone.
type securedMesh struct {
	t     *testing.T
	agent *agenttest.Secured
}

// program is a service with its own token, certificate and log.
type program struct {
	common meshlite.Options
	token  *agenttest.Grant
	log    *logged
	// directory is the agent with the token of the program.
	directory *consul.Directory
}

func (m securedMesh) program(service, token string) *program {
	m.t.Helper()
	p := &program{log: &logged{}, token: m.agent.Token(service, token, agenttest.Policy(m.t, "service", service))}
	logger := slog.New(slog.NewTextHandler(p.log, nil))
	var err error
	if p.directory, err = consul.New(consul.Config{
		Address: m.agent.Address, Token: token, Heartbeat: time.Second, Wait: time.Second, Logger: logger,
	}); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(p.directory.Close)
	p.common = meshlite.Options{
		meshlite.WithTransportCredentials(identityOf(m.t, p.directory, service)), meshlite.WithDirectory(p.directory),
		meshlite.WithLogger(logger), meshlite.WithRuntime(newRuntime(m.t)), uncached(),
	}
	return p
}

// serve runs a catalog that asks the intentions until stop.
func (m securedMesh) serve(p *program, s *shop) (stop func()) {
	m.t.Helper()
	authorized := authorizedBy(m.t, authz.WithWatcher(p.directory))
	server, err := meshlite.NewServer("catalog", p.common, meshlite.WithInterceptors(authorized), meshlite.WithDrain(0, time.Second))
	if err != nil {
		m.t.Fatal(err)
	}
	catalogv1.RegisterCatalogServiceServer(server, s)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); <-ended })
	m.t.Cleanup(stop)
	select {
	case <-server.Ready():
	case err := <-ended:
		ended <- nil
		m.t.Fatalf("the server ended: %v", err)
	}
	return stop
}

// awaitLines waits for n lines of a log with text.
func awaitLines(t *testing.T, log *logged, n int, text string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); strings.Count(log.String(), text) < n; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%q is logged less than %d times:\n%s", text, n, log)
		}
	}
}

// A Consul with TLS, encrypted gossip and ACLs that deny, and the policies of the repository:
// a server registers, has its certificate signed and obeys intentions, and a client finds
// and calls it. When its token loses its rights, calls go on to the last known instances, one
// line names what is missing, and one says that it is over, without a restart.
func TestASecuredConsulCarriesTheMesh(t *testing.T) {
	m := securedMesh{t, agenttest.StartSecured(t)}
	m.agent.Send("PUT", "/v1/connect/intentions/exact?source=storefront&destination=catalog", map[string]any{"Action": "allow"}, nil)
	served := m.program("catalog", "aaaaaaaa-2222-3333-4444-555555555555")
	stop := m.serve(served, &shop{name: "a"})

	// The client calls catalog, so it has the rights of a client, too.
	const secret = "bbbbbbbb-2222-3333-4444-555555555555"
	rules := agenttest.Policy(t, "service", "storefront") + agenttest.Policy(t, "client", "storefront")
	mine := m.program("storefront", secret)
	mine.token.Change(rules)
	dialed := func(p *program) catalogv1.CatalogServiceClient {
		conn, err := meshlite.NewClient("consul:///catalog", p.common)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return catalogv1.NewCatalogServiceClient(conn)
	}
	client := dialed(mine)
	awaitCode(t, client, codes.OK)
	other := m.program("ops", "cccccccc-2222-3333-4444-555555555555")
	other.token.Change(agenttest.Policy(t, "service", "ops") + agenttest.Policy(t, "client", "ops"))
	awaitCode(t, dialed(other), codes.PermissionDenied)

	before := mine.log.String()
	mine.token.Change(agenttest.Policy(t, "service", "storefront")) // no service but its own
	awaitLines(t, mine.log, 1, "discovery fails")
	requests := mine.directory.Stats()[0].Requests // an answer that ACLs have emptied is no failed one
	for deadline := time.Now().Add(time.Minute); mine.directory.Stats()[0].Requests < requests+4; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the watch does not go on")
		}
	}
	if code := codeOf(t, client); code != codes.OK {
		t.Errorf("without the right a call ends with %v, want the last known instances", code)
	}
	mine.token.Change(rules)
	awaitLines(t, mine.log, 1, "discovery works again")

	// What is registered from now on is found.
	stop()
	m.serve(served, &shop{name: "b"})
	awaitCode(t, client, codes.OK)
	if got := get(t, client, "x"); got != "b" {
		t.Errorf("the answer is of %q, want the new instance's", got)
	}
	lines := strings.TrimPrefix(mine.log.String(), before)
	if n := strings.Count(lines, "discovery fails"); n != 1 || !strings.Contains(lines, "service:read") {
		t.Errorf("the loss is logged %d times, want once and with what is missing:\n%s", n, lines)
	}
	if strings.Contains(lines, secret) {
		t.Errorf("the token is logged:\n%s", lines)
	}
	if served := served.log.String(); strings.Contains(served, "level=ERROR") {
		t.Errorf("the server logs an error:\n%s", served)
	}
}

// awaitCode calls until the answer is code.
func awaitCode(t *testing.T, client catalogv1.CatalogServiceClient, want codes.Code) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		got := codeOf(t, client)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("calls end with %v, want %v", got, want)
		}
	}
}
