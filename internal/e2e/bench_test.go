package e2e

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	grpcresolver "google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/meshlite-go/meshlite"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// echo answers with 100 bytes.
type echo struct {
	catalogv1.UnimplementedCatalogServiceServer
}

var answer = &catalogv1.GetSweetResponse{Sweet: &catalogv1.Sweet{Description: strings.Repeat("x", 100)}}

func (echo) GetSweet(context.Context, *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
	return answer, nil
}

// BenchmarkCall is one call over loopback to one of three servers, 32 at a time:
// bare grpc-go, and this module with every concern of its default chain and a
// rate limit that admits all.
func BenchmarkCall(b *testing.B) {
	clients := map[string]catalogv1.CatalogServiceClient{"grpc-go": bare(b), "meshlite": meshed(b)}
	for range 3 { // in turn, since the machine's speed drifts
		for _, name := range []string{"grpc-go", "meshlite"} {
			b.Run(name, func(b *testing.B) { measure(b, clients[name]) })
		}
	}
}

func measure(b *testing.B, client catalogv1.CatalogServiceClient) {
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		request := &catalogv1.GetSweetRequest{Id: "lemon-sherbet"}
		for pb.Next() {
			if _, err := client.GetSweet(context.Background(), request); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func bare(b *testing.B) catalogv1.CatalogServiceClient {
	b.Helper()
	var state grpcresolver.State
	for range 3 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		server := grpc.NewServer()
		catalogv1.RegisterCatalogServiceServer(server, echo{})
		go func() { _ = server.Serve(listener) }()
		b.Cleanup(server.Stop)
		state.Endpoints = append(state.Endpoints, grpcresolver.Endpoint{Addresses: []grpcresolver.Address{{Addr: listener.Addr().String()}}})
	}
	r := manual.NewBuilderWithScheme("bench")
	r.InitialState(state)
	conn, err := grpc.NewClient("bench:///catalog", grpc.WithResolvers(r), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	return catalogv1.NewCatalogServiceClient(conn)
}

func meshed(b *testing.B) catalogv1.CatalogServiceClient {
	b.Helper()
	agent := consultest.New()
	b.Cleanup(agent.Close)
	silent := slog.New(slog.DiscardHandler)
	directory, err := consul.New(consul.Config{Transport: agent.Transport(), Logger: silent})
	if err != nil {
		b.Fatal(err)
	}
	off, all := "0s", uint64(1e9)
	options := []meshlite.Option{
		meshlite.WithPlaintext(), meshlite.WithDirectory(directory), meshlite.WithLogger(silent), meshlite.WithRuntime(newRuntime(b)),
		meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{
			Cache:      &policyv1.CacheRule{Ttl: &off},
			RateLimits: []*policyv1.RateLimitRule{{Name: "all", Limit: &all}},
		}}),
	}
	for range 3 {
		serve(b, options)
	}
	for count := 0; count < 3; time.Sleep(5 * time.Millisecond) {
		ctx, cancel := context.WithCancel(b.Context())
		directory.Watch(ctx, catalog.Query{Service: "catalog"}, func(s catalog.Snapshot, _ error) { count = len(s.Instances); cancel() })
	}
	var clientOptions []meshlite.ClientOption
	for _, o := range options {
		clientOptions = append(clientOptions, o)
	}
	conn, err := meshlite.NewClient("consul:///catalog", clientOptions...)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	return catalogv1.NewCatalogServiceClient(conn)
}

func serve(b *testing.B, options []meshlite.Option) {
	b.Helper()
	serverOptions := []meshlite.ServerOption{meshlite.WithDrain(0, time.Second)}
	for _, o := range options {
		serverOptions = append(serverOptions, o)
	}
	server, err := meshlite.NewServer("catalog", serverOptions...)
	if err != nil {
		b.Fatal(err)
	}
	catalogv1.RegisterCatalogServiceServer(server, echo{})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	b.Cleanup(func() { cancel(); <-ended })
}
