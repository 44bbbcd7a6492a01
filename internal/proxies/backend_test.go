package proxies

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/meshlite-go/meshlite/internal/child"
	"github.com/meshlite-go/meshlite/internal/cli"
	"github.com/meshlite-go/meshlite/internal/consulagent"
	"github.com/meshlite-go/meshlite/internal/freeport"
	"github.com/meshlite-go/meshlite/internal/gatewaycmd"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// backendVariable, if set, makes this program a backend of that kind. Its arguments are its
// name, its address and, for TLS, the files of its certificate and key; or, for a gateway, the
// URL behind it and the address of Consul; or, for the command, its flags and arguments.
const (
	backendVariable = "MESHLITE_PROXIES_BACKEND"
	kindHTTP        = "http"
	kindGRPC        = "grpc"
	kindForms       = "forms"
	kindStock       = "stock"
	kindGateway     = "gateway"
	kindCommand     = "command"
)

func beBackend() error {
	name, address := os.Args[1], os.Args[2]
	if os.Getenv(backendVariable) == kindGateway {
		return gatewaycmd.Run(context.Background(), gatewaycmd.Options{
			HTTP: []string{"web=/," + os.Args[3]}, Listen: address, Register: true, Name: "gateway", Agent: os.Args[4],
		}, cli.Streams{Out: io.Discard, Err: io.Discard})
	}
	if os.Getenv(backendVariable) == kindCommand {
		return beCommand(append(os.Args[3:], "--listen", address))
	}
	var settings *tls.Config
	if len(os.Args) > 3 {
		pair, err := tls.LoadX509KeyPair(os.Args[3], os.Args[4])
		if err != nil {
			return err
		}
		settings = &tls.Config{Certificates: []tls.Certificate{pair}}
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	switch os.Getenv(backendVariable) {
	case kindForms:
		return newForms(name).Serve(l)
	case kindStock:
		return newStock(name).Serve(l)
	case kindGRPC:
		var options []grpc.ServerOption
		if settings != nil {
			options = append(options, grpc.Creds(credentials.NewTLS(settings)))
		}
		server := grpc.NewServer(options...)
		catalogv1.RegisterCatalogServiceServer(server, sweets{name: name})
		healthv1.RegisterHealthServer(server, health.NewServer())
		return server.Serve(l)
	}
	if settings != nil {
		l = tls.NewListener(l, settings)
	}
	return http.Serve(l, website(name))
}

// work is what each answer takes, so that a kill meets requests in flight.
const work = 5 * time.Millisecond

// sweets answers with the name of the backend.
type sweets struct {
	catalogv1.UnimplementedCatalogServiceServer
	name string
}

func (s sweets) GetSweet(context.Context, *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
	time.Sleep(work)
	return &catalogv1.GetSweetResponse{Sweet: &catalogv1.Sweet{Id: s.name}}, nil
}

// The key of RFC 6455's example, and what accepts it: HAProxy verifies that.
const (
	sampleKey   = "dGhlIHNhbXBsZSBub25jZQ=="
	acceptedKey = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// website stands for a gateway: it has what the configurations must let through.
func website(name string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/name", func(w http.ResponseWriter, r *http.Request) {
		w.Header()["X-Seen-For"] = r.Header.Values("X-Forwarded-For")
		w.Header()["X-Seen-Forwarded"] = r.Header.Values("Forwarded")
		w.Header()["X-Seen-Proto"] = r.Header.Values("X-Forwarded-Proto")
		_, _ = io.Copy(io.Discard, r.Body)
		time.Sleep(work)
		_, _ = io.WriteString(w, name)
	})
	// An event, and then nothing until the caller has gone.
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: "+name+"\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	// After the upgrade, each line comes back.
	mux.HandleFunc("GET /echo", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" {
			http.Error(w, "not an upgrade", http.StatusUpgradeRequired)
			return
		}
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "+acceptedKey+"\r\n\r\n")
		for lines := bufio.NewScanner(rw); lines.Scan(); {
			_, _ = fmt.Fprintln(conn, lines.Text())
		}
	})
	return mux
}

// backend is a process that can be killed and started again at its address.
type backend struct {
	name, address string
	kind          string
	args          []string // beside name and address
	cmd           *exec.Cmd
}

func (b *backend) start(t testing.TB) {
	t.Helper()
	b.cmd = exec.Command(os.Args[0], append([]string{b.name, b.address}, b.args...)...)
	b.cmd.Env = append(os.Environ(), backendVariable+"="+b.kind)
	b.cmd.SysProcAttr = child.OwnGroup()
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	awaitListener(t, b.name, b.address)
}

// kill ends the process at once.
func (b *backend) kill() {
	_ = b.cmd.Process.Signal(syscall.SIGKILL)
	_ = b.cmd.Wait() // a killed process always "fails"
}

// startBackends runs n of a kind and registers them as service, checked once a second.
func startBackends(t testing.TB, agent *consulagent.Agent, kind, service string, n int, files ...string) []*backend {
	t.Helper()
	client, err := api.NewClient(&api.Config{Address: agent.Address, Transport: &http.Transport{DisableKeepAlives: true}})
	if err != nil {
		t.Fatal(err)
	}
	var all []*backend
	for i := range n {
		b := &backend{name: fmt.Sprintf("%s-%d", service, i+1), address: freeport.For(t), kind: kind, args: files}
		b.start(t)
		t.Cleanup(b.kill)
		host, portText, _ := net.SplitHostPort(b.address)
		port, _ := strconv.Atoi(portText)
		check := &api.AgentServiceCheck{Interval: "1s", Timeout: "1s", Status: api.HealthPassing}
		switch secure := len(files) > 0; {
		case kind == kindGRPC, kind == kindForms, kind == kindStock:
			check.GRPC, check.GRPCUseTLS, check.TLSSkipVerify = b.address, secure, secure
		case secure:
			check.HTTP, check.TLSSkipVerify = "https://"+b.address+"/readyz", true
		default:
			check.HTTP = "http://" + b.address + "/readyz"
		}
		if err := client.Agent().ServiceRegister(&api.AgentServiceRegistration{ID: b.name, Name: service, Address: host, Port: port, Check: check}); err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

// startGateways runs n gateways, which register themselves. Each has a service of its own behind
// it, by whose name it is recognized.
func startGateways(t testing.TB, agent *consulagent.Agent, n int) []*backend {
	t.Helper()
	var all []*backend
	for i := range n {
		behind := &backend{name: fmt.Sprintf("gateway-%d", i+1), address: freeport.For(t), kind: kindHTTP}
		gateway := &backend{name: behind.name, address: freeport.For(t), kind: kindGateway, args: []string{"http://" + behind.address, agent.Address}}
		for _, b := range []*backend{behind, gateway} {
			b.start(t)
			t.Cleanup(b.kill)
		}
		all = append(all, gateway)
	}
	return all
}

// awaitListener waits until somebody listens.
func awaitListener(t testing.TB, name, address string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for dialer := (&net.Dialer{}); ; time.Sleep(10 * time.Millisecond) {
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err == nil {
			conn.Close()
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("%s does not listen at %s: %v", name, address, err)
		}
	}
}
