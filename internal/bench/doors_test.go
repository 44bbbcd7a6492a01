package bench

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"testing"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	grpcresolver "google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	echov1 "github.com/meshlite-go/meshlite/internal/bench/testdata/echo"
	"github.com/meshlite-go/meshlite/internal/benchkit"
	"github.com/meshlite-go/meshlite/internal/freeport"
	"github.com/meshlite-go/meshlite/internal/gatewaycmd"
	"github.com/meshlite-go/meshlite/internal/heapfloor"
)

// serveGateway is `meshlite gateway` with its defaults, until its input ends.
func serveGateway(args []string, in io.Reader, _ io.Writer) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, in)
		cancel()
	}()
	heapfloor.Set() // as the program does
	cmd := gatewaycmd.Command()
	cmd.SetArgs(args)
	cmd.SetOut(io.Discard)
	return cmd.ExecuteContext(ctx)
}

// serveGenerated is a gateway of generated code with the defaults of grpc-gateway, at two
// addresses: its answers at the second have what a cache goes by. The other arguments are the
// backends.
func serveGenerated(args []string, in io.Reader, _ io.Writer) error {
	r := manual.NewBuilderWithScheme("bench")
	var state grpcresolver.State
	for _, address := range args[2:] {
		state.Endpoints = append(state.Endpoints, grpcresolver.Endpoint{Addresses: []grpcresolver.Address{{Addr: address}}})
	}
	r.InitialState(state)
	conn, err := grpc.NewClient("bench:///echo", grpc.WithResolvers(r), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`))
	if err != nil {
		return err
	}
	mux := runtime.NewServeMux()
	if err := echov1.RegisterEchoServiceHandler(context.Background(), mux, conn); err != nil {
		return err
	}
	cacheable := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=3600")
		w.Header().Set("Etag", `"1"`)
		mux.ServeHTTP(w, r)
	})
	for i, handler := range []http.Handler{mux, cacheable} {
		listener, err := net.Listen("tcp", args[i])
		if err != nil {
			return err
		}
		go func() { _ = http.Serve(listener, handler) }()
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

// door is a program that serves HTTP.
type door struct {
	address string
	pid     int
}

func startGateway(t testing.TB, b *backends) door {
	listen := freeport.For(t)
	return startItself(t, listen, "gateway", "echo", "--plaintext", "--http-addr", b.Consul, "--listen", listen, "--drain", "0s", "--limit", "address=1000000000/s")
}

func startGenerated(t testing.TB, b *backends) door {
	plain, _ := startBoth(t, b)
	return plain
}

// startBoth starts a gateway of generated code, and returns both of its addresses.
func startBoth(t testing.TB, b *backends) (plain, cacheable door) {
	listen, other := freeport.For(t), freeport.For(t)
	plain = startItself(t, listen, "generated", append([]string{listen, other}, b.Bare...)...)
	return plain, door{other, plain.pid}
}

func startItself(t testing.TB, listen, process string, args ...string) door {
	t.Helper()
	cmd, in := benchkit.Itself(t, process, args...)
	benchkit.Run(t, cmd, func() { in.Close() })
	return await(t, process, listen, cmd)
}

// startNGINXCache is NGINX with proxy_cache in front of the generated code.
func startNGINXCache(t testing.TB, b *backends) door {
	// Started by root, its workers would not be, and could not read the directory of the cache.
	// Started by somebody else, it ignores "user".
	const config = `
daemon off;
user root;
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
  proxy_cache_path %[1]s/cache keys_zone=answers:1m;
  keepalive_requests 1000000000;
  server {
    listen %[2]s;
    location / {
      proxy_pass http://%[3]s;
      proxy_cache answers;
    }
  }
}
`
	dir, listen := t.TempDir(), freeport.For(t)
	_, cacheable := startBoth(t, b)
	cmd := benchkit.StartProxy(t, "nginx", fmt.Sprintf(config, dir, listen, cacheable.address), dir, "-e", "stderr", "-p", dir, "-c")
	return await(t, "nginx", listen, cmd)
}

// await waits for an answer from behind a program.
func await(t testing.TB, program, listen string, cmd *exec.Cmd) door {
	t.Helper()
	d := door{listen, cmd.Process.Pid}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := newWire(d.address, getEcho)
		if err == nil {
			_, err = c.call()
			c.conn.Close()
		}
		if err == nil {
			return d
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s at %s does not answer: %v", program, listen, err)
		}
	}
}
