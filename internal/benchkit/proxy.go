package benchkit

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshlite-go/meshlite/internal/freeport"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// FindProgram is where a program is. Debian keeps servers where PATH may not look.
func FindProgram(program string) (string, error) {
	for _, name := range []string{program, filepath.Join("/usr/sbin", program), filepath.Join("/usr/local/sbin", program)} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("no %s on PATH and none in /usr/sbin: install one, such as by `apt-get install %s`", program, program)
}

// Absent returns why a program cannot be run here, or "". With CI set that is an error.
func Absent(t testing.TB, program string) (why string) {
	t.Helper()
	if program == "" {
		return ""
	}
	_, err := FindProgram(program)
	switch {
	case err == nil:
		return ""
	case os.Getenv("CI") != "":
		t.Fatal(err)
	}
	return err.Error()
}

// StartNGINX runs it in front of backends as a reader of its manual would for many small calls: as many
// workers as there are cores, which share the state of the backends, and
// connections that are kept.
func StartNGINX(t testing.TB, backends []string) Proxy {
	const config = `
daemon off;
worker_processes auto;
pid %[1]s/pid;
error_log stderr error;
events { worker_connections 1024; }
http {
  access_log off;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  keepalive_requests 1000000000;
  upstream backends {
    zone backends 64k;
    least_conn;
%[3]s
    keepalive 64;
    keepalive_requests 1000000000;
  }
  server {
    listen %[2]s http2;
    location / { grpc_pass grpc://backends; }
  }
}
`
	servers := ""
	for _, address := range backends {
		servers += "    server " + address + ";\n"
	}
	dir, listen := t.TempDir(), freeport.For(t)
	proxy := StartProxy(t, "nginx", fmt.Sprintf(config, dir, listen, servers), dir, "-e", "stderr", "-p", dir, "-c")
	return answering(t, "nginx", listen, proxy)
}

// StartHAProxy runs it likewise, a thread for each core being its default.
func StartHAProxy(t testing.TB, backends []string) Proxy {
	const config = `
global
  maxconn 1024
defaults
  mode http
  timeout connect 5s
  timeout client 1m
  timeout server 1m
frontend callers
  bind %s proto h2
  default_backend backends
backend backends
  balance leastconn
  http-reuse always
%s`
	servers := ""
	for i, address := range backends {
		servers += fmt.Sprintf("  server backend%d %s proto h2\n", i, address)
	}
	listen := freeport.For(t)
	return answering(t, "haproxy", listen, StartProxy(t, "haproxy", fmt.Sprintf(config, listen, servers), t.TempDir(), "-db", "-f"))
}

// StartProxy runs a program with a config until the test ends, and returns its process. The
// file's name is its last argument.
func StartProxy(t testing.TB, program, config, dir string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := FindProgram(program)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, program+".conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, append(args, file)...)
	Run(t, cmd, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	return cmd
}

// Proxy is one that answers.
type Proxy struct {
	Address string
	Process int // its group too
}

func answering(t testing.TB, program, listen string, proxy *exec.Cmd) Proxy {
	t.Helper()
	awaitProxy(t, program, listen)
	return Proxy{listen, proxy.Process.Pid}
}

// Dial opens the channels of callers: both proxies keep a connection on one thread, so one
// would leave them on one core. More than one for each core makes neither of them faster.
func (p Proxy) Dial() (conns []*grpc.ClientConn, err error) {
	for range runtime.NumCPU() {
		conn, err := Connect("passthrough:///" + p.Address)
		if err != nil {
			return nil, err
		}
		conns = append(conns, conn)
	}
	return conns, nil
}

// Connect is a channel of grpc-go, without TLS unless an option has it.
func Connect(target string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	return grpc.NewClient(target, append([]grpc.DialOption{grpc.WithNoProxy(), grpc.WithTransportCredentials(insecure.NewCredentials())}, options...)...)
}

// awaitProxy waits until somebody listens, and then for an answer from behind it.
func awaitProxy(t testing.TB, program, listen string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for dialer := (&net.Dialer{}); ; time.Sleep(10 * time.Millisecond) {
		conn, err := dialer.DialContext(ctx, "tcp", listen)
		if err == nil {
			conn.Close()
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("%s does not listen at %s: %v", program, listen, err)
		}
	}
	conn, err := Connect("passthrough:///" + listen)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := catalogv1.NewCatalogServiceClient(conn).GetSweet(ctx, &catalogv1.GetSweetRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatalf("%s at %s does not answer: %v", program, listen, err)
	}
}
