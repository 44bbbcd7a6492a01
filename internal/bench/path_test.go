package bench

import (
	"testing"

	"google.golang.org/grpc"
	_ "google.golang.org/grpc/balancer/leastrequest"

	"github.com/meshlite-go/meshlite/balancer/leastrequest"
	_ "github.com/meshlite-go/meshlite/balancer/peakewma"
	"github.com/meshlite-go/meshlite/internal/benchkit"
)

// The paths, by the names in the tables.
const (
	grpcRoundRobin   = "grpc-go round_robin"
	grpcLeastRequest = "grpc-go least_request_experimental"
	meshPick         = "meshlite least_request, no interceptors"
	meshLeastRequest = "meshlite least_request, whole chain"
	meshPeakEWMA     = "meshlite peak_ewma, whole chain"
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
type dial func(testing.TB) benchkit.Clients

func paths() []path {
	return []path{
		{name: grpcRoundRobin, start: bare("round_robin")},
		{name: grpcLeastRequest, start: bare("least_request_experimental")},
		{name: meshPick, start: bare(leastrequest.Name)},
		{name: meshLeastRequest, start: meshed("least_request")},
		{name: meshPeakEWMA, start: meshed("peak_ewma")},
		{name: nginxLeastConn, program: "nginx", start: behind(benchkit.StartNGINX)},
		{name: haproxyLeastConn, program: "haproxy", start: behind(benchkit.StartHAProxy)},
	}
}

// bare is a channel of grpc-go with a policy, and nothing else.
func bare(policy string) func(testing.TB, *backends) dial {
	return func(_ testing.TB, b *backends) dial {
		return func(t testing.TB) benchkit.Clients {
			t.Helper()
			conn, err := benchkit.Bare(b.Bare, policy)
			if err != nil {
				t.Fatal(err)
			}
			return &benchkit.Channels{Conns: []*grpc.ClientConn{conn}}
		}
	}
}

// behind is the channels to a proxy.
func behind(start func(testing.TB, []string) benchkit.Proxy) func(testing.TB, *backends) dial {
	return func(t testing.TB, b *backends) dial {
		proxy := start(t, b.Bare)
		return func(t testing.TB) benchkit.Clients {
			t.Helper()
			conns, err := proxy.Dial()
			if err != nil {
				t.Fatal(err)
			}
			return &benchkit.Channels{Conns: conns, Proxy: proxy.Process}
		}
	}
}

// meshed is a channel of this module to its own servers, with the whole chain on both
// sides.
func meshed(policy string) func(testing.TB, *backends) dial {
	return func(_ testing.TB, b *backends) dial {
		return func(t testing.TB) benchkit.Clients {
			t.Helper()
			channels, err := benchkit.DialMesh(b.Consul, policy, 1)
			if err != nil {
				t.Fatal(err)
			}
			return channels
		}
	}
}
