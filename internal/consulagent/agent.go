// Package consulagent runs a real Consul agent in dev mode on loopback, for the
// demo and for tests. It never downloads the program.
package consulagent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/meshlite-go/meshlite/internal/child"
	"github.com/meshlite-go/meshlite/internal/freeport"
	"github.com/meshlite-go/meshlite/internal/hosts"
)

// Find returns the path of a consul program: the one on PATH, else the one that `make
// consul` has built in .bin of the working directory or one above.
func Find() (string, error) {
	if path, err := exec.LookPath("consul"); err == nil {
		return path, nil
	}
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		path := filepath.Join(dir, ".bin", "consul")
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			return path, nil
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	return "", errors.New("no consul on PATH and none in .bin: install one, or in a checkout run `make consul`")
}

// Version returns the version that the program prints: "1.22.7".
func Version(path string) (string, error) {
	out, err := exec.Command(path, "version").Output()
	if err != nil {
		return "", fmt.Errorf("%s version: %w", path, err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimPrefix(strings.TrimPrefix(line, "Consul "), "v"), nil
}

// Agent is a running agent. Its state is in memory: when it stops it is lost.
type Agent struct {
	Address string // of its HTTP API
	DNS     string // host:port of its DNS, by UDP and TCP
	GRPC    string // host:port of its gRPC, in plaintext unless it is secured

	path     string
	host     *hosts.Host
	joined   *Agent // of another datacenter, which it joins when it starts; nil for none
	ports    []int
	security *Security // nil: everything in plaintext, and no ACLs
	client   *http.Client
	cmd      *exec.Cmd
	log      *child.Tail
}

// Start runs the program at path on loopback and waits until it answers.
func Start(ctx context.Context, path string) (*Agent, error) { return StartOn(ctx, nil, path) }

// StartOn is Start on a host of its own.
func StartOn(ctx context.Context, host *hosts.Host, path string) (*Agent, error) {
	return start(ctx, &Agent{path: path, host: host})
}

// StartBeside is Start of the agent of a second datacenter, dc2, that the one of a, dc1, can reach
// when it returns.
func (a *Agent) StartBeside(ctx context.Context) (*Agent, error) {
	beside, err := start(ctx, &Agent{path: a.path, host: a.host, joined: a})
	if err != nil {
		return nil, err
	}
	// The list of its nodes comes from there, through this agent.
	if err := a.poll(ctx, "/v1/catalog/nodes?dc="+secondDatacenter); err != nil {
		beside.Kill()
		return nil, fmt.Errorf("consul at %s does not reach the datacenter of the one at %s: %w\n%s", a.Address, beside.Address, err, beside.log.Last(10))
	}
	return beside, nil
}

const secondDatacenter = "dc2"

// StartSecured is Start with TLS on both APIs, encrypted gossip, and ACLs that deny.
func StartSecured(ctx context.Context, path string, security Security) (*Agent, error) {
	return start(ctx, &Agent{path: path, security: &security})
}

// start completes a and runs it.
func start(ctx context.Context, a *Agent) (*Agent, error) {
	ports, err := freeport.Ports(6)
	if err != nil {
		return nil, err
	}
	at := func(n int) string { return net.JoinHostPort(a.host.Address(), strconv.Itoa(ports[n])) }
	transport := &http.Transport{DisableKeepAlives: true, DialContext: a.host.Dialer(net.Dialer{})}
	if a.security != nil {
		if transport.TLSClientConfig, err = a.security.clientConfig(); err != nil {
			return nil, err
		}
	}
	a.Address, a.DNS, a.GRPC, a.ports, a.client = at(0), at(4), at(5), ports, &http.Client{Transport: transport}
	return a, a.Start(ctx)
}

// Start runs a stopped agent again, on the ports it had, with no memory of what
// was registered.
func (a *Agent) Start(ctx context.Context) error {
	a.log = &child.Tail{}
	flags := append([]string{"agent", "-dev", "-log-level=warn",
		"-bind=" + a.host.Address(), "-client=" + a.host.Address(), "-node=meshlite",
		"-server-port=" + strconv.Itoa(a.ports[1]),
		"-serf-lan-port=" + strconv.Itoa(a.ports[2]), "-serf-wan-port=" + strconv.Itoa(a.ports[3]),
		"-dns-port=" + strconv.Itoa(a.ports[4])}, a.security.flags(a.ports[0], a.ports[5])...)
	if a.joined != nil {
		flags = append(flags, "-datacenter="+secondDatacenter,
			"-retry-join-wan="+net.JoinHostPort(a.joined.host.Address(), strconv.Itoa(a.joined.ports[3])))
	}
	a.cmd = exec.Command(a.path, flags...)
	a.cmd.Stdout, a.cmd.Stderr = a.log, a.log
	a.cmd.SysProcAttr = child.OwnGroup()
	if err := a.host.Do(a.cmd.Start); err != nil {
		return fmt.Errorf("consul: %w", err)
	}
	if err := a.poll(ctx, "/v1/catalog/nodes"); err != nil { // it has a leader when its own is there
		a.Kill()
		return fmt.Errorf("consul did not get ready at %s: %w\n%s", a.Address, err, a.log.Last(10))
	}
	return nil
}

// Restart kills the agent and runs it again, empty.
func (a *Agent) Restart(ctx context.Context) error {
	a.Kill()
	return a.Start(ctx)
}

// poll waits until path lists the node of an agent.
func (a *Agent) poll(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		if nodes, err := a.Send(ctx, http.MethodGet, path, nil); err == nil && strings.Contains(string(nodes), `"meshlite"`) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Send sends body as JSON to a path of the agent's HTTP API, with all rights, and returns the
// answer.
func (a *Agent) Send(ctx context.Context, method, path string, body any) ([]byte, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	scheme := "http://"
	if a.security != nil {
		scheme = "https://"
	}
	request, err := http.NewRequestWithContext(ctx, method, scheme+a.Address+path, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	if a.security != nil {
		request.Header.Set("X-Consul-Token", a.security.Management)
	}
	response, err := a.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, path, response.Status, answer)
	}
	return answer, err
}

// Kill ends the agent at once, as a crash would, and waits.
func (a *Agent) Kill() { a.end(syscall.SIGKILL) }

// Stop ends the agent in order and waits; it is killed when that takes 5 s.
func (a *Agent) Stop() {
	timer := time.AfterFunc(5*time.Second, func() { _ = a.cmd.Process.Kill() })
	defer timer.Stop()
	a.end(syscall.SIGTERM)
}

// Pid is the ID of the agent's process.
func (a *Agent) Pid() int { return a.cmd.Process.Pid }

// Freeze suspends the agent's process until Thaw.
func (a *Agent) Freeze() error { return a.cmd.Process.Signal(child.Freeze) }

// Thaw undoes Freeze.
func (a *Agent) Thaw() error { return a.cmd.Process.Signal(child.Thaw) }

func (a *Agent) end(signal syscall.Signal) {
	if a.cmd.ProcessState != nil {
		return
	}
	_ = a.cmd.Process.Signal(signal)
	_ = a.cmd.Wait() // a killed process always "fails"
}
