package meshlite_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/internal/child"
	"github.com/meshlite-go/meshlite/internal/consulagent"
	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	"github.com/meshlite-go/meshlite/internal/freeport"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// realMesh is a mesh of a real agent.
type realMesh struct {
	t         *testing.T
	agent     *consulagent.Agent
	directory *consul.Directory
}

func newRealMesh(t *testing.T) *realMesh {
	t.Helper()
	agent := agenttest.Start(t)
	directory, err := consul.New(consul.Config{Address: agent.Address, Heartbeat: time.Second, Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(directory.Close)
	return &realMesh{t, agent, directory}
}

// send writes body, as JSON, to the agent.
func (m *realMesh) send(method, path string, body any) {
	m.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		m.t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(m.t.Context(), method, "http://"+m.agent.Address+path, bytes.NewReader(text))
	if err != nil {
		m.t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		m.t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		m.t.Fatalf("%s %s: %s", method, path, response.Status)
	}
}

// register registers a service at a port of loopback, as one that speaks Consul's TLS itself.
func (m *realMesh) register(service string, port int) {
	m.t.Helper()
	m.send(http.MethodPut, "/v1/agent/service/register", map[string]any{
		"Name": service, "ID": fmt.Sprint(service, port), "Address": "127.0.0.1", "Port": port, "Connect": map[string]any{"Native": true},
	})
}

func (m *realMesh) intention(source, destination, action string) {
	m.t.Helper()
	m.send(http.MethodPut, "/v1/connect/intentions/exact?source="+source+"&destination="+destination, map[string]any{"Action": action})
}

// proxy runs Consul's own proxy until the test ends, and waits until address accepts.
func (m *realMesh) proxy(address string, args ...string) {
	m.t.Helper()
	tail := &child.Tail{}
	cmd := exec.Command(agenttest.Path(m.t), append([]string{"connect", "proxy", "-http-addr=" + m.agent.Address}, args...)...)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = tail, tail, child.OwnGroup()
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // a killed process always "fails"
		if m.t.Failed() {
			m.t.Logf("consul connect proxy %v wrote last:\n%s", args, tail.Last(20))
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("consul connect proxy %v does not listen", args)
		}
	}
}

func onePort(t *testing.T) int {
	t.Helper()
	ports, err := freeport.Ports(1)
	if err != nil {
		t.Fatal(err)
	}
	return ports[0]
}

// served runs a grpc-go server, with the given credentials and none of this module, and
// returns its port.
func served(t *testing.T, s *shop, creds credentials.TransportCredentials) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.Creds(creds))
	catalogv1.RegisterCatalogServiceServer(g, s)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(listener) }()
	t.Cleanup(func() { g.Stop(); <-done })
	return listener.Addr().(*net.TCPAddr).Port
}

// client calls the catalog as the storefront.
func (m *realMesh) client() catalogv1.CatalogServiceClient {
	m.t.Helper()
	conn, err := meshlite.NewClient("consul:///catalog", uncached(), meshlite.WithTransportCredentials(identityOf(m.t, m.directory, "storefront")),
		meshlite.WithDirectory(m.directory), meshlite.WithLogger(silent), meshlite.WithRuntime(newRuntime(m.t)))
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { conn.Close() })
	return catalogv1.NewCatalogServiceClient(conn)
}

