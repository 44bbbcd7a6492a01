package meshlite_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/internal/freeport"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// visit asks an admin page under the name of host; "" is that of its address. code is 0
// while nobody listens.
func visit(t *testing.T, address, path, host string) (code int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Host, request.Close = host, true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(text)
}

// localRequest is one that has come over loopback.
func localRequest(method, path string, body io.Reader) *http.Request {
	r := httptest.NewRequest(method, "http://127.0.0.1"+path, body)
	r.RemoteAddr = "127.0.0.1:40000"
	return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9090}))
}

// eventually waits until a page answers by code, and returns what it says.
func eventually(t *testing.T, address, path string, want int) string {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		code, body := visit(t, address, path, "")
		if code == want {
			return body
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s answers %d %q, want %d", path, code, body, want)
		}
	}
}

// A server that warms up, or stops, is alive and not ready.
//
// Case admin
func TestAServerIsAliveBeforeAndAfterItIsReady(t *testing.T) {
	m := newMesh(t)
	address := freeport.For(t)
	server, err := meshlite.NewServer("catalog", meshlite.WithPlaintext(), meshlite.WithDirectory(m.directory), meshlite.WithLogger(silent),
		meshlite.WithRuntime(newRuntime(t)), meshlite.WithMetricsAddress(address), meshlite.WithDrain(0, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	begun, release := make(chan struct{}), make(chan struct{})
	catalogv1.RegisterCatalogServiceServer(server, &shop{name: "a", work: func() { close(begun); <-release }})
	server.SetServing("", false)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()

	if text := eventually(t, address, "/readyz", 503); !strings.Contains(text, "NOT_SERVING") || !strings.Contains(text, "0 of 1 names are registered") {
		t.Errorf("/readyz says %q while the server warms up, want both reasons", text)
	}
	if code, _ := visit(t, address, "/healthz", ""); code != 200 {
		t.Errorf("/healthz is %d while the server warms up, want 200", code)
	}
	server.SetServing("", true)
	if text := eventually(t, address, "/readyz", 200); text != "ok\n" {
		t.Errorf("/readyz says %q", text)
	}
	server.SetServing("", false)
	eventually(t, address, "/readyz", 503)
	server.SetServing("", true)
	eventually(t, address, "/readyz", 200)

	client, _ := m.client("consul:///catalog", uncached())
	answered := make(chan error, 1)
	go func() {
		_, err := client.GetSweet(context.Background(), &catalogv1.GetSweetRequest{})
		answered <- err
	}()
	<-begun
	cancel()
	eventually(t, address, "/readyz", 503) // until the call ends
	if code, _ := visit(t, address, "/healthz", ""); code != 200 {
		t.Errorf("/healthz is %d while the server drains, want 200", code)
	}
	close(release)
	if err := <-answered; err != nil {
		t.Errorf("the call that ran on: %v", err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// The admin page of a server lists its registrations: id, check, since when, last error.
//
// Case admin
func TestThePageListsTheRegistrations(t *testing.T) {
	m := newMesh(t)
	address := freeport.For(t)
	before := time.Now()
	s := m.serve(&shop{name: "a"}, meshlite.WithMetricsAddress(address), meshlite.WithRegistration(catalog.Registration{Instance: catalog.Instance{Service: "sweets"}}))
	eventually(t, address, "/readyz", 200)
	read := func() (names []string, kept []consul.Registration) {
		code, body := visit(t, address, "/debug/meshlite", "")
		var page struct {
			Registrations struct {
				Names []string
				Kept  []consul.Registration
			}
		}
		if err := json.Unmarshal([]byte(body), &page); err != nil || code != 200 {
			t.Fatalf("%d %v: %.300s", code, err, body)
		}
		return page.Registrations.Names, page.Registrations.Kept
	}
	names, kept := read()
	if len(names) != 2 || len(kept) != 2 || kept[0].Service != "catalog" || kept[1].Service != "sweets" {
		t.Fatalf("%v and %+v, want both names", names, kept)
	}
	for _, r := range kept {
		callable := m.instances("catalog")[0]
		if !r.Registered || r.ID == "" || r.Address != callable || !strings.HasPrefix(r.Check, "gRPC health of "+callable+" every 5s") ||
			r.RegisteredAt.Before(before) || r.ConfirmedAt.Before(r.RegisteredAt) || r.LastError != "" {
			t.Errorf("%+v of the instance at %s", r, callable)
		}
	}
	m.agent.Close() // the agent goes away
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		_, kept = read()
		if r := kept[0]; !r.Registered && strings.Contains(r.LastError, "consul at ") && r.LastErrorAt.After(r.RegisteredAt) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v, want the last error", kept[0])
		}
	}
	if code, text := visit(t, address, "/readyz", ""); code != 200 {
		t.Errorf("/readyz is %d in an outage of Consul: %s", code, text)
	}
	_ = s.stop()
}

// Health answers for "", for each gRPC service and for the names in Consul, which go with
// "" unless they are named.
//
// Case admin
func TestHealthAnswersForAllNames(t *testing.T) {
	m := newMesh(t)
	server, err := meshlite.NewServer("catalog", meshlite.WithPlaintext(), meshlite.WithDirectory(m.directory), meshlite.WithLogger(silent),
		meshlite.WithRuntime(newRuntime(t)), tagged("sweets"), tagged("closed"), meshlite.WithDrain(0, time.Second))
	if err != nil {
		t.Fatal(err)
	}
	catalogv1.RegisterCatalogServiceServer(server, &shop{name: "a"})
	reflection.Register(server.GRPC())
	server.SetServing("closed", false)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	for len(m.instances("closed")) == 0 {
		select {
		case err := <-ended:
			ended <- err
			t.Fatal(err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	conn, err := grpc.NewClient(m.instances("catalog")[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	check := func(want map[string]healthv1.HealthCheckResponse_ServingStatus) {
		t.Helper()
		for name, status := range want {
			answer, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{Service: name})
			if err != nil || answer.GetStatus() != status {
				t.Errorf("%q is %v, %v, want %v", name, answer.GetStatus(), err, status)
			}
		}
	}
	const yes, no = healthv1.HealthCheckResponse_SERVING, healthv1.HealthCheckResponse_NOT_SERVING
	const own = "sweetshop.catalog.v1.CatalogService"
	check(map[string]healthv1.HealthCheckResponse_ServingStatus{
		"": yes, own: yes, "grpc.health.v1.Health": yes, "grpc.reflection.v1.ServerReflection": yes, "catalog": yes, "sweets": yes, "closed": no,
	})
	server.SetServing("", false)
	check(map[string]healthv1.HealthCheckResponse_ServingStatus{"": no, own: yes, "catalog": no, "sweets": no, "closed": no})
	server.SetServing("", true)
	server.SetServing("closed", true)
	check(map[string]healthv1.HealthCheckResponse_ServingStatus{"": yes, "catalog": yes, "sweets": yes, "closed": yes})
	_, err = healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{Service: "other"})
	if status.Code(err) != codes.NotFound {
		t.Errorf("a service that is not here: %v, want NOT_FOUND", err)
	}
}

// DNS rebinding, through the front door: a name that is not ours opens neither profiles
// nor what is in memory, and metrics and health are for all names.
//
// Case admin
func TestAForeignHostOpensNoPage(t *testing.T) {
	m := newMesh(t)
	address := freeport.For(t)
	m.serve(&shop{name: "a"}, meshlite.WithMetricsAddress(address, "web-1.example.com"))
	for host, want := range map[string]int{"": 200, "localhost:1": 200, "web-1.example.com": 403, "evil.example": 403} {
		for _, path := range []string{"/", "/debug/meshlite", "/debug/pprof/", "/debug/pprof/heap"} {
			if code, text := visit(t, address, path, host); code != want {
				t.Errorf("host %q: %s is %d %.100s, want %d", host, path, code, text, want)
			}
		}
		for _, path := range []string{"/metrics", "/healthz", "/readyz"} {
			if code, _ := visit(t, address, path, host); code == 403 {
				t.Errorf("host %q: %s is refused", host, path)
			}
		}
	}
	_, err := meshlite.NewServer("catalog", meshlite.WithPlaintext(), meshlite.WithDirectory(m.directory), meshlite.WithMetricsAddress("127.0.0.1:0", ""))
	if err == nil || !strings.Contains(err.Error(), "WithMetricsAddress") {
		t.Errorf("%v, want an error that names the option", err)
	}
}
