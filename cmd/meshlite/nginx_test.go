package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

func contentOf(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, text2, _ := strings.Cut(string(text), "\n")
	return text2
}

func TestNginxWritesAnUpstreamOnce(t *testing.T) {
	agent := openAgent(t)
	file := filepath.Join(t.TempDir(), "catalog.conf")
	r := runTool(t, "nginx", "catalog", "--upstream", "catalog", "--out", file, "--once")
	r.want(t, 0, file+": 0 instances of catalog\n", "")
	if got := contentOf(t, file); !strings.Contains(got, " down;") {
		t.Errorf("the first file has %q, want a server that is down", got)
	}
	enlist(t, agent, "catalog", "catalog-1", "10.0.0.1:81", "passing")
	enlist(t, agent, "catalog", "catalog-2", "10.0.0.2:81", "warning")
	enlist(t, agent, "catalog", "catalog-3", "10.0.0.3:81", "critical")
	runTool(t, "nginx", "catalog", "--upstream", "catalog", "--out", file, "--once").want(t, 0, file+": 1 instances of catalog\n", "")
	if got := contentOf(t, file); got != "upstream catalog {\n    zone catalog 512k;\n    server 10.0.0.1:81;\n}\n" {
		t.Errorf("the file has %q", got)
	}
	runTool(t, "nginx", "catalog", "--out", file, "--once", "--warning").want(t, 0, ": 2 instances of catalog\n", "")
	runTool(t, "nginx", "prices", "--out", file, "--once").want(t, 0, "! no instance is left: the file keeps the last ones\n", "")
	if got := contentOf(t, file); got != "server 10.0.0.1:81;\nserver 10.0.0.2:81;\n" {
		t.Errorf("without an instance the file has %q", got)
	}
	agent.SetReachable(false)
	runTool(t, "nginx", "catalog", "--out", file, "--once").want(t, 1, "", "consul at ")
}

// nginxWatch is a running command.
type nginxWatch struct {
	lines *bufio.Scanner
	stop  func() int
}

func watchNginx(t *testing.T, args ...string) nginxWatch {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, append([]string{"nginx", "-o", "json", "--interval", "100ms"}, args...), nil, in, io.Discard)
		in.Close()
	}()
	stop := func() int { cancel(); out.Close(); return <-done }
	t.Cleanup(cancel)
	return nginxWatch{bufio.NewScanner(out), stop}
}

// want checks the next event.
func (w nginxWatch) want(t *testing.T, event string, instances int, text string) {
	t.Helper()
	var got struct {
		Event, Error string
		Instances    int
	}
	if !w.lines.Scan() {
		t.Fatalf("it ends, want %s", event)
	}
	if err := json.Unmarshal(w.lines.Bytes(), &got); err != nil || got.Event != event || got.Instances != instances || !strings.Contains(got.Error, text) {
		t.Fatalf("it writes %s, want %s of %d with %q", w.lines.Bytes(), event, instances, text)
	}
}

// Changes are written and reloaded; an outage, an empty answer and a bad address change
// nothing.
func TestNginxFollowsAService(t *testing.T) {
	agent := openAgent(t)
	dir := t.TempDir()
	file, reloads := filepath.Join(dir, "catalog.servers"), filepath.Join(dir, "reloads")
	enlist(t, agent, "catalog", "catalog-1", "10.0.0.1:81", "passing")
	enlist(t, agent, "catalog", "catalog-2", "10.0.0.2:81", "passing")
	w := watchNginx(t, "catalog", "--out", file, "--reload", "echo >> "+reloads)
	w.want(t, "written", 2, "")
	enlist(t, agent, "catalog", "catalog-3", "10.0.0.3:81", "passing")
	w.want(t, "written", 3, "")
	enlist(t, agent, "catalog", "catalog-4", "evil;}:81", "passing")
	w.want(t, "refused", 0, `"catalog-4"`)
	if err := agent.Deregister("catalog-1"); err != nil {
		t.Fatal(err)
	}
	w.want(t, "written", 2, "")
	const servers = "server 10.0.0.2:81;\nserver 10.0.0.3:81;\n"
	if got := contentOf(t, file); got != servers {
		t.Errorf("the file has %q, want %q", got, servers)
	}
	lift := agent.Inject(consultest.Empty())
	agent.SetReachable(false)
	w.want(t, "unavailable", 0, "consul at ")
	agent.SetReachable(true)
	w.want(t, "available", 0, "")
	lift()
	if got := contentOf(t, file); got != servers {
		t.Errorf("after an outage and an empty answer the file has %q, want %q", got, servers)
	}
	if code := w.stop(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if text, _ := os.ReadFile(reloads); strings.Count(string(text), "\n") != 3 {
		t.Errorf("NGINX was reloaded %d times, want 3", strings.Count(string(text), "\n"))
	}
}

func TestNginxReportsAFailedReloadOnce(t *testing.T) {
	agent := openAgent(t)
	dir := t.TempDir()
	enlist(t, agent, "catalog", "catalog-1", "10.0.0.1:81", "passing")
	works := filepath.Join(dir, "works")
	w := watchNginx(t, "catalog", "--out", filepath.Join(dir, "f"), "--reload", "echo not running; test -e "+works)
	w.want(t, "written", 1, "")
	w.want(t, "failed", 0, "not running")
	if err := os.WriteFile(works, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.want(t, "recovered", 0, "")
	if code := w.stop(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestNginxRefusesBadFlags(t *testing.T) {
	for args, want := range map[string]string{
		"":                               "nginx takes SERVICE",
		"a/b --out f":                    `service "a/b"`,
		"catalog":                        "--out is missing",
		"catalog --out f --upstream a{b": `--upstream "a{b"`,
		"catalog --out f --reload x --pid-file y":        "leave one out",
		"catalog --out f --interval 1ms":                 "--interval 1ms",
		"catalog --out f --keepalive 3":                  "--keepalive belong",
		"consul:///catalog?dc=a&dc=b --out f":            "2 datacenters",
		"catalog --out f --upstream a --balance ip_hash": `--balance "ip_hash"`,
		"catalog --out f --http-addr 127.0.0.1":          "--http-addr",
		"consul:///catalog?tag=a --out f --tag b":        "a target together with flags",
		"catalog --out f --server backup;":               `--server "backup;"`,
		"catalog inventory --out f":                      "not 2 arguments",
	} {
		runTool(t, append([]string{"nginx"}, strings.Fields(args)...)...).want(t, 2, "", want)
	}
}
