//go:build unix

package scale_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/meshlite-go/meshlite/internal/consulagent"
	"github.com/meshlite-go/meshlite/internal/consulagent/agenttest"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/route"
)

var delays = flag.Bool("delays", false, "measure how soon one process follows a change in a real Consul, by the number of services: ten minutes")

// The table of docs/growing.md about a process of many services: `make delays`. Times are those of
// this machine, and of nothing but its load and the turns of the watches.
func TestDelays(t *testing.T) {
	if !*delays {
		t.Skip("only with -delays: see make delays")
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "\n  SERVICES\tAGENT BY\tCHAIN FOLLOWS\tWORST\tINSTANCES FOLLOW\tWORST\tQUERIES/S\tCONNECTIONS\tCPU OF THE AGENT\tITS MEMORY")
	for _, n := range []int{30, 50, 150, 300} {
		p := &follower{agent: agenttest.Start(t)}
		p.measure(t, w, n, "HTTP")
		p.agent.Kill()
	}
	for _, n := range []int{30, 300} {
		secured := agenttest.StartSecured(t)
		p := &follower{agent: secured.Agent, token: agenttest.Management}
		p.measure(t, w, n, "TLS")
		p.agent.Kill()
	}
}

// follower is one process that watches many services, and their agent.
type follower struct {
	agent *consulagent.Agent
	token string

	mu       sync.Mutex
	weights  map[string]float64 // of the first arm of each chain, as reported
	reported map[string]int     // instances of each service
}

func (p *follower) measure(t *testing.T, w *tabwriter.Writer, n int, by string) {
	p.weights, p.reported = map[string]float64{}, map[string]int{}
	for i := range n {
		name := nameOf(i)
		p.write(t, fmt.Sprintf(`{"Kind":"service-defaults","Name":%q,"Protocol":"grpc"}`, name))
		p.write(t, fmt.Sprintf(`{"Kind":"service-resolver","Name":%q,"Subsets":{"v1":{"Filter":"Service.Meta.version == \"1\""},"v2":{"Filter":"Service.Meta.version == \"2\""}}}`, name))
		p.shift(t, name, 50)
		for k := range 3 {
			p.register(t, name, k)
		}
	}
	memory := p.memory()
	d, err := consul.New(consul.Config{Address: p.agent.Address, Token: p.token, Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var watches sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	defer func() { stop(); watches.Wait() }()
	began := time.Now()
	for i := range n {
		name := nameOf(i)
		watches.Go(func() {
			d.Watch(ctx, catalog.Query{Service: name}, func(s catalog.Snapshot, err error) { p.count(t, name, s, err) })
		})
		watches.Go(func() { d.WatchChain(ctx, name, "", func(c *route.Chain, err error) { p.weigh(t, name, c, err) }) })
	}
	p.until(t, func() bool { return len(p.weights) == n && len(p.reported) == n })
	fmt.Fprintln(os.Stderr, n, "services by", by, "are read after", time.Since(began))
	time.Sleep(20 * time.Second)

	const idle = 20 * time.Second
	before, used := d.Stats()[0].Requests, p.cpu()
	time.Sleep(idle)
	requests, took := d.Stats()[0].Requests-before, p.cpu()-used

	var chains, instances []time.Duration
	for k := range 40 {
		name := nameOf(rand.N(n))
		time.Sleep(rand.N(time.Second))
		began := time.Now()
		p.shift(t, name, float64(k))
		p.until(t, func() bool { return p.weights[name] == float64(k) })
		chains = append(chains, time.Since(began))
		want := p.reportedOf(name) + 1
		began = time.Now()
		p.register(t, name, 100+k)
		p.until(t, func() bool { return p.reported[name] >= want })
		instances = append(instances, time.Since(began))
	}
	fmt.Fprintf(w, "  %d\t%s\t%v\t%v\t%v\t%v\t%.1f\t%d\t%.1f %%\t%+d MB\n", n, by,
		mean(chains), slices.Max(chains).Round(time.Millisecond), mean(instances), slices.Max(instances).Round(time.Millisecond),
		float64(requests)/idle.Seconds(), p.connections(), 100*took.Seconds()/idle.Seconds(), (p.memory()-memory)>>20)
	w.Flush()
}

func nameOf(i int) string { return fmt.Sprint("service-", i) }

func mean(all []time.Duration) time.Duration {
	sum := time.Duration(0)
	for _, d := range all {
		sum += d
	}
	return (sum / time.Duration(len(all))).Round(time.Millisecond)
}

func (p *follower) count(t *testing.T, name string, s catalog.Snapshot, err error) {
	if err != nil {
		t.Error(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reported[name] = len(s.Instances)
}

func (p *follower) reportedOf(name string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reported[name]
}

func (p *follower) weigh(t *testing.T, name string, c *route.Chain, err error) {
	if err != nil || c == nil {
		t.Error(c, err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.weights[name] = c.Routes[0].Arms[0].Weight
}

// until waits, for a minute or somewhat more, until holds.
func (p *follower) until(t *testing.T, holds func() bool) {
	t.Helper()
	for range 60_000 {
		p.mu.Lock()
		done := holds()
		p.mu.Unlock()
		if done {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("a change is not followed within a minute")
}

func (p *follower) shift(t *testing.T, name string, v1 float64) {
	p.write(t, fmt.Sprintf(`{"Kind":"service-splitter","Name":%q,"Splits":[{"Weight":%v,"ServiceSubset":"v1"},{"Weight":%v,"ServiceSubset":"v2"}]}`, name, v1, 100-v1))
}

func (p *follower) write(t *testing.T, entry string) { p.put(t, "/v1/config", rawJSON(entry)) }

func (p *follower) register(t *testing.T, name string, k int) {
	p.put(t, "/v1/agent/service/register", map[string]any{"ID": fmt.Sprint(name, "-", k), "Name": name, "Address": "10.0.0.1", "Port": 1000 + k, "Meta": map[string]string{"version": fmt.Sprint(1 + k%2)}})
}

func (p *follower) put(t *testing.T, path string, body any) {
	t.Helper()
	if _, err := p.agent.Send(t.Context(), http.MethodPut, path, body); err != nil {
		t.Fatal(err)
	}
}

type rawJSON string

func (r rawJSON) MarshalJSON() ([]byte, error) { return []byte(r), nil }

// proc is a line of a file of the agent's process, where the system has such files.
func (p *follower) proc(file, prefix string) []string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.agent.Pid(), file))
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, prefix) {
			return strings.Fields(line)
		}
	}
	return nil
}

func (p *follower) cpu() time.Duration {
	fields := p.proc("stat", "")
	if len(fields) < 15 {
		return 0
	}
	var user, system int64 // in hundredths of a second
	_, _ = fmt.Sscan(fields[13], &user)
	_, _ = fmt.Sscan(fields[14], &system)
	return time.Duration(user+system) * 10 * time.Millisecond
}

func (p *follower) memory() int64 {
	fields := p.proc("status", "VmRSS:")
	var kilobytes int64
	if len(fields) > 1 {
		_, _ = fmt.Sscan(fields[1], &kilobytes)
	}
	return kilobytes << 10
}

// connections are those to the agent from this process, by their local end.
func (p *follower) connections() (n int) {
	text, _ := os.ReadFile("/proc/self/net/tcp")
	_, port, _ := strings.Cut(p.agent.Address, ":")
	var number int
	_, _ = fmt.Sscan(port, &number)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 3 && strings.HasSuffix(f[2], fmt.Sprintf(":%04X", number)) && f[3] == "01" {
			n++
		}
	}
	return n
}
