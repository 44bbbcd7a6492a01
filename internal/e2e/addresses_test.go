package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshlite-go/meshlite/internal/child"
	"github.com/meshlite-go/meshlite/internal/consulagent"
	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	"github.com/meshlite-go/meshlite/internal/hosts"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// The commands of docs/production.md about addresses and agents are run as they are written, on
// a machine that has the addresses of the page: the catalog is registered at what it advertises,
// and a call to it there is answered.
func TestAddressesOfTheGuide(t *testing.T) {
	dir := build(t)
	m := newMachine(t)
	commands := guideCommands(t)
	for _, line := range commands {
		t.Run(line, func(t *testing.T) {
			e := m.example(t, line)
			m.run(t, exec.Command(filepath.Join(dir, "catalog"), e.args...), e.env)
			registered := m.await(t, e)
			t.Logf("registered at %v", registered)
			m.call(t, registered)
		})
	}
	// One of each: on a host, in a container, behind a mapping, IPv6, zones, and the places of agents.
	if len(commands) < 8 {
		t.Errorf("the page has only %d commands: %q", len(commands), commands)
	}
}

var guideBlock = regexp.MustCompile("(?s)```sh\n(.*?)```")

// guideCommands are the lines of the page that run the catalog.
func guideCommands(t *testing.T) []string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "production.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, sections, found := strings.Cut(string(page), "\n## Addresses\n")
	if !found {
		t.Fatal("docs/production.md has no section on addresses")
	}
	var lines []string
	for _, block := range guideBlock.FindAllStringSubmatch(sections, -1) {
		for line := range strings.Lines(block[1]) {
			line, _, _ = strings.Cut(line, " #")
			if line = strings.TrimSpace(line); slices.Contains(strings.Fields(line), "catalog") && !strings.Contains(line, "gateway ") {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// machine is a host with Consul's agent and the addresses of the page.
type machine struct {
	*hosts.Host
	agent *consulagent.Agent
}

// Documentation's names are not resolved anywhere.
var named = strings.NewReplacer("consul-server-1.consul.svc", "127.0.0.1", "consul.example.com", "127.0.0.1")

func newMachine(t *testing.T) machine {
	t.Helper()
	network, all, err := hosts.Open(1)
	if errors.Is(err, hosts.ErrUnsupported) {
		t.Skipf("SKIPPED, the commands of docs/production.md are not run: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(network.Close)
	ip, err := exec.LookPath("ip")
	if err != nil {
		t.Skipf("SKIPPED, the commands of docs/production.md are not run: %v", err)
	}
	m := machine{Host: all[0]}
	for _, address := range []string{"10.1.2.3/32", "172.30.0.7/32", "192.0.2.10/32", "fd00:1::7/128"} {
		if err := m.Do(func() error { return exec.Command(ip, "address", "add", address, "dev", "lo").Run() }); err != nil {
			t.Fatalf("ip address add %s: %v", address, err)
		}
	}
	if m.agent, err = consulagent.StartOn(t.Context(), m.Host, agenttest.Path(t)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.agent.Kill)
	for _, at := range []string{"127.0.0.1:8500", "[::1]:8500", "192.0.2.10:8500"} {
		m.forward(t, at, m.agent.Address)
	}
	return m
}

// forward connects whoever comes to one address with another, as a port mapping does, until the
// test ends.
func (m machine) forward(t *testing.T, from, to string) {
	t.Helper()
	var listener net.Listener
	if err := m.Do(func() (err error) { listener, err = net.Listen("tcp", from); return err }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); listener.Close(); running.Wait() })
	dial := m.Dialer(net.Dialer{})
	running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer client.Close()
				server, err := dial(ctx, "tcp", to)
				if err != nil {
					return
				}
				defer server.Close()
				defer context.AfterFunc(ctx, func() { client.Close(); server.Close() })()
				running.Go(func() { _, _ = io.Copy(server, client); server.Close() })
				_, _ = io.Copy(client, server)
			})
		}
	})
}

// example is a command of the page.
type example struct {
	env, args  []string
	host, port string // what it advertises: an address, a network or "" for the node's; "" is any port
}

// example reads a line. What docker would do for it is done here.
func (m machine) example(t *testing.T, line string) example {
	t.Helper()
	var e example
	words := strings.Fields(named.Replace(line))
	at := slices.Index(words, "catalog")
	var mapping string
	for i, word := range words[:at] {
		switch {
		case i > 0 && words[i-1] == "-p":
			mapping = word
		case strings.Contains(word, "="):
			e.env = append(e.env, word)
		}
	}
	e.args = words[at+1:]
	if outside, inside, found := strings.Cut(mapping, ":"); found {
		m.forward(t, ":"+outside, "127.0.0.1:"+inside)
	}
	if i := slices.Index(e.args, "--advertise"); i >= 0 {
		e.host = e.args[i+1]
		if host, port, err := net.SplitHostPort(e.host); err == nil {
			e.host, e.port = host, port
		}
	}
	return e
}

// is reports whether an instance is registered where the example says.
func (e example) is(m machine, host string, port int) bool {
	if e.port != "" && e.port != strconv.Itoa(port) {
		return false
	}
	if network, err := netip.ParsePrefix(e.host); err == nil {
		address, err := netip.ParseAddr(host)
		return err == nil && network.Contains(address)
	}
	if e.host == "" {
		return host == m.Address()
	}
	return host == e.host
}

// run starts a program on the machine, and kills it when the test ends.
func (m machine) run(t *testing.T, cmd *exec.Cmd, env []string) {
	t.Helper()
	log := &child.Tail{}
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, child.OwnGroup()
	cmd.Env = append(os.Environ(), "CONSUL_HTTP_ADDR=127.0.0.1:8500")
	cmd.Env = append(cmd.Env, env...)
	if err := m.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // a killed process always "fails"
		if t.Failed() {
			t.Log(log.Last(10))
		}
	})
}

// await waits until the example is registered, and takes it out of Consul when the test ends.
func (m machine) await(t *testing.T, e example) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var answer []byte
	for ctx.Err() == nil {
		var entries []struct {
			Service struct {
				ID, Address string
				Port        int
			}
		}
		var err error
		answer, err = m.agent.Send(ctx, http.MethodGet, "/v1/health/service/catalog?passing", nil)
		if err == nil {
			err = json.Unmarshal(answer, &entries)
		}
		if err != nil && ctx.Err() == nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if !e.is(m, entry.Service.Address, entry.Service.Port) {
				continue
			}
			t.Cleanup(func() {
				if _, err := m.agent.Send(context.Background(), http.MethodPut, "/v1/agent/service/deregister/"+url.PathEscape(entry.Service.ID), nil); err != nil {
					t.Error(err)
				}
			})
			return net.JoinHostPort(entry.Service.Address, strconv.Itoa(entry.Service.Port))
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("no catalog is registered at %q port %q: %s", e.host, e.port, answer)
	return ""
}

// call makes a call from the machine.
func (m machine) call(t *testing.T, address string) {
	t.Helper()
	dial := m.Dialer(net.Dialer{})
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return dial(ctx, "tcp", address) }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	response, err := catalogv1.NewCatalogServiceClient(conn).ListSweets(ctx, &catalogv1.ListSweetsRequest{}, grpc.WaitForReady(true))
	if err != nil || len(response.GetSweets()) == 0 {
		t.Errorf("%s answers %v, %v", address, response, err)
	}
}
