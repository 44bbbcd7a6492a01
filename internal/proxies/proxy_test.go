package proxies

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/internal/certtest"
	"github.com/meshlite-go/meshlite/internal/child"
	"github.com/meshlite-go/meshlite/internal/cli"
	"github.com/meshlite-go/meshlite/internal/consulagent"
	"github.com/meshlite-go/meshlite/internal/freeport"
	"github.com/meshlite-go/meshlite/internal/nginx"
)

// program is where a proxy is. Without it the test is skipped, and with CI set it fails.
func program(t testing.TB, name string) string {
	t.Helper()
	for _, candidate := range []string{name, filepath.Join("/usr/sbin", name), filepath.Join("/usr/local/sbin", name)} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("no %s on PATH and none in /usr/sbin: `apt-get install %s`", name, name)
	}
	t.Skipf("SKIPPED, deploy/%s is not tested: no %s on PATH and none in /usr/sbin: `apt-get install %s`", name, name, name)
	return ""
}

// front is a proxy between callers and the backends of one service.
type front struct {
	program, config string // "nginx", "grpc.conf"
	service         string
	// replaced are the lines of the committed file that cannot be used in a test, and by what.
	listen string // the words of the file that have the address to listen on
	with   string // and those that replace it, %s being the address
	secure bool
}

var fronts = []front{
	{"nginx", "gateway.conf", "gateway", "listen 80;", "listen %s;", false},
	{"nginx", "gateway-tls.conf", "gateway", "listen 443 ", "listen %s ", true},
	{"nginx", "grpc.conf", "catalog", "listen 127.0.0.1:8080 ", "listen %s ", false},
	{"nginx", "grpc-tls.conf", "catalog", "listen 443 ", "listen %s ", true},
	{"haproxy", "gateway.cfg", "gateway", "bind :80\n", "bind %s\n", false},
	{"haproxy", "gateway-tls.cfg", "gateway", "bind :443 ", "bind %s ", true},
	{"haproxy", "grpc.cfg", "catalog", "bind 127.0.0.1:8080 ", "bind %s ", false},
	{"haproxy", "grpc-tls.cfg", "catalog", "bind :443 ", "bind %s ", true},
}

// frontOf is the row of a file.
func frontOf(t testing.TB, program, config string) front {
	t.Helper()
	for _, f := range fronts {
		if f.program == program && f.config == config {
			return f
		}
	}
	t.Fatalf("no row for deploy/%s/%s", program, config)
	return front{}
}

// committed is the committed file, with addresses and paths of the test.
func (f front) committed(t testing.TB, listen, dir, dns string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", f.program, f.config))
	if err != nil {
		t.Fatal(err)
	}
	config := string(text)
	replace := func(old, with string) {
		if !strings.Contains(config, old) {
			t.Fatalf("deploy/%s/%s has no %q to replace", f.program, f.config, old)
		}
		config = strings.ReplaceAll(config, old, with)
	}
	replace(f.listen, strings.ReplaceAll(f.with, "%s", listen))
	if f.program == "nginx" {
		replace("/etc/nginx/meshlite", dir)
	} else {
		replace("127.0.0.1:8600", dns)
	}
	if f.secure {
		replace("/etc/"+f.program+"/tls", dir)
	}
	return config
}

// start runs the proxy until the test ends and returns its address. Certificates are in dir.
func (f front) start(t testing.TB, agent *consulagent.Agent, dir string) (listen string) {
	t.Helper()
	path := program(t, f.program)
	listen = freeport.For(t)
	file := filepath.Join(dir, f.program+".conf")
	config := f.committed(t, listen, dir, agent.DNS)
	if f.program == "haproxy" {
		writeFile(t, file, []byte(config))
		runProxy(t, exec.Command(path, "-db", "-f", file))
		awaitListener(t, f.program, listen)
		return listen
	}
	writeFile(t, file, []byte(mainConfig(dir, config)))
	f.keepServers(t, agent, dir, path)
	runProxy(t, exec.Command(path, "-e", "stderr", "-p", dir, "-c", file))
	awaitListener(t, f.program, listen)
	return listen
}

// mainConfig is what Debian has in nginx.conf, with paths of the test.
func mainConfig(dir, conf string) string {
	return strings.ReplaceAll(`
daemon off;
worker_processes 2;
pid DIR/pid;
error_log stderr warn;
worker_shutdown_timeout 30s;
events { worker_connections 1024; }
http {
  access_log off;
  client_body_temp_path DIR/body;
  proxy_temp_path DIR/proxy;
  fastcgi_temp_path DIR/fastcgi;
  uwsgi_temp_path DIR/uwsgi;
  scgi_temp_path DIR/scgi;
`, "DIR", dir) + conf + "}\n"
}

// keepServers runs `meshlite nginx` until the test ends. It returns once the file is there.
func (f front) keepServers(t testing.TB, agent *consulagent.Agent, dir, path string) {
	t.Helper()
	o := cli.NginxOptions{
		Service: f.service, Agent: agent.Address, Interval: time.Second,
		File: nginx.File{
			Path:   filepath.Join(dir, f.service+".servers"),
			Check:  path + " -t -q -e stderr -p " + dir + " -c " + filepath.Join(dir, "nginx.conf"),
			Reload: `! test -s ` + dir + `/pid || kill -HUP "$(cat ` + dir + `/pid)"`,
		},
	}
	once := o
	once.Once, once.File.Check, once.File.Reload = true, "", ""
	log := &output{}
	if err := cli.Nginx(t.Context(), once, cli.Streams{Out: log, Err: log}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		if err := cli.Nginx(ctx, o, cli.Streams{Out: log, Err: log}); err != nil {
			t.Errorf("meshlite nginx: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		work.Wait()
		t.Logf("meshlite nginx wrote:\n%s", log.String())
	})
}

// runProxy runs a proxy until the test ends.
func runProxy(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	tail := &child.Tail{}
	cmd.Stdout, cmd.Stderr = tail, tail
	cmd.SysProcAttr = child.OwnGroup()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(5*time.Second, func() { _ = child.KillGroup(cmd.Process.Pid) })
		defer kill.Stop()
		_ = cmd.Wait() // HAProxy calls being stopped a failure
		if last := tail.Last(20); t.Failed() && last != "" {
			t.Logf("%s wrote last:\n%s", cmd.Path, last)
		}
	})
}

// issue writes a certificate for names to dir, as the configurations name the files.
func issue(t testing.TB, authority *certtest.Authority, dir string, names ...string) (cert, key string) {
	t.Helper()
	pair := authority.Issue(t, names...)
	keyBytes, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyBytes})
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeFile(t, cert, certPEM)
	writeFile(t, key, keyPEM)
	writeFile(t, filepath.Join(dir, "cert-and-key.pem"), append(certPEM, keyPEM...))
	writeFile(t, filepath.Join(dir, "mesh-ca.pem"), authority.PEM)
	return cert, key
}

func writeFile(t testing.TB, file string, text []byte) {
	t.Helper()
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// output can be read while a command writes.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
