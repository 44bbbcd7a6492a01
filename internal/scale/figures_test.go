//go:build unix

package scale_test

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"
	"testing"
	"testing/synctest"
	"text/tabwriter"
	"time"

	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

var (
	figures = flag.Bool("figures", false, "play the large mesh and print its tables: fifteen minutes of CPU time, and 8 GB")
	part    = flag.Int("part", 1, "with -figures: play the large mesh that many times smaller, for a small machine")
)

// large is the mesh of docs/growing.md. 5,000 answers a second is what a server of four cores is
// taken to give.
var large = size{services: 1000, instances: 10_000, channels: 5, perNode: 20, wide: 500, subset: 100, servers: 3, answers: 5000}

// memoryLimit is where the collector works harder. The large mesh was played within it.
const memoryLimit = 7500 << 20

// cpu is the processor time that this process has used.
func cpu() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// memory is what is in use, stacks included.
func memory() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// The tables of docs/growing.md: `make scale`.
func TestFigures(t *testing.T) {
	if !*figures {
		t.Skip("only with -figures: see make scale")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(200))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(min(memoryLimit, debug.SetMemoryLimit(-1))))
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer w.Flush()
	synctest.Test(t, func(t *testing.T) { printCosts(t, w) })
	w.Flush()
	s := large
	s.services, s.instances, s.wide = s.services / *part, s.instances / *part, s.wide / *part
	synctest.Test(t, func(t *testing.T) { printTraffic(t, w, s) })
}

// printCosts measures what a process pays for each of its parts, in processes of one kind.
func printCosts(t *testing.T, w *tabwriter.Writer) {
	const processes = 200
	fmt.Fprintf(w, "\nwhat a process pays\n\n  PART\tMEMORY\tCPU TO MAKE\n")
	row := func(name string, n int, make func()) {
		before, began := memory(), cpu()
		make()
		synctest.Wait()
		took := cpu() - began
		fmt.Fprintf(w, "  %s\t%.1f KB\t%.0f µs\n", name, float64(memory()-before)/float64(n)/1024, float64(took.Microseconds())/float64(n))
	}
	s := newServers(1, 1, 1_000_000)
	for _, n := range []int{1, 10, 100} {
		s.register(fmt.Sprint("of-", n), n)
	}
	var builders []*resolver.Builder
	row("directory and resolver, without a channel", processes, func() {
		for range processes {
			directory, err := consul.New(consul.Config{Address: "agent:8500", Transport: through{s, 0}, Logger: silent})
			if err != nil {
				t.Fatal(err)
			}
			builders = append(builders, resolver.NewBuilder(directory, resolver.WithLogger(silent)))
		}
	})
	var channels []*channel
	var stops []func()
	for _, n := range []int{1, 10, 100} {
		name := fmt.Sprint("of-", n)
		row(fmt.Sprintf("a watched service of %d instances", n), processes, func() {
			for _, b := range builders {
				stops = append(stops, b.Follow(queryOf(name), ignore))
			}
			time.Sleep(time.Second)
		})
		row(fmt.Sprintf("a channel to it, connections not counted (%d endpoints)", n), processes, func() {
			for _, b := range builders {
				channels = append(channels, open(t, s, b, name))
			}
			time.Sleep(time.Second)
		})
	}
	row("a change of one of 100 instances, slow start included", processes, func() {
		old := s.services["of-100"].instances[0]
		s.register("of-100", 1)
		s.deregister("of-100", old)
		time.Sleep(30 * time.Second)
	})
	row("a change of one of 10 instances, slow start included", processes, func() {
		old := s.services["of-10"].instances[0]
		s.register("of-10", 1)
		s.deregister("of-10", old)
		time.Sleep(30 * time.Second)
	})
	row("a minute in which nothing changes, 3 watches", processes, func() { time.Sleep(time.Minute) })
	for _, c := range channels {
		c.close()
	}
	for _, stop := range stops {
		stop()
	}
}

// printTraffic plays a mesh through what happens to one.
func printTraffic(t *testing.T, w *tabwriter.Writer, s size) {
	m := newMesh(t, s)
	began := time.Now()
	fmt.Fprintf(w, "\n%d services, %d instances on %d nodes, %d channels; %d servers of %d answers a second\n\n", s.services, s.instances, len(m.agents), s.instances*s.channels, s.servers, s.answers)
	time.Sleep(time.Until(m.began.Add(time.Second))) // registered, and in step with the seconds
	fmt.Fprintf(w, "  WHAT\tQUERIES/S\tBUSIEST SECOND\tAT ONE AGENT\tOPEN THERE\tLAST CLIENT AFTER\tCPU OF ALL CLIENTS\n")
	row := func(name string, do func() string) {
		from, used := m.now(), cpu()
		m.busiestAgent()
		last := do()
		time.Sleep(time.Second - m.now()%time.Second) // the traffic is counted in whole seconds
		synctest.Wait()
		took := cpu() - used
		p := m.span(from, m.now())
		most, open := m.busiestAgent()
		fmt.Fprintf(w, "  %s\t%.0f\t%d\t%d\t%d\t%s\t%.1f s\n", name, p.perSecond(), p.busiest, most, open, last, took.Seconds())
		fmt.Fprintln(os.Stderr, name, "played after", time.Since(began), "of virtual time")
	}
	until := func(n int) string {
		at := m.now()
		for m.ready() < n && m.now()-at < time.Minute {
			time.Sleep(100 * time.Millisecond)
		}
		return fmt.Sprintf("%.1f s", (m.now() - at).Seconds())
	}
	all := s.instances * s.channels
	row("all clients start at once", func() string { m.start(); return until(all) })
	row("the 3 minutes after that", func() string { time.Sleep(3 * time.Minute); return "" })
	row("5 minutes in which nothing changes", func() string { time.Sleep(5 * time.Minute); return "" })
	deployed := func(name string) func() string {
		return func() string {
			r := m.deploy(name, 5*time.Second)
			return fmt.Sprintf("%v, gone %v", r.lastAdded.Round(time.Millisecond), r.lastRemoved.Round(time.Millisecond))
		}
	}
	usual := m.names[0]
	row(fmt.Sprintf("a deploy of a service of %d instances and %d clients", len(m.services[usual].instances), m.watchers[usual]), deployed(usual))
	row(fmt.Sprintf("a deploy of the hub: %d instances, %d clients", len(m.services[hub].instances), m.watchers[hub]), deployed(hub))
	row("the minute after that", func() string { time.Sleep(time.Minute); return "" })
	m.fail()
	row("a minute without Consul", func() string { time.Sleep(time.Minute); return fmt.Sprintf("%d of %d can call", m.ready(), all) })
	m.recover()
	row("the 20 s after it", func() string { time.Sleep(20 * time.Second); return "" })
	for _, name := range []string{usual, hub, wide} {
		mean, most := m.connections(name)
		fmt.Fprintf(w, "  connections to an instance of %s (%d instances, %d clients): %.0f in the mean, %d at most\n", name, len(m.services[name].instances), m.watchers[name], mean, most)
	}
	if n := m.strays(); n != 0 {
		t.Errorf("%d channels pick what has left, or nothing", n)
	}
	m.stop()
}
