package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"

	"github.com/meshlite-go/meshlite"
	echov1 "github.com/meshlite-go/meshlite/internal/bench/testdata/echo"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// backendCount is how many backends a path has.
const backendCount = 3

// echo answers with what it was asked, and with who it is. It takes no time, or
// sleeps: one that burns CPU would slow down whoever shares the machine.
type echo struct {
	catalogv1.UnimplementedCatalogServiceServer
	name  string
	delay *atomic.Int64 // nanoseconds
}

func (e echo) GetSweet(_ context.Context, request *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
	if d := e.delay.Load(); d > 0 {
		time.Sleep(time.Duration(d))
	}
	return &catalogv1.GetSweetResponse{Sweet: &catalogv1.Sweet{Id: e.name, Description: request.GetId()}}, nil
}

// echoService is echo for gateways.
type echoService struct {
	echov1.UnimplementedEchoServiceServer
	echo
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
	Secured []string // the same by mutual TLS, with certificates of Consul's CA
	Consul  string   // where servers of this module are registered, and the bare ones as "echo"
}

// serveBackends is all that the process of the backends does: it writes its addresses,
// and from then on reads how long the first backend of each kind takes.
func serveBackends(in io.Reader, out io.Writer) error {
	delays := make([]atomic.Int64, backendCount)
	agent := consultest.New()
	bare, err := serveBare(agent, delays)
	if err != nil {
		return err
	}
	secured, err := serveSecuredBare(agent, delays)
	if err != nil {
		return err
	}
	consul, err := serveMeshed(agent, delays)
	if err != nil {
		return err
	}
	reports := json.NewEncoder(out)
	if err := reports.Encode(addresses{bare, secured, consul}); err != nil {
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
		server, backend := grpc.NewServer(), echo{name: strconv.Itoa(i), delay: &delays[i]}
		catalogv1.RegisterCatalogServiceServer(server, backend)
		echov1.RegisterEchoServiceServer(server, echoService{echo: backend})
		reflection.Register(server)
		go func() { _ = server.Serve(listener) }()
		addresses = append(addresses, listener.Addr().String())
		port := listener.Addr().(*net.TCPAddr).Port
		if err := agent.Register(consultest.Service{ID: backend.name, Name: "echo", Address: "127.0.0.1", Port: port}); err != nil {
			return nil, err
		}
	}
	return addresses, nil
}

// serveMeshed serves with the whole default chain, registered with a stand-in for
// Consul whose address it returns.
func serveMeshed(agent *consultest.Server, delays []atomic.Int64) (string, error) {
	directory, err := consul.New(consul.Config{Transport: agent.Transport(), Logger: silent()})
	if err != nil {
		return "", err
	}
	mtls, err := mutualTLS(directory, securedService)
	if err != nil {
		return "", err
	}
	for name, security := range map[string]meshlite.Option{service: meshlite.WithPlaintext(), securedService: meshlite.WithTransportCredentials(mtls)} {
		for i := range delays {
			var options []meshlite.ServerOption
			for _, o := range meshOptions(directory, security) {
				options = append(options, o)
			}
			server, err := meshlite.NewServer(name, options...)
			if err != nil {
				return "", err
			}
			catalogv1.RegisterCatalogServiceServer(server, echo{name: strconv.Itoa(i), delay: &delays[i]})
			go func() { _ = server.Run(context.Background()) }()
		}
		if err := awaitInstances(directory, name, len(delays)); err != nil {
			return "", err
		}
	}
	return agent.Listen("127.0.0.1:0")
}

func awaitInstances(directory *consul.Directory, service string, n int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		entries, err := directory.Entries(ctx, catalog.Query{Service: service})
		if err == nil && len(entries) == n {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d instances of %s are registered: %w", len(entries), n, service, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// meshOptions turn everything on that a channel or server has by default, and a rate
// limit that admits all. Only the cache is off: it would save the calls.
func meshOptions(directory *consul.Directory, security meshlite.Option) []meshlite.Option {
	runtime, err := meshlite.NewRuntime(meshlite.RuntimeConfig{})
	if err != nil {
		panic(err) // the defaults are right
	}
	off, all := "0s", uint64(1e9)
	return []meshlite.Option{
		security, meshlite.WithDirectory(directory), meshlite.WithLogger(silent()), meshlite.WithRuntime(runtime),
		meshlite.WithPolicy(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{
			Cache:      &policyv1.CacheRule{Ttl: &off},
			RateLimits: []*policyv1.RateLimitRule{{Name: "all", Limit: &all}},
		}}),
	}
}

func silent() *slog.Logger { return slog.New(slog.DiscardHandler) }
