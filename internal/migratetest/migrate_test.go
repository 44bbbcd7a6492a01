package migratetest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/internal/child"
	"github.com/meshlite-go/meshlite/internal/consulagent"
	"github.com/meshlite-go/meshlite/internal/freeport"
	"github.com/meshlite-go/meshlite/internal/migratetest/sweets"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// While three instances move one by one, clients from before the move and after it find both
// kinds of servers, and no call fails. Clients of grpc-go alone find them at fixed addresses,
// and theirs are found since an operator has registered them.
func TestAServiceMovesWithoutAFailedCall(t *testing.T) {
	for _, framework := range []string{"plain", "kratos", "gozero"} {
		t.Run(framework, func(t *testing.T) {
			agent := startConsul(t)
			bin := build(t, framework)
			addresses := []string{freeport.For(t), freeport.For(t), freeport.For(t)}
			environment := []string{"CONSUL_HTTP_ADDR=" + agent, "ADDRESSES=" + strings.Join(addresses, ","), "MESHLITE_LOG_LEVEL=warn"}
			operator := apiOf(t, agent)
			var servers []*program
			for i, address := range addresses {
				if framework == "plain" {
					register(t, operator, address)
				}
				servers = append(servers, start(t, filepath.Join(bin, "before"), append(environment, "LISTEN="+address, fmt.Sprintf("INSTANCE=before %d", i))))
			}
			awaitPassing(t, operator, len(addresses))
			clients := map[string]*program{}
			for _, phase := range []string{"before", "after"} {
				clients[phase] = start(t, filepath.Join(bin, phase), environment, "call")
			}
			for i := range servers {
				awaitAnswers(t, clients, fmt.Sprintf("before %d", i))
			}
			for i, address := range addresses {
				servers[i].terminate(t)
				if framework == "plain" {
					deregister(t, operator, address)
				}
				start(t, filepath.Join(bin, "after"), append(environment, "LISTEN="+address, fmt.Sprintf("INSTANCE=after %d", i)))
				awaitAnswers(t, clients, fmt.Sprintf("after %d", i))
			}
			for phase, client := range clients {
				if c := client.finish(t); c.Failed > 0 || c.Calls == 0 {
					t.Errorf("%d of %d calls of the client %s the move have failed, the last with %s", c.Failed, c.Calls, phase, c.LastError)
				}
			}
		})
	}
}

// startConsul is a real one if there is one, as in CI, and else the stand-in.
func startConsul(t *testing.T) (address string) {
	t.Helper()
	path, err := consulagent.Find()
	if err == nil {
		agent, err := consulagent.Start(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(agent.Kill)
		return agent.Address
	}
	if os.Getenv("CI") != "" {
		t.Fatal(err)
	}
	t.Logf("with the stand-in for Consul: %v", err)
	agent := consultest.New()
	t.Cleanup(agent.Close)
	address, err = agent.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return address
}

func apiOf(t *testing.T, address string) *api.Client {
	t.Helper()
	config := api.DefaultConfig()
	config.Address = address
	client, err := api.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(config.Transport.CloseIdleConnections)
	return client
}

// register is what the definition of a service does, in a file of the agent.
func register(t *testing.T, operator *api.Client, address string) {
	t.Helper()
	tcp, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	if err := operator.Agent().ServiceRegister(&api.AgentServiceRegistration{
		ID: address, Name: "catalog", Address: tcp.IP.String(), Port: tcp.Port,
		Check: &api.AgentServiceCheck{GRPC: address, Interval: "1s"},
	}); err != nil {
		t.Fatal(err)
	}
}

func deregister(t *testing.T, operator *api.Client, address string) {
	t.Helper()
	if err := operator.Agent().ServiceDeregister(address); err != nil {
		t.Fatal(err)
	}
}

func awaitPassing(t *testing.T, operator *api.Client, n int) {
	t.Helper()
	await(t, func() error {
		entries, _, err := operator.Health().Service("catalog", "", true, nil)
		if err == nil && len(entries) != n {
			err = fmt.Errorf("%d instances pass, want %d", len(entries), n)
		}
		return err
	})
}

func awaitAnswers(t *testing.T, clients map[string]*program, instance string) {
	t.Helper()
	await(t, func() error {
		for phase, client := range clients {
			if c := client.counts(); c.Answers[instance] == 0 {
				return fmt.Errorf("%q has not answered the client %s the move: %+v", instance, phase, c)
			}
		}
		return nil
	})
}

// await waits until check returns nil, for at most two minutes.
func await(t *testing.T, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// build builds both programs of a framework, and returns their directory.
func build(t *testing.T, framework string) string {
	t.Helper()
	bin := t.TempDir()
	cmd := exec.Command("go", "build", "-o", bin+string(filepath.Separator), "./"+framework+"/...")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return bin
}

// program is a process that ends with the test.
type program struct {
	cmd   *exec.Cmd
	in    io.Closer
	tail  *child.Tail
	ended chan struct{}

	mu   sync.Mutex
	last sweets.Counts
}

func start(t *testing.T, path string, environment []string, args ...string) *program {
	t.Helper()
	p := &program{cmd: exec.Command(path, args...), tail: &child.Tail{}, ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), environment...)
	p.cmd.Stderr, p.cmd.SysProcAttr = p.tail, child.OwnGroup()
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.in = in
	go func() {
		defer close(p.ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.read(lines.Bytes())
		}
		_ = p.cmd.Wait() // a program that is stopped may call that a failure
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
		if last := p.tail.Last(20); t.Failed() && last != "" {
			t.Logf("%s %s wrote last:\n%s", filepath.Base(path), strings.Join(args, " "), last)
		}
	})
	return p
}

