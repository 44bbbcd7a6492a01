package bench

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/internal/freeport"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// find is where a program is. Debian keeps servers where PATH may not look.
func find(program string) (string, error) {
	for _, name := range []string{program, filepath.Join("/usr/sbin", program), filepath.Join("/usr/local/sbin", program)} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("no %s on PATH and none in /usr/sbin: install one, such as by `apt-get install %s`", program, program)
}

// absent returns why a path cannot be taken here. With CI set that is an error.
func absent(t testing.TB, p path) (why string) {
	t.Helper()
	if p.program == "" {
		return ""
	}
	_, err := find(p.program)
	switch {
	case err == nil:
		return ""
	case os.Getenv("CI") != "":
		t.Fatal(err)
	}
	return err.Error()
}

// startNGINX runs it as a reader of its manual would for many small calls: as many
// workers as there are cores, which share what they know of the backends, and
// connections that are kept.
func startNGINX(t testing.TB, b *backends) dial {
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
	for _, address := range b.Bare {
		servers += "    server " + address + ";\n"
	}
	dir, listen := t.TempDir(), freeport.For(t)
	proxy := startProxy(t, "nginx", fmt.Sprintf(config, dir, listen, servers), dir, "-e", "stderr", "-p", dir, "-c")
	return overGRPC(t, "nginx", listen, proxy)
}

// startHAProxy runs it likewise, a thread for each core being its default.
func startHAProxy(t testing.TB, b *backends) dial {
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
	for i, address := range b.Bare {
		servers += fmt.Sprintf("  server backend%d %s proto h2\n", i, address)
	}
	listen := freeport.For(t)
	return overGRPC(t, "haproxy", listen, startProxy(t, "haproxy", fmt.Sprintf(config, listen, servers), t.TempDir(), "-db", "-f"))
}

// startProxy runs a program with a config until the test ends, and returns its process. The
// file's name is its last argument.
func startProxy(t testing.TB, program, config, dir string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := find(program)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, program+".conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, append(args, file)...)
	run(t, cmd, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	return cmd
}

// overGRPC dials a proxy that has started.
func overGRPC(t testing.TB, program, listen string, proxy *exec.Cmd) dial {
	awaitProxy(t, program, listen)
	return func(t testing.TB) clients {
		t.Helper()
		c := &channels{proxy: proxy.Process.Pid}
		// Both proxies keep a connection on one thread, so one would leave them on one
		// core. More than one for each core makes neither of them faster.
		for range runtime.NumCPU() {
			c.conns = append(c.conns, connect(t, "passthrough:///"+listen))
		}
		return c
	}
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
	conn := connect(t, "passthrough:///"+listen)
	defer conn.Close()
	if _, err := catalogv1.NewCatalogServiceClient(conn).GetSweet(ctx, &catalogv1.GetSweetRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatalf("%s at %s does not answer: %v", program, listen, err)
	}
}

func TestAMissingProgramIsNamedWithTheFix(t *testing.T) {
	_, err := find("nonesuch")
	if err == nil || !strings.Contains(err.Error(), "apt-get install nonesuch") {
		t.Errorf("error is %v, want one that says how to install it", err)
	}
}
