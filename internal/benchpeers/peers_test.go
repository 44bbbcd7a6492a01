package benchpeers

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/internal/benchkit"
)

const (
	warmUp   = 500 * time.Millisecond
	slowness = 20 * time.Millisecond
)

// path is a way from a client of a framework to its servers.
type path struct {
	name, servers, client string
	program               string // that must be installed, "" is none
	start                 func(testing.TB, []string) benchkit.Proxy
}

func paths() []path {
	return []path{
		{name: "grpc-go round_robin", servers: "grpc-go", client: "grpc-go"},
		{name: fmt.Sprintf("grpc-go round_robin, %d stream workers", streamWorkers), servers: "tuned", client: "grpc-go"},
		{name: fmt.Sprintf("grpc-go round_robin, %d stream workers, a deadline as meshlite's", streamWorkers), servers: "tuned", client: "grpc-go, a deadline"},
		{name: "meshlite least_request", servers: "meshlite", client: "meshlite least_request"},
		{name: "meshlite peak_ewma", servers: "meshlite", client: "meshlite peak_ewma"},
		{name: "meshlite least_request, call streams", servers: "meshlite", client: "meshlite call streams"},
		{name: "kratos wrr", servers: "kratos", client: "kratos wrr"},
		{name: "kratos p2c", servers: "kratos", client: "kratos p2c"},
		{name: "go-zero p2c_ewma", servers: "go-zero", client: "go-zero"},
		{name: "HAProxy leastconn, grpc-go", servers: "grpc-go", client: "proxy", program: "haproxy", start: benchkit.StartHAProxy},
		{name: "NGINX least_conn, grpc-go", servers: "grpc-go", client: "proxy", program: "nginx", start: benchkit.StartNGINX},
	}
}

// process is a child that answers each line with one of JSON.
type process struct {
	name string
	id   int
	in   io.Writer
	read *bufio.Scanner
}

func start(t *testing.T, name string, args ...string) *process {
	t.Helper()
	cmd, in := benchkit.Itself(t, name, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	benchkit.Run(t, cmd, func() { in.Close() })
	return &process{name + " " + args[0], cmd.Process.Pid, in, bufio.NewScanner(out)}
}

func (p *process) answer(t *testing.T, v any) {
	t.Helper()
	if !p.read.Scan() {
		t.Fatalf("the process %s has ended: %v", p.name, p.read.Err())
	}
	if err := json.Unmarshal(p.read.Bytes(), v); err != nil {
		t.Fatalf("the process %s wrote %q: %v", p.name, p.read.Text(), err)
	}
}

// peer is a path that runs: its servers and its client are a process each.
type peer struct {
	path
	servers *process
	client  *process
}

// startPeers starts the paths that can be taken here, and says what is missing for the others.
func startPeers(t *testing.T) (peers []peer, missing []string) {
	all, at := map[string]*process{}, map[string]addresses{}
	for _, p := range paths() {
		if why := benchkit.Absent(t, p.program); why != "" {
			missing = append(missing, p.name+" is not measured: "+why)
			continue
		}
		if all[p.servers] == nil {
			all[p.servers] = start(t, "servers", p.servers)
			var a addresses
			all[p.servers].answer(t, &a)
			at[p.servers] = a
		}
		r := reach{addresses: at[p.servers]}
		if p.start != nil {
			r.Proxy = p.start(t, r.Servers)
		}
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		peers = append(peers, peer{p, all[p.servers], start(t, "client", p.client, string(text))})
	}
	return peers, missing
}

func (p peer) measure(t *testing.T, delay time.Duration, load benchkit.Load) (m benchkit.Measure) {
	t.Helper()
	var set time.Duration
	if _, err := fmt.Fprintln(p.servers.in, delay); err != nil {
		t.Fatal(err)
	}
	p.servers.answer(t, &set)
	load.Servers = p.servers.id
	if err := json.NewEncoder(p.client.in).Encode(load); err != nil {
		t.Fatal(err)
	}
	p.client.answer(t, &m)
	return m
}

// Calls over every path are answered by all three servers, also while one of them is slow.
func TestEveryPathAnswers(t *testing.T) {
	peers, _ := startPeers(t)
	for _, p := range peers {
		for _, delay := range []time.Duration{0, slowness} {
			var answers [benchkit.BackendCount]int
			// Connections are made one after the other.
			for try := 0; try < 30 && slices.Contains(answers[:], 0); try++ {
				for i, n := range p.measure(t, delay, benchkit.Load{Calls: 10}).Answers {
					answers[i] += n
				}
			}
			if slices.Contains(answers[:], 0) {
				t.Errorf("%s, one server takes %v: one of them has answered none of the calls: %v", p.name, delay, answers)
			}
		}
	}
}

// measured is what a path has shown, run by run.
type measured struct {
	name          string
	healthy, slow []benchkit.Measure
}

func TestFigures(t *testing.T) {
	if !*figures {
		t.Skip("it measures: run `make bench-peers`")
	}
	if *runs < 1 || *window <= 0 {
		t.Fatalf("-runs %d -window %v: write at least 1 run and a window above 0", *runs, *window)
	}
	peers, missing := startPeers(t)
	all := make([]measured, len(peers))
	for i, p := range peers {
		all[i].name = p.name
	}
	load := benchkit.Load{Warm: warmUp, Window: *window}
	for range *runs {
		for _, n := range rand.Perm(2 * len(peers)) { // the speed of a machine drifts
			if i := n / 2; n%2 == 0 {
				all[i].healthy = append(all[i].healthy, peers[i].measure(t, 0, load))
			} else {
				all[i].slow = append(all[i].slow, peers[i].measure(t, slowness, load))
			}
		}
	}
	if err := publish(all, missing); err != nil {
		t.Fatal(err)
	}
}