// read takes Counts, and otherwise what a framework logs.
func (p *program) read(line []byte) {
	var c sweets.Counts
	if err := json.Unmarshal(line, &c); err != nil || c.Answers == nil {
		fmt.Fprintf(p.tail, "%s\n", line)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = c
}

func (p *program) counts() sweets.Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// terminate stops a server as an orchestrator does, and waits for its end.
func (p *program) terminate(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.wait(t)
}

// finish ends a client, and returns its last counts.
func (p *program) finish(t *testing.T) sweets.Counts {
	t.Helper()
	if err := p.in.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
	p.wait(t)
	return p.counts()
}

func (p *program) wait(t *testing.T) {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(time.Minute):
		t.Fatalf("%s does not end", p.cmd.Path)
	}
}

// docs/migrating.md shows what is written otherwise before and after: the lines of both
// programs, in order, without package, imports and main.
func TestTheDocsShowThePrograms(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "migrating.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, framework := range []string{"plain", "kratos", "gozero"} {
		want := "```diff\n" + difference(t, framework) + "```\n"
		if !strings.Contains(string(page), want) {
			t.Errorf("docs/migrating.md lacks what %s/before and %s/after differ in:\n%s", framework, framework, want)
		}
	}
}

// difference is the shortest one, by lines.
func difference(t *testing.T, framework string) string {
	t.Helper()
	before, after := body(t, framework, "before"), body(t, framework, "after")
	common := make([][]int, len(before)+1) // the length of the longest common part from i and j on
	for i := range common {
		common[i] = make([]int, len(after)+1)
	}
	for i, line := range slices.Backward(before) {
		for j, other := range slices.Backward(after) {
			if common[i][j] = max(common[i+1][j], common[i][j+1]); line == other {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	var out strings.Builder
	for i, j := 0, 0; i < len(before) || j < len(after); {
		switch {
		case i < len(before) && j < len(after) && before[i] == after[j]:
			out.WriteString(strings.TrimRight(" "+before[i], " ") + "\n")
			i, j = i+1, j+1
		case j == len(after) || i < len(before) && common[i+1][j] >= common[i][j+1]:
			out.WriteString("-" + before[i] + "\n")
			i++
		default:
			out.WriteString("+" + after[j] + "\n")
			j++
		}
	}
	return out.String()
}

// body is a program from behind func main on.
func body(t *testing.T, framework, phase string) []string {
	t.Helper()
	source, err := os.ReadFile(filepath.Join(framework, phase, "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(source), "func main() { sweets.Main(serve, dial) }\n\n")
	if !found {
		t.Fatalf("%s/%s has another func main", framework, phase)
	}
	return strings.Split(strings.TrimSuffix(rest, "\n"), "\n")
}
