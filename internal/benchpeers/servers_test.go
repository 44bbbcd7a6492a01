package benchpeers

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/go-kratos/kratos/v2/middleware/recovery"
	kratosgrpc "github.com/go-kratos/kratos/v2/transport/grpc"
	"github.com/zeromicro/go-zero/core/conf"
	"github.com/zeromicro/go-zero/zrpc"
	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/internal/benchkit"
	"github.com/meshlite-go/meshlite/internal/freeport"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// streamWorkers is how many goroutines of a tuned server handle calls.
const streamWorkers = 64

// addresses are where servers are found: the agent knows those of meshlite.
type addresses struct {
	Servers []string
	Agent   string
}

// servers start three backends of a framework, which run until the process ends.
var servers = map[string]func([]atomic.Int64) (addresses, error){
	"grpc-go": func(delays []atomic.Int64) (addresses, error) { return serveGRPC(delays) },
	"tuned": func(delays []atomic.Int64) (addresses, error) {
		return serveGRPC(delays, grpc.NumStreamWorkers(streamWorkers))
	},
	"kratos":   serveKratos,
	"go-zero":  serveGoZero,
	"meshlite": serveMesh,
}

// meshService is what the servers of meshlite are registered as.
const meshService = "catalog"

func serveMesh(delays []atomic.Int64) (at addresses, err error) {
	agent := consultest.New()
	if err := benchkit.ServeMesh(agent, meshService, benchkit.Plaintext, delays); err != nil {
		return at, err
	}
	at.Agent, err = agent.Listen("127.0.0.1:0")
	return at, err
}

// serve writes the addresses of the servers, and then reads how long the first of them takes.
func serve(args []string, in io.Reader, out io.Writer) error {
	delays := make([]atomic.Int64, benchkit.BackendCount)
	at, err := servers[args[0]](delays)
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
		if err := reports.Encode(d); err != nil {
			return err
		}
	}
	return nil
}

func backend(delays []atomic.Int64, i int) benchkit.Backend {
	return benchkit.Backend{Name: strconv.Itoa(i), Delay: &delays[i]}
}

func serveGRPC(delays []atomic.Int64, options ...grpc.ServerOption) (at addresses, err error) {
	for i := range delays {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return at, err
		}
		server := grpc.NewServer(options...)
		catalogv1.RegisterCatalogServiceServer(server, backend(delays, i))
		go func() { _ = server.Serve(listener) }()
		at.Servers = append(at.Servers, listener.Addr().String())
	}
	return at, nil
}

// serveKratos has recovery as the layout that kratos generates has it.
func serveKratos(delays []atomic.Int64) (at addresses, err error) {
	for i := range delays {
		server := kratosgrpc.NewServer(kratosgrpc.Address("127.0.0.1:0"), kratosgrpc.Middleware(recovery.Recovery()))
		catalogv1.RegisterCatalogServiceServer(server, backend(delays, i))
		endpoint, err := server.Endpoint()
		if err != nil {
			return at, err
		}
		go func() { _ = server.Start(context.Background()) }()
		at.Servers = append(at.Servers, endpoint.Host)
	}
	return at, nil
}

// serveGoZero has the defaults of go-zero, but does not shed: callers in a closed loop keep a
// machine busy, and it would refuse them at 90 % of the CPU. Nor does it log each call.
func serveGoZero(delays []atomic.Int64) (at addresses, err error) {
	for i := range delays {
		address, err := freeport.Address()
		if err != nil {
			return at, err
		}
		var c zrpc.RpcServerConf
		if err := conf.LoadFromYamlBytes(fmt.Appendf(nil, "Name: catalog\nListenOn: %s\nCpuThreshold: 0\nLog:\n  Level: severe\n  Stat: false\n", address), &c); err != nil {
			return at, err
		}
		server, err := zrpc.NewServer(c, func(s *grpc.Server) {
			catalogv1.RegisterCatalogServiceServer(s, backend(delays, i))
		})
		if err != nil {
			return at, err
		}
		go server.Start()
		at.Servers = append(at.Servers, address)
	}
	return at, nil
}
