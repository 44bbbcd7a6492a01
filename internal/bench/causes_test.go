package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/meshlite-go/meshlite/balancer/leastrequest"
	"github.com/meshlite-go/meshlite/balancer/peakewma"
	"github.com/meshlite-go/meshlite/balancer/roundrobin"
	"github.com/meshlite-go/meshlite/internal/balancertest"
	"github.com/meshlite-go/meshlite/internal/benchkit"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

const (
	shortest   = 50 * time.Millisecond // a window that shows that something is measured
	callsInUse = 32                    // callers, where something else grows
	picks      = 200_000               // for a figure; a pick takes less than a microsecond
	ofService  = 10                    // instances of each watched service
)

// mayBeFree reports whether a series may be 0 at the smallest point: nothing is refused there.
func mayBeFree(series string) bool { return strings.Contains(series, "refused") }

func each(n int) float64 { return float64(n) }

func causes(b *backends) []cause {
	beside := []string{"meshlite", "grpc-go"}
	return []cause{
		{name: "endpoints", cost: "ns for a pick", at: []int{3, 10, 100, 1000, 10_000}, judged: 3,
			series: []string{roundrobin.Name, leastrequest.Name, peakewma.Name, "round_robin"}, measure: pickCosts},
		{name: "endpoints", cost: "KiB of a policy", at: []int{100, 1000, 10_000}, units: each, judged: 3,
			series: []string{roundrobin.Name, leastrequest.Name, peakewma.Name, "round_robin"}, measure: endpointMemory},
		{name: "watched services", cost: "KiB and goroutines of a directory", at: []int{10, 100, 300}, units: each, judged: 2,
			series: []string{"KiB", "goroutines"}, measure: serviceMemory},
		{name: "channels", cost: "KiB of connected channels", at: []int{1, 10, 100}, units: each, judged: 1, series: beside, measure: b.channelMemory},
		{name: "channels", cost: "µs of CPU for a call, both sides", at: []int{1, 10, 100}, judged: 1, series: beside,
			measure: func(t *testing.T, n int) []float64 { return b.beside(t, n, callsInUse, unary(100)) }},
		{name: "callers", cost: "µs of CPU for a call, both sides", at: []int{1, 10, 100, 1000, 10_000}, judged: 1,
			series:  append(beside[:2:2], "meshlite, % refused", "grpc-go, % refused"),
			measure: func(t *testing.T, n int) []float64 { return b.besideRefused(t, 1, n, unary(100)) }},
		{name: "bytes of payload", cost: "µs of CPU for a call, both sides", at: []int{100, 1 << 10, 1 << 14, 1 << 17, 1 << 20}, judged: 1,
			units: func(n int) float64 { return float64(n) / 1024 }, series: beside,
			measure: func(t *testing.T, n int) []float64 { return b.beside(t, 1, callsInUse, unary(n)) }},
		{name: "messages of a stream", cost: "µs of CPU for a stream, both sides", at: []int{1, 100, 10_000}, judged: 1, units: each, series: beside,
			measure: func(t *testing.T, n int) []float64 { return b.beside(t, 1, 2, stream(n)) }},
	}
}

func pickCosts(t *testing.T, n int) (ns []float64) {
	t.Helper()
	for _, policy := range []string{roundrobin.Name, leastrequest.Name, peakewma.Name, "round_robin"} {
		c := balancertest.New(t, policy)
		c.ReadyMany("{}", n)
		picker := c.Picker()
		pickAll(t, picker, 3*n) // the first use of an endpoint is none that counts
		start := time.Now()
		pickAll(t, picker, picks)
		ns = append(ns, float64(time.Since(start).Nanoseconds())/picks)
	}
	return ns
}

func pickAll(t *testing.T, picker balancer.Picker, times int) {
	t.Helper()
	for range times {
		result, err := picker.Pick(getSweet)
		if err != nil {
			t.Fatal(err)
		}
		if result.Done != nil {
			result.Done(success)
		}
	}
}

// heap is what is in use after a collection, in KiB. What finalizers and pools keep goes
// with the second.
func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / 1024
}

// endpointMemory includes the connections' stand-ins, which are the same for all.
func endpointMemory(t *testing.T, n int) (kib []float64) {
	t.Helper()
	for _, policy := range []string{roundrobin.Name, leastrequest.Name, peakewma.Name, "round_robin"} {
		before, c := heap(), balancertest.New(t, policy)
		c.ReadyMany("{}", n)
		kib = append(kib, heap()-before)
		runtime.KeepAlive(c)
	}
	return kib
}

