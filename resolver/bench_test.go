package resolver_test

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	grpcresolver "google.golang.org/grpc/resolver"
	"google.golang.org/grpc/test/bufconn"

	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// direct is a directory that reports to the first watch from the test itself.
type direct struct {
	report chan func(catalog.Snapshot, error)
}

func (d direct) Watch(ctx context.Context, _ catalog.Query, report func(catalog.Snapshot, error)) {
	d.report <- report
	<-ctx.Done()
}

func (d direct) Name() string { return "direct" }

// sharedBackend is one server that listens at every address.
type sharedBackend struct {
	listener *bufconn.Listener
	options  []grpc.DialOption
}

func newSharedBackend(b testing.TB) *sharedBackend {
	c := &sharedBackend{listener: bufconn.Listen(1 << 16)}
	server := grpc.NewServer()
	healthv1.RegisterHealthServer(server, health.NewServer())
	go func() { _ = server.Serve(c.listener) }()
	b.Cleanup(server.Stop)
	c.options = []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return c.listener.DialContext(ctx) }),
	}
	return c
}

// notifying is a resolver.Builder that signals when gRPC has taken in a state, pickers
// included.
type notifying struct {
	*resolver.Builder
	done chan struct{}
}

func (b notifying) Build(target grpcresolver.Target, cc grpcresolver.ClientConn, opts grpcresolver.BuildOptions) (grpcresolver.Resolver, error) {
	return b.Builder.Build(target, notifyingConn{cc, b.done}, opts)
}

type notifyingConn struct {
	grpcresolver.ClientConn
	done chan struct{}
}

func (t notifyingConn) UpdateState(state grpcresolver.State) error {
	defer func() {
		select {
		case t.done <- struct{}{}:
		default: // a subset has exchanged a member, which nobody waits for
		}
	}()
	return t.ClientConn.UpdateState(state)
}

// channel is a channel to a sharedBackend whose directory the test controls.
type channel struct {
	*grpc.ClientConn
	report func(catalog.Snapshot, error)
	done   chan struct{}
}

// connect makes a ready channel to n endpoints.
func (c *sharedBackend) connect(b testing.TB, n int, opts ...resolver.Option) channel {
	d := direct{make(chan func(catalog.Snapshot, error), 1)}
	builder := notifying{resolver.NewBuilder(d, opts...), make(chan struct{}, 1)}
	conn, err := grpc.NewClient("consul:///catalog", append(c.options,
		grpc.WithResolvers(builder), grpc.WithDefaultServiceConfig(resolver.DefaultServiceConfig))...)
	if err != nil {
		b.Fatal(err)
	}
	conn.Connect()
	ready := channel{conn, <-d.report, builder.done}
	ready.change(snapshotOf(n))
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		conn.WaitForStateChange(context.Background(), state)
	}
	if err := call(conn); err != nil {
		b.Fatal(err)
	}
	return ready
}

// change reports list and waits until gRPC has taken it in.
func (c channel) change(list []catalog.Instance) {
	select {
	case <-c.done: // of an exchange before
	default:
	}
	c.report(catalog.Snapshot{Instances: list, Time: time.Now()}, nil)
	<-c.done
}

// snapshotOf is a snapshot with all that Consul reports of each instance.
func snapshotOf(n int) []catalog.Instance {
	list := instances(upTo(n)...)
	for i := range list {
		list[i].Node, list[i].Datacenter, list[i].Zone = fmt.Sprint("node-", i%100), "dc1", "zone-a"
		list[i].Tags = []string{"canary", "v2"}
		list[i].Metadata = map[string]string{"version": "1.2.3", "metrics_address": "127.0.0.1:9090"}
	}
	return list
}

// R22: 10,000 endpoints, from the snapshot on: ready in 1 s, one change costs
// 25 ms at most, 64 MiB at most.
//
// Case R22
func BenchmarkReadyWithManyEndpoints(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c := newSharedBackend(b)
			for b.Loop() {
				before := heap()
				conn := c.connect(b, n)
				b.ReportMetric((heap()-before)/(1<<20), "MiB")
				conn.Close()
			}
		})
	}
}

// BenchmarkChangeOfManyEndpoints is R22's one change, and R21: from the answer to
// the picker. All weights change, so that every endpoint is updated.
//
// Case R21
// Case R22
func BenchmarkChangeOfManyEndpoints(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { benchmarkChange(b, n) })
	}
	b.Run("1000 without subset", func(b *testing.B) { benchmarkChange(b, 1000, resolver.WithSubset(0)) })
}

func benchmarkChange(b *testing.B, n int, opts ...resolver.Option) {
	conn := newSharedBackend(b).connect(b, n, opts...)
	defer conn.Close()
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		list := snapshotOf(n)
		for at := range list {
			list[at].Weight = uint32(i%100) + 2
		}
		b.StartTimer()
		conn.change(list)
	}
}

// R22: 64 MiB at most, with the connections and the servers' side of them.
//
// Case R22
func TestTenThousandEndpointsTakeLittleMemory(t *testing.T) {
	c := newSharedBackend(t)
	before := heap()
	conn := c.connect(t, 10000)
	defer conn.Close()
	if mib := (heap() - before) / (1 << 20); mib > 64 {
		t.Errorf("10,000 endpoints take %.0f MiB", mib)
	}
}

func heap() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
