package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

func TestRegistry(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var out, stderr buffer
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"registry", "--listen", "127.0.0.1:0", "-o", "json"}, nil, &out, &stderr)
	}()
	var announced struct{ Address string }
	eventually(t, func() bool { return json.Unmarshal([]byte(out.String()), &announced) == nil })

	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client, err := api.NewClient(&api.Config{Address: announced.Address, HttpClient: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Agent().ServiceRegister(&api.AgentServiceRegistration{Name: "catalog", Port: 8081}); err != nil {
		t.Fatal(err)
	}
	entries, _, err := client.Health().Service("catalog", "", true, nil)
	if err != nil || len(entries) != 1 {
		t.Errorf("%d instances, %v", len(entries), err)
	}

	// Its port is taken now.
	runTool(t, "registry", "--listen", announced.Address).want(t, 1, "",
		`--listen "`+announced.Address+`": another program listens there, perhaps a Consul agent: stop it or use it, or take a free port by --listen 127.0.0.1:0`)

	stop()
	if code := <-done; code != 0 || stderr.String() != "" {
		t.Errorf("exit code %d, stderr %q", code, stderr.String())
	}
	if conn, err := net.Dial("tcp", announced.Address); err == nil {
		conn.Close()
		t.Error("it still listens")
	}
}

// A process of its own, stopped as people stop it.
func TestRegistryUntilCtrlC(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		command, lines := start(t, "registry", "--listen", "127.0.0.1:0")
		first, second := next(t, lines), next(t, lines)
		if !strings.Contains(first, "stand-in for a Consul agent at http://127.0.0.1:") {
			t.Errorf("first line %q", first)
		}
		_, address, _ := strings.Cut(second, "export CONSUL_HTTP_ADDR=")
		if conn, err := net.Dial("tcp", address); err != nil {
			t.Errorf("line %q: %v", second, err)
		} else {
			conn.Close()
		}
		if err := command.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if err := command.Wait(); err != nil {
			t.Errorf("%v: %v", signal, err)
		}
	}
}

// An interrupted call is no success.
func TestCallUntilCtrlC(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // nobody answers there
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	command, lines := start(t, "call", "--plaintext", listener.Addr().String(), "a.v1.S/M", "--timeout", "1m")
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := command.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if line := next(t, lines); line != "meshlite: interrupted" {
		t.Errorf("it says %q", line)
	}
	var exit *exec.ExitError
	if err := command.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 130 {
		t.Errorf("got %v, want exit status 130", err)
	}
}

// start runs the tool as a process. The scanner reads both of its streams.
func start(t *testing.T, args ...string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	command := exec.Command(os.Args[0], args...)
	command.Env = append(os.Environ(), "BE_THE_COMMAND=1")
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	command.Stderr = command.Stdout
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(time.Minute, func() { _ = command.Process.Kill() })
	t.Cleanup(func() { timer.Stop(); _ = command.Process.Kill() })
	return command, bufio.NewScanner(out)
}

func next(t *testing.T, lines *bufio.Scanner) string {
	t.Helper()
	if !lines.Scan() {
		t.Fatalf("no further line: %v", lines.Err())
	}
	return lines.Text()
}

func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come about within 10s")
		}
	}
}