// serviceMemory watches n services of a stand-in for Consul in this process, whose side of
// the waiting requests counts too.
func serviceMemory(t *testing.T, n int) []float64 {
	t.Helper()
	agent := consultest.New()
	defer agent.Close()
	for i := range n {
		for k := range ofService {
			name := fmt.Sprint("service", i)
			if err := agent.Register(consultest.Service{ID: fmt.Sprint(name, "-", k), Name: name, Address: "127.0.0.1", Port: 1 + k}); err != nil {
				t.Fatal(err)
			}
		}
	}
	before, goroutines := heap(), runtime.NumGoroutine()
	directory, err := consul.New(consul.Config{Transport: agent.Transport(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer directory.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var watches, answered sync.WaitGroup
	defer watches.Wait()
	defer cancel()
	kept := make([]catalog.Snapshot, n)
	for i := range n {
		answered.Add(1)
		once := sync.OnceFunc(answered.Done)
		watches.Go(func() {
			directory.Watch(ctx, catalog.Query{Service: fmt.Sprint("service", i)}, func(s catalog.Snapshot, err error) {
				if err == nil && len(s.Instances) == ofService {
					kept[i] = s
					once()
				}
			})
		})
	}
	answered.Wait()
	kib, more := heap()-before, runtime.NumGoroutine()-goroutines
	runtime.KeepAlive(kept)
	return []float64{kib, float64(more)}
}

// open opens n channels of each kind, with the whole chain and bare, each connected.
func (b *backends) open(t *testing.T, n int) (meshed, bare *benchkit.Channels) {
	t.Helper()
	return b.openMesh(t, n), b.openBare(t, n)
}

func (b *backends) openMesh(t *testing.T, n int) *benchkit.Channels {
	t.Helper()
	channels, err := benchkit.DialMesh(b.Consul, service, benchkit.Mesh{Policy: "least_request", Security: benchkit.Plaintext}, n)
	if err != nil {
		t.Fatal(err)
	}
	callEach(t, channels)
	return channels
}

func (b *backends) openBare(t *testing.T, n int) *benchkit.Channels {
	t.Helper()
	channels := &benchkit.Channels{}
	for range n {
		conn, err := benchkit.Bare(b.Bare, "round_robin")
		if err != nil {
			t.Fatal(err)
		}
		channels.Conns = append(channels.Conns, conn)
	}
	callEach(t, channels)
	return channels
}

// callEach calls over each channel until all its backends have answered.
func callEach(t *testing.T, channels *benchkit.Channels) {
	t.Helper()
	for i := range channels.Conns {
		one := &benchkit.Channels{Conns: channels.Conns[i : i+1]}
		if answers, err := untilAllAnswer(one); err != nil {
			t.Fatalf("channel %d of %d: %v: %v", i, len(channels.Conns), answers, err)
		}
	}
}

func (b *backends) channelMemory(t *testing.T, n int) []float64 {
	t.Helper()
	before := heap()
	meshed := b.openMesh(t, n)
	ours := heap() - before
	meshed.Close()
	before = heap()
	bare := b.openBare(t, n)
	theirs := heap() - before
	bare.Close()
	return []float64{ours, theirs}
}

// work is a call, or a stream.
type work func(context.Context, *grpc.ClientConn) error

func unary(payload int) work {
	request := &catalogv1.GetSweetRequest{Id: strings.Repeat("x", payload)}
	return func(ctx context.Context, conn *grpc.ClientConn) error {
		response, err := catalogv1.NewCatalogServiceClient(conn).GetSweet(ctx, request)
		if err == nil && len(response.GetSweet().GetDescription()) != payload {
			return fmt.Errorf("%d bytes were answered, want %d", len(response.GetSweet().GetDescription()), payload)
		}
		return err
	}
}

// stream sends n messages of 100 bytes, each after the answer to the one before.
func stream(n int) work {
	request := &testpb.SimpleRequest{Payload: &testpb.Payload{Body: []byte(benchkit.Text)}}
	return func(ctx context.Context, conn *grpc.ClientConn) error {
		s, err := testpb.NewBenchmarkServiceClient(conn).StreamingCall(ctx)
		if err != nil {
			return err
		}
		for range n {
			if err := s.Send(request); err != nil {
				return err
			}
			if _, err := s.Recv(); err != nil {
				return err
			}
		}
		if err := s.CloseSend(); err != nil {
			return err
		}
		if _, err := s.Recv(); !errors.Is(err, io.EOF) {
			return fmt.Errorf("the stream ended with %w, want EOF", err)
		}
		return nil
	}
}

func (b *backends) beside(t *testing.T, channels, callers int, w work) []float64 {
	t.Helper()
	costs := b.besideRefused(t, channels, callers, w)
	if costs[2]+costs[3] > 0 {
		t.Errorf("%.2f %% of meshlite's calls and %.2f %% of grpc-go's have failed", costs[2], costs[3])
	}
	return costs[:2]
}

// besideRefused returns what a call costs here and what it costs grpc-go, one after the
// other, and which part of each has failed.
func (b *backends) besideRefused(t *testing.T, channels, callers int, w work) []float64 {
	t.Helper()
	meshed, bare := b.open(t, channels)
	defer meshed.Close()
	defer bare.Close()
	ours, failed := b.spend(t, meshed, callers, w)
	theirs, theirFailed := b.spend(t, bare, callers, w)
	return []float64{ours, theirs, failed, theirFailed}
}

// spend has callers repeat w in a closed loop for a window, and returns the CPU time of one
// that succeeds on both sides, in microseconds, and the percentage that fails.
func (b *backends) spend(t *testing.T, channels *benchkit.Channels, callers int, w work) (micros, refused float64) {
	t.Helper()
	var succeeded, failed atomic.Int64
	var last atomic.Value
	used := func() time.Duration { return benchkit.UsedCPU() + benchkit.UsedBy(b.group) }
	before, end := used(), time.Now().Add(*window)
	var running sync.WaitGroup
	for i := range callers {
		running.Go(func() {
			for again := true; again; again = time.Now().Before(end) {
				if err := w(context.Background(), channels.Conns[i%len(channels.Conns)]); err != nil {
					failed.Add(1)
					last.Store(err.Error())
				} else {
					succeeded.Add(1)
				}
			}
		})
	}
	running.Wait()
	n := succeeded.Load()
	if n == 0 {
		t.Fatalf("all calls have failed, one with: %v", last.Load())
	}
	return float64((used() - before).Nanoseconds()) / 1e3 / float64(n), 100 * float64(failed.Load()) / float64(n+failed.Load())
}
