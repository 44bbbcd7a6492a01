package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
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
	Bare    []string // servers of grpc-go, without interceptors
	Tuned   []string // the same with the workers that servers of this module have
	Secured []string // the same as Bare by mutual TLS, with certificates of Consul's CA
	Five    []string // the same as Tuned, of five
	Consul  string   // where servers of this module are registered, and the bare ones as "echo"
}

// serveBackends is all that the process of the backends does: it writes its addresses,
// and from then on reads how long the first backend of each kind takes.
func serveBackends(in io.Reader, out io.Writer) error {
	delays, five := make([]atomic.Int64, benchkit.BackendCount), make([]atomic.Int64, fiveBackends)
	at, err := serveAll(consultest.New(), delays, five)
	if err != nil {
		return err
	}
	reports := json.NewEncoder(out)
	if err := reports.Encode(at); err != nil {
		return err
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		d, err := time.ParseDuration(lines.Text())
		if err != nil {
			return err
		}
		delays[0].Store(int64(d))
		five[0].Store(int64(d))
		if err := reports.Encode(d.String()); err != nil {
			return err
		}
	}
	return nil // whoever started us has gone, and all that we serve goes with us
}

func serveAll(agent *consultest.Server, delays, five []atomic.Int64) (at addresses, err error) {
	if at.Bare, err = serveBare(delays); err != nil {
		return at, err
	}
	if err := registerEcho(agent, at.Bare); err != nil {
		return at, err
	}
	if at.Tuned, err = serveBare(delays, grpc.NumStreamWorkers(64)); err != nil {
		return at, err
	}
	if at.Five, err = serveBare(five, grpc.NumStreamWorkers(64)); err != nil {
		return at, err
	}
	client := &http.Client{Transport: agent.Transport()}
	settings, err := benchkit.PlainTLS(client, "127.0.0.1:8500", service)
	if err != nil {
		return at, err
	}
	if at.Secured, err = serveBare(delays, grpc.Creds(credentials.NewTLS(settings))); err != nil {
		return at, err
	}
	if err := benchkit.ServeMesh(agent, service, benchkit.Plaintext, delays); err != nil {
		return at, err
	}
	if err := benchkit.ServeMesh(agent, securedService, benchkit.MutualTLS(securedService), delays); err != nil {
		return at, err
	}
	if err := benchkit.ServeMesh(agent, fiveService, benchkit.Plaintext, five); err != nil {
		return at, err
	}
	at.Consul, err = agent.Listen("127.0.0.1:0")
	return at, err
}

func serveBare(delays []atomic.Int64, options ...grpc.ServerOption) ([]string, error) {
	var addresses []string
	for i := range delays {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		server, backend := grpc.NewServer(options...), benchkit.Backend{Name: strconv.Itoa(i), Delay: &delays[i]}
		catalogv1.RegisterCatalogServiceServer(server, backend)
		testpb.RegisterBenchmarkServiceServer(server, benchkit.StreamBackend{})
		echov1.RegisterEchoServiceServer(server, echoService{Backend: backend})
		reflection.Register(server)
		go func() { _ = server.Serve(listener) }()
		addresses = append(addresses, listener.Addr().String())
	}
	return addresses, nil
}

func registerEcho(agent *consultest.Server, addresses []string) error {
	for i, address := range addresses {
		at := netip.MustParseAddrPort(address)
		if err := agent.Register(consultest.Service{ID: strconv.Itoa(i), Name: "echo", Address: at.Addr().String(), Port: int(at.Port())}); err != nil {
			return err
		}
	}
	return nil
}
