package benchpeers

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"strings"

	"github.com/go-kratos/kratos/v2/middleware/recovery"
	"github.com/go-kratos/kratos/v2/selector"
	"github.com/go-kratos/kratos/v2/selector/p2c"
	"github.com/go-kratos/kratos/v2/selector/wrr"
	kratosgrpc "github.com/go-kratos/kratos/v2/transport/grpc"
	"github.com/zeromicro/go-zero/core/conf"
	"github.com/zeromicro/go-zero/zrpc"
	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/internal/benchkit"
)

// reach is how a client finds its servers.
type reach struct {
	addresses
	Proxy benchkit.Proxy
}

// clients dial, each with channels of its own for each measurement, so that none profits
// from what an earlier one has measured.
var clients = map[string]func(reach) (*benchkit.Channels, error){
	"grpc-go": func(r reach) (*benchkit.Channels, error) { return one(benchkit.Bare(r.Servers, "round_robin")) },
	"grpc-go, a deadline": func(r reach) (*benchkit.Channels, error) {
		return one(benchkit.Bare(r.Servers, "round_robin", benchkit.WithDeadline()))
	},
	"kratos wrr":             func(r reach) (*benchkit.Channels, error) { return dialKratos(r, wrr.NewBuilder()) },
	"kratos p2c":             func(r reach) (*benchkit.Channels, error) { return dialKratos(r, p2c.NewBuilder()) },
	"go-zero":                dialGoZero,
	"meshlite least_request": func(r reach) (*benchkit.Channels, error) { return dialMesh(r, "least_request", false) },
	"meshlite peak_ewma":     func(r reach) (*benchkit.Channels, error) { return dialMesh(r, "peak_ewma", false) },
	"meshlite call streams":  func(r reach) (*benchkit.Channels, error) { return dialMesh(r, "least_request", true) },
	"proxy": func(r reach) (*benchkit.Channels, error) {
		conns, err := r.Proxy.Dial()
		return &benchkit.Channels{Conns: conns, Proxy: r.Proxy.Process}, err
	},
}

func dialMesh(r reach, policy string, callStreams bool) (*benchkit.Channels, error) {
	return benchkit.DialMesh(r.Agent, meshService, benchkit.Mesh{Policy: policy, Security: benchkit.Plaintext, CallStreams: callStreams}, 1)
}

func one(conn *grpc.ClientConn, err error) (*benchkit.Channels, error) {
	return &benchkit.Channels{Conns: []*grpc.ClientConn{conn}}, err
}

// dialKratos has recovery as the layout that kratos generates has it.
func dialKratos(r reach, policy selector.Builder) (*benchkit.Channels, error) {
	selector.SetGlobalSelector(policy)
	return one(kratosgrpc.DialInsecure(context.Background(),
		kratosgrpc.WithEndpoint("direct:///"+strings.Join(r.Servers, ",")),
		kratosgrpc.WithMiddleware(recovery.Recovery()),
	))
}

func dialGoZero(r reach) (*benchkit.Channels, error) {
	var c zrpc.RpcClientConf
	if err := conf.FillDefault(&c); err != nil {
		return nil, err
	}
	c.Endpoints = r.Servers
	client, err := zrpc.NewClient(c)
	if err != nil {
		return nil, err
	}
	return one(client.Conn(), nil)
}

// call reads loads, and writes what is measured of each. Its arguments are the name of a
// client and a reach.
func call(args []string, in io.Reader, out io.Writer) error {
	var r reach
	if err := json.Unmarshal([]byte(args[1]), &r); err != nil {
		return err
	}
	reports := json.NewEncoder(out)
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var load benchkit.Load
		if err := json.Unmarshal(lines.Bytes(), &load); err != nil {
			return err
		}
		m, err := measure(args[0], r, load)
		if err != nil {
			return err
		}
		if err := reports.Encode(m); err != nil {
			return err
		}
	}
	return nil
}

func measure(client string, r reach, load benchkit.Load) (benchkit.Measure, error) {
	channels, err := clients[client](r)
	if err != nil {
		return benchkit.Measure{}, err
	}
	defer channels.Close()
	return load.Run(channels)
}
