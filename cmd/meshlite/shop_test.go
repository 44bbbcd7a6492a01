package main

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meshlite-go/meshlite"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

const (
	getSweet     = "sweetshop.catalog.v1.CatalogService/GetSweet"
	listSections = "sweetshop.catalog.v1.CatalogService/ListSections"
)

// sweets is a catalog whose answers the tests choose by the id.
type sweets struct {
	catalogv1.UnimplementedCatalogServiceServer
	mu    sync.Mutex
	calls int

	together chan struct{} // full when as many calls of "together" are there as it holds
}

func (s *sweets) GetSweet(ctx context.Context, req *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
	s.mu.Lock()
	s.calls++
	s.mu.Unlock()
	switch req.GetId() {
	case "together":
		s.join()
	case "slow":
		<-ctx.Done()
		return nil, ctx.Err()
	case "limited":
		refused, err := status.New(codes.ResourceExhausted, "too many\n\x1b[2Jcalls").WithDetails(
			&errdetails.RetryInfo{RetryDelay: durationpb.New(2 * time.Second)})
		if err != nil {
			return nil, err
		}
		return nil, refused.Err()
	}
	md, _ := metadata.FromIncomingContext(ctx)
	name := ""
	for _, key := range []string{"customer-id", "token-bin"} {
		for _, value := range md.Get(key) {
			name += value + ";"
		}
	}
	_ = grpc.SetTrailer(ctx, metadata.Pairs("seen-bin", "\x00\x01"))
	return &catalogv1.GetSweetResponse{Sweet: &catalogv1.Sweet{Id: req.GetId(), Name: name}}, nil
}

// join waits until together is full, once.
func (s *sweets) join() {
	select {
	case s.together <- struct{}{}:
	default: // it was
	}
	for len(s.together) < cap(s.together) {
		time.Sleep(time.Millisecond)
	}
}

func (s *sweets) ListSections(context.Context, *catalogv1.ListSectionsRequest) (*catalogv1.ListSectionsResponse, error) {
	return &catalogv1.ListSectionsResponse{Sections: []*catalogv1.Section{{Id: "boiled", Sweets: 80}}}, nil
}

// openAgent is a stand-in for Consul, which the environment names.
func openAgent(t *testing.T) *consultest.Server {
	t.Helper()
	agent := consultest.New()
	t.Cleanup(agent.Close)
	address, err := agent.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("CONSUL_HTTP_ADDR", address)
	return agent
}

// openShop runs n catalogs, registered as service.
func openShop(t *testing.T, service string, n int, opts ...meshlite.ServerOption) *sweets {
	t.Helper()
	return openCatalogs(t, service, n, func(*meshlite.Server) {}, opts...)
}

// openReflectingShop runs n catalogs that answer reflection.
func openReflectingShop(t *testing.T, service string, n int, opts ...meshlite.ServerOption) *sweets {
	t.Helper()
	return openCatalogs(t, service, n, func(s *meshlite.Server) { reflection.Register(s.GRPC()) }, opts...)
}

func openCatalogs(t *testing.T, service string, n int, also func(*meshlite.Server), opts ...meshlite.ServerOption) *sweets {
	t.Helper()
	impl := &sweets{}
	silent := slog.New(slog.NewTextHandler(io.Discard, nil))
	directory, err := consul.New(consul.Config{Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() { stop(); running.Wait(); directory.Close() })
	for range n {
		server, err := meshlite.NewServer(service, append([]meshlite.ServerOption{
			meshlite.WithTransportCredentials(insecure.NewCredentials()), meshlite.WithDirectory(directory), meshlite.WithLogger(silent),
			meshlite.WithMetricsAddress(""), meshlite.WithDrain(0, time.Second)}, opts...)...)
		if err != nil {
			t.Fatal(err)
		}
		catalogv1.RegisterCatalogServiceServer(server, impl)
		also(server)
		running.Go(func() {
			if err := server.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	awaitPassing(t, service, n)
	return impl
}

// awaitPassing waits until n instances of service pass. A server registers its names
// one after the other.
func awaitPassing(t *testing.T, service string, n int) {
	t.Helper()
	client := consulClient(t)
	eventually(t, func() bool {
		entries, _, err := client.Health().Service(service, "", true, nil)
		return err == nil && len(entries) == n
	})
}

// openTLS runs one catalog that is in no directory, behind TLS.
func openTLS(t *testing.T, settings *tls.Config) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(settings)))
	catalogv1.RegisterCatalogServiceServer(server, &sweets{})
	reflection.Register(server)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}
