package bench

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/grpc"
	_ "google.golang.org/grpc/balancer/leastrequest"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	grpcresolver "google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/balancer/leastrequest"
	_ "github.com/meshlite-go/meshlite/balancer/peakewma"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

const service = "catalog"

// The paths, by the names in the tables.
const (
	grpcRoundRobin   = "grpc-go round_robin"
	grpcLeastRequest = "grpc-go least_request_experimental"
	meshPick         = "meshlite least_request, no interceptors"
	meshLeastRequest = "meshlite least_request, whole chain"
	meshPeakEWMA     = "meshlite peak_ewma, whole chain"
	grpcSecured      = "grpc-go round_robin, mutual TLS"
	meshSecured      = "meshlite least_request, whole chain, mutual TLS"
	nginxLeastConn   = "NGINX grpc_pass, least_conn"
	haproxyLeastConn = "HAProxy h2, leastconn"
)

// path is a way from callers to the backends.
type path struct {
	name    string
	program string // that must be installed, "" is none
	// start starts what stands between, until the test ends, and returns how to dial it.
	start func(testing.TB, *backends) dial
}

// dial opens channels of its own for each measurement, so that none profits from what
// another has learned. Callers spread over them.
type dial func(testing.TB) clients

// channels are clients over gRPC.
type channels struct {
	conns []*grpc.ClientConn
	proxy int    // its process group, 0 is none
	then  func() // after they are closed, or nil
}

func (c *channels) group() int { return c.proxy }

func (c *channels) close() {
	for _, conn := range c.conns {
		conn.Close()
	}
	if c.then != nil {
		c.then()
	}
}

func (c *channels) call(i int) func() (string, error) {
	client := catalogv1.NewCatalogServiceClient(c.conns[i%len(c.conns)])
	request := &catalogv1.GetSweetRequest{Id: text}
	return func() (backend string, err error) {
		response, err := client.GetSweet(context.Background(), request)
		if err == nil && len(response.GetSweet().GetDescription()) != len(text) {
			err = fmt.Errorf("the answer is %v, want what was asked", response)
		}
		return response.GetSweet().GetId(), err
	}
}

func paths() []path {
	return []path{
		{name: grpcRoundRobin, start: bare("round_robin")},
		{name: grpcLeastRequest, start: bare("least_request_experimental")},
		{name: meshPick, start: bare(leastrequest.Name)},
		{name: meshLeastRequest, start: meshed("least_request")},
		{name: meshPeakEWMA, start: meshed("peak_ewma")},
		{name: grpcSecured, start: startSecuredBare},
		{name: meshSecured, start: startSecuredMesh},
		{name: nginxLeastConn, program: "nginx", start: startNGINX},
		{name: haproxyLeastConn, program: "haproxy", start: startHAProxy},
	}
}

// bare is a channel of grpc-go with a policy, and nothing else.
func bare(policy string) func(testing.TB, *backends) dial {
	return func(_ testing.TB, b *backends) dial { return bareDial(policy, b.Bare, insecure.NewCredentials()) }
}

func bareDial(policy string, addresses []string, security credentials.TransportCredentials) dial {
	var state grpcresolver.State
	for _, address := range addresses {
		state.Endpoints = append(state.Endpoints, grpcresolver.Endpoint{Addresses: []grpcresolver.Address{{Addr: address}}})
	}
	return func(t testing.TB) clients {
		r := manual.NewBuilderWithScheme("bench")
		r.InitialState(state)
		return &channels{conns: []*grpc.ClientConn{connect(t, "bench:///catalog", grpc.WithResolvers(r), grpc.WithTransportCredentials(security),
			grpc.WithDefaultServiceConfig(fmt.Sprintf(`{"loadBalancingConfig": [{%q: {}}]}`, policy)))}}
	}
}

func connect(t testing.TB, target string, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	options = append([]grpc.DialOption{grpc.WithNoProxy(), grpc.WithTransportCredentials(insecure.NewCredentials())}, options...)
	conn, err := grpc.NewClient(target, options...)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// meshed is a channel of this module to its own servers, with the whole chain on both
// sides. It has a runtime of its own, which is where the learned lies.
func meshed(policy string) func(testing.TB, *backends) dial {
	return func(_ testing.TB, b *backends) dial {
		return func(t testing.TB) clients {
			t.Helper()
			directory, err := consul.New(consul.Config{Address: b.Consul, Logger: silent()})
			if err != nil {
				t.Fatal(err)
			}
			options := []meshlite.ClientOption{meshlite.WithBalancer(policy)}
			for _, o := range meshOptions(directory, meshlite.WithPlaintext()) {
				options = append(options, o)
			}
			conn, err := meshlite.NewClient("consul:///"+service, options...)
			if err != nil {
				t.Fatal(err)
			}
			return &channels{conns: []*grpc.ClientConn{conn}, then: directory.Close}
		}
	}
}
