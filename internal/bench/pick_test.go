package bench

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"testing"

	grpcbalancer "google.golang.org/grpc/balancer"
	_ "google.golang.org/grpc/balancer/roundrobin"

	"github.com/meshlite-go/meshlite/balancer/leastrequest"
	"github.com/meshlite-go/meshlite/balancer/peakewma"
	"github.com/meshlite-go/meshlite/balancer/roundrobin"
	"github.com/meshlite-go/meshlite/internal/balancertest"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

const (
	pickRuns    = 5
	pickTime    = "100ms" // of each, unless -test.benchtime says otherwise
	few, many   = 10, 1000
	growthLimit = 2 // times the cost of few that many may cost

	weighted = "weighted_round_robin"
)

var sizes = []int{2, 3, few, 100, many, 10_000}

// pair is a policy of ours and the one of grpc-go that it is compared with.
type pair struct {
	ours, peer string
	ratio, ns  float64 // at most, 0 is no aim
	allocs     float64 // at most
}

func pairs() []pair {
	return []pair{
		{roundrobin.Name, "round_robin", 1.3, 0, 0},
		{leastrequest.Name, "least_request_experimental", 0.5, 0, 0},
		{peakewma.Name, weighted, 0, 100, 1},
	}
}

// subject is a picker whose picks are measured.
type subject struct {
	policy     string
	endpoints  int
	picker     grpcbalancer.Picker
	ns, allocs []float64 // for each run
}

// costs finds subjects by policy and number of endpoints.
type costs map[string]map[int]*subject

func TestPickFigures(t *testing.T) {
	onlyForFigures(t)
	subjects := newSubjects(t)
	measurePicks(t, subjects)
	idle := collect(subjects)
	tables := []table{pickTable("nothing else in flight", pairs(), idle), growthTable(idle)}
	for _, s := range subjects {
		s.occupy(t)
	}
	measurePicks(t, subjects)
	tables = append(tables, pickTable("every endpoint has calls in flight, so that the least loaded must be looked for", pairs()[1:], collect(subjects)))
	show(t, tables...)
}

func newSubjects(t *testing.T) []*subject {
	var all []*subject
	for _, n := range sizes {
		for _, p := range pairs() {
			for _, policy := range []string{p.peer, p.ours} { // side by side
				if grpcbalancer.Get(policy) == nil {
					continue
				}
				c := balancertest.New(t, policy)
				c.ReadyMany("{}", n)
				all = append(all, &subject{policy: policy, endpoints: n, picker: c.Picker()})
			}
		}
	}
	return all
}

// getSweet is a call as a program makes it that has the code of the contract: it is
// known to be unary.
var getSweet = grpcbalancer.PickInfo{FullMethodName: catalogv1.CatalogService_GetSweet_FullMethodName, Ctx: context.Background()}

var success = grpcbalancer.DoneInfo{BytesSent: true, BytesReceived: true}

// measurePicks takes all in turn, as often as there are runs.
func measurePicks(t *testing.T, subjects []*subject) {
	t.Helper()
	if f := flag.Lookup("test.benchtime"); f.Value.String() == f.DefValue {
		if err := f.Value.Set(pickTime); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range subjects {
		s.ns, s.allocs = nil, nil
	}
	for range max(*runs, pickRuns) {
		for _, s := range subjects {
			result := testing.Benchmark(s.pickAndDone)
			if result.N == 0 {
				t.Fatalf("a pick of %s among %d has failed", s.policy, s.endpoints)
			}
			s.ns = append(s.ns, float64(result.T.Nanoseconds())/float64(result.N))
			s.allocs = append(s.allocs, float64(result.AllocsPerOp()))
		}
	}
}

func (s *subject) pickAndDone(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		result, err := s.picker.Pick(getSweet)
		if err != nil {
			b.Fatal(err)
		}
		if result.Done != nil {
			result.Done(success)
		}
	}
}

// occupy leaves calls in flight on every endpoint.
func (s *subject) occupy(t *testing.T) {
	t.Helper()
	for range 4 * s.endpoints {
		if _, err := s.picker.Pick(getSweet); err != nil {
			t.Fatal(err)
		}
	}
}

func collect(subjects []*subject) costs {
	c := costs{}
	for _, s := range subjects {
		if c[s.policy] == nil {
			c[s.policy] = map[int]*subject{}
		}
		copied := *s
		c[s.policy][s.endpoints] = &copied
	}
	return c
}

func pickTable(when string, pairs []pair, c costs) table {
	table := table{
		title:   fmt.Sprintf("Pick and done, %s: one call at a time, %d cores, medians of %d, in turn", when, runtime.NumCPU(), max(*runs, pickRuns)),
		columns: []string{"policy", "endpoints", "ns", "allocs", "of grpc-go", "ns", "allocs", "ratio"},
	}
	for _, p := range pairs {
		if c[p.peer] == nil {
			table.notes = append(table.notes, fmt.Sprintf("SKIPPED: %s: this program is built without it", p.peer))
		} else if p.peer == weighted {
			table.notes = append(table.notes, weighted+" hears of no load here, and so takes turns")
		}
		for _, n := range sizes {
			cells, aims := p.compare(c, n)
			table.add(append([]string{p.ours, thousands(float64(n))}, cells...), aims...)
		}
	}
	return table
}

func (p pair) compare(c costs, n int) (cells []string, aims []aim) {
	ours, peer := c[p.ours][n], c[p.peer][n]
	cells = []string{ours.time(), ours.allocated(), "-", "-", "-", "-"}
	if peer != nil {
		ratio := median(ours.ns) / median(peer.ns)
		cells = []string{ours.time(), ours.allocated(), p.peer, peer.time(), peer.allocated(), fmt.Sprintf("%.2fx", ratio)}
		if p.ratio > 0 {
			aims = append(aims, atMost("%.2fx", ratio, p.ratio))
		}
	}
	if p.ns > 0 {
		aims = append(aims, atMost("%.0f ns", median(ours.ns), p.ns))
	}
	return cells, append(aims, allocsAtMost(median(ours.allocs), p.allocs))
}

func (s *subject) time() string      { return fmt.Sprintf("%.1f", median(s.ns)) }
func (s *subject) allocated() string { return fmt.Sprintf("%.0f", median(s.allocs)) }

func growthTable(c costs) table {
	table := table{
		title:   fmt.Sprintf("The same: %s endpoints beside %d", thousands(many), few),
		columns: []string{"policy", fmt.Sprintf("ns of %s", thousands(many)), fmt.Sprintf("of %d", few), "ratio"},
	}
	for _, p := range pairs() {
		for _, policy := range []string{p.ours, p.peer} {
			if c[policy] == nil {
				continue
			}
			ratio := median(c[policy][many].ns) / median(c[policy][few].ns)
			cells := []string{policy, c[policy][many].time(), c[policy][few].time(), fmt.Sprintf("%.2fx", ratio)}
			if policy == p.ours {
				table.add(cells, atMost("%.2fx", ratio, growthLimit))
			} else {
				table.add(cells)
			}
		}
	}
	return table
}
