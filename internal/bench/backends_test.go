package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/reflection"

	echov1 "github.com/meshlite-go/meshlite/internal/bench/testdata/echo"
	"github.com/meshlite-go/meshlite/internal/benchkit"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// echoService is echo for gateways.
type echoService struct {
	echov1.UnimplementedEchoServiceServer
	benchkit.Backend
}

func (e echoService) Echo(ctx context.Context, request *echov1.EchoRequest) (*echov1.EchoResponse, error) {
	response, err := e.GetSweet(ctx, &catalogv1.GetSweetRequest{Id: request.GetText()})
	return &echov1.EchoResponse{Backend: response.GetSweet().GetId(), Text: response.GetSweet().GetDescription()}, err
}

func (e echoService) CachedEcho(ctx context.Context, request *echov1.EchoRequest) (*echov1.EchoResponse, error) {
	return e.Echo(ctx, request)
}

// addresses is what the process of the backends reports.
type addresses struct {
	Bare   []string // servers of grpc-go, without interceptors
	Consul string   // where servers of this module are registered, and the bare ones as "echo"
}

// serveBackends is all that the process of the backends does: it writes its addresses,
// and from then on reads how long the first backend of each kind takes.
func serveBackends(in io.Reader, out io.Writer) error {
	delays := make([]atomic.Int64, benchkit.BackendCount)
	agent := consultest.New()
	bare, err := serveBare(agent, delays)
	if err != nil {
		return err
	}
	consul, err := benchkit.ServeMesh(agent, delays)
	if err != nil {
		return err
	}
	reports := json.NewEncoder(out)
	if err := reports.Encode(addresses{bare, consul}); err != nil {
		return err
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		d, err := time.ParseDuration(lines.Text())
		if err != nil {
			return err
		}
		delays[0].Store(int64(d))
		if err := reports.Encode(d.String()); err != nil {
			return err
		}
	}
	return nil // whoever started us has gone, and all that we serve goes with us
}

func serveBare(agent *consultest.Server, delays []atomic.Int64) ([]string, error) {
	var addresses []string
	for i := range delays {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		server, backend := grpc.NewServer(), benchkit.Backend{Name: strconv.Itoa(i), Delay: &delays[i]}
		catalogv1.RegisterCatalogServiceServer(server, backend)
		testpb.RegisterBenchmarkServiceServer(server, benchkit.StreamBackend{})
		echov1.RegisterEchoServiceServer(server, echoService{Backend: backend})
		reflection.Register(server)
		go func() { _ = server.Serve(listener) }()
		addresses = append(addresses, listener.Addr().String())
		port := listener.Addr().(*net.TCPAddr).Port
		if err := agent.Register(consultest.Service{ID: backend.Name, Name: "echo", Address: "127.0.0.1", Port: port}); err != nil {
			return nil, err
		}
	}
	return addresses, nil
}