// untilCalled calls until the outcome is as wanted, or fails after a minute.
func untilCalled(t *testing.T, client catalogv1.CatalogServiceClient, what string, is func(error) bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := client.GetSweet(ctx, &catalogv1.GetSweetRequest{Id: "one"})
		cancel()
		if is(err) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// A program behind Consul's own proxy calls a server of this module: its proxy finds the
// server to be the service it asks for, the server finds the proxy's service to be the caller,
// and an intention revokes that on the open connection.
func TestConsulsProxyCallsAServer(t *testing.T) {
	m := newRealMesh(t)
	callers, err := caller.New()
	if err != nil {
		t.Fatal(err)
	}
	var last atomic.Value
	s := &shop{name: "a"}
	server, err := meshlite.NewServer("catalog", meshlite.WithTransportCredentials(identityOf(t, m.directory, "catalog")),
		recordCaller(callers, &last), meshlite.WithListenAddress("127.0.0.1:0"),
		meshlite.WithDirectory(m.directory), meshlite.WithLogger(silent), meshlite.WithRuntime(newRuntime(t)), meshlite.WithMetricsAddress(""), meshlite.WithDrain(0, time.Second))
	if err != nil {
		t.Fatal(err)
	}
	catalogv1.RegisterCatalogServiceServer(server, s)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	select {
	case <-server.Ready():
	case <-done:
		t.Fatal("the server ended")
	}
	upstream := onePort(t)
	m.proxy(fmt.Sprintf("127.0.0.1:%d", upstream), "-service=storefront", fmt.Sprintf("-upstream=catalog:%d", upstream))
	conn, err := grpc.NewClient(fmt.Sprintf("passthrough:///127.0.0.1:%d", upstream), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	client := catalogv1.NewCatalogServiceClient(conn)
	untilCalled(t, client, "a call through the proxy", func(err error) bool { return err == nil })
	if got, _ := last.Load().(string); !strings.HasPrefix(got, "spiffe://") || !strings.HasSuffix(got, "/ns/default/dc/dc1/svc/storefront") {
		t.Errorf("the caller is %q", got)
	}
	m.intention("storefront", "catalog", "deny")
	untilCalled(t, client, "the denial", func(err error) bool { return status.Code(err) == codes.PermissionDenied })
	ran := s.calls.Load()
	if code := codeOf(t, client); code != codes.PermissionDenied || s.calls.Load() != ran {
		t.Errorf("a denied call: %v, and the handler ran %d times", code, s.calls.Load()-ran)
	}
}

// A client of this module calls a program that knows nothing of TLS, behind Consul's own proxy,
// which finds the client to be the service that intentions name.
func TestAClientCallsAProgramBehindConsulsProxy(t *testing.T) {
	m := newRealMesh(t)
	s := &shop{name: "plain"}
	behind := served(t, s, insecure.NewCredentials())
	port := onePort(t)
	m.proxy(fmt.Sprintf("127.0.0.1:%d", port), "-service=catalog", fmt.Sprintf("-service-addr=127.0.0.1:%d", behind), fmt.Sprintf("-listen=127.0.0.1:%d", port))
	m.register("catalog", port)
	client := m.client()
	untilCalled(t, client, "a call to the proxy", func(err error) bool { return err == nil })
	if got := get(t, client, "one"); got != "plain" {
		t.Errorf("the answer is %q", got)
	}
	m.intention("storefront", "catalog", "deny")
	untilCalled(t, m.client(), // the proxy decides about connections
		"the denial", func(err error) bool { return err != nil })
}

// A server that is registered as the catalog, but has Consul's certificate of another service, is
// refused: behind Consul's own proxy, and with plain crypto/tls.
//
// Case I1
func TestAPeerOfAnotherServiceIsRefused(t *testing.T) {
	m := newRealMesh(t)
	s := &shop{name: "impostor"}
	var leaf struct{ CertPEM, PrivateKeyPEM string }
	response, err := http.Get("http://" + m.agent.Address + "/v1/agent/connect/ca/leaf/inventory")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&leaf); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair([]byte(leaf.CertPEM), []byte(leaf.PrivateKeyPEM))
	if err != nil {
		t.Fatal(err)
	}
	proxied := onePort(t)
	for name, port := range map[string]int{
		"crypto/tls":     served(t, s, credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert})),
		"Consul's proxy": proxied,
	} {
		if port == proxied {
			m.proxy(fmt.Sprintf("127.0.0.1:%d", port), "-service=inventory",
				fmt.Sprintf("-service-addr=127.0.0.1:%d", served(t, s, insecure.NewCredentials())), fmt.Sprintf("-listen=127.0.0.1:%d", port))
		}
		m.register("catalog", port)
		untilCalled(t, m.client(), name, func(err error) bool {
			if err == nil {
				t.Fatalf("%s: an impostor is called", name)
			}
			return strings.Contains(err.Error(), "wrong_service") && strings.Contains(err.Error(), "/svc/inventory")
		})
		m.send(http.MethodPut, fmt.Sprintf("/v1/agent/service/deregister/catalog%d", port), nil)
	}
	if n := s.calls.Load(); n != 0 {
		t.Errorf("the handler ran %d times", n)
	}
}
