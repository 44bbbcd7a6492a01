package meshlite_test

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/internal/racetest"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// ends are ways to put our ends and those of grpc-go together.
type ends struct {
	bare, client, server catalogv1.CatalogServiceClient // both of grpc-go, only ours here, only ours there
}

// newEnds turns everything on that a channel or server has by default, and a rate limit that
// admits all. Only the cache is off: it would save the calls.
func newEnds(t *testing.T) ends {
	t.Helper()
	m := newMesh(t)
	off, all := "0s", uint64(1e9)
	common := meshlite.Options{
		meshlite.WithLogger(slog.New(slog.DiscardHandler)),
		meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{
			Cache:      &policyv1.CacheRule{Ttl: &off},
			RateLimits: []*policyv1.RateLimitRule{{Name: "all", Limit: &all}},
		}}),
	}
	m.serve(&shop{name: "ours"}, common)
	bare := grpc.NewServer()
	catalogv1.RegisterCatalogServiceServer(bare, &shop{name: "bare"})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = bare.Serve(listener) }()
	t.Cleanup(bare.Stop)
	err = m.agent.Register(consultest.Service{ID: "bare", Name: "bare", Address: "127.0.0.1", Port: listener.Addr().(*net.TCPAddr).Port})
	if err != nil {
		t.Fatal(err)
	}
	client, _ := m.client("consul:///bare", common)
	return ends{bare: plain(t, listener.Addr().String()), client: client, server: plain(t, m.instances("catalog")[0])}
}

// plain is a channel of grpc-go.
func plain(t *testing.T, address string) catalogv1.CatalogServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithNoProxy(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return catalogv1.NewCatalogServiceClient(conn)
}

// allocated is what a call allocates on both ends. timeout 0 is none.
func allocated(t *testing.T, client catalogv1.CatalogServiceClient, timeout time.Duration) float64 {
	t.Helper()
	request := &catalogv1.GetSweetRequest{Id: "fudge"}
	call := func() {
		ctx := context.Background()
		if timeout > 0 {
			timed, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			ctx = timed
		}
		if _, err := client.GetSweet(ctx, request); err != nil {
			t.Fatal(err)
		}
	}
	for range 200 {
		call()
	}
	return testing.AllocsPerRun(2000, call)
}

// A call through a whole chain allocates little more than one of grpc-go. The contract has a
// timeout, which our client sets and both ends of grpc-go pay for, so that client is compared
// with one that sets it, too.
func TestAllocationsOfAWholeChain(t *testing.T) {
	if racetest.Enabled {
		t.Skip("the race detector allocates, too")
	}
	t.Setenv("MESHLITE_CALL_STREAMS", "false")
	e := newEnds(t)
	bare, timed := allocated(t, e.bare, 0), allocated(t, e.bare, 2*time.Second)
	client, server := allocated(t, e.client, 0), allocated(t, e.server, 0)
	t.Logf("grpc-go %.0f, with a timeout %.0f, our client %.0f, our server %.0f", bare, timed, client, server)
	if more := client - timed; more > 3 {
		t.Errorf("the client allocates %.0f times more than that of grpc-go with a timeout, want 3 at most", more)
	}
	if more := server - bare; more > 4 {
		t.Errorf("the server allocates %.0f times more than that of grpc-go, want 4 at most", more)
	}
}
