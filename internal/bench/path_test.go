package bench

import (
	"net/http"
	"testing"

	"google.golang.org/grpc"
	_ "google.golang.org/grpc/balancer/leastrequest"
	"google.golang.org/grpc/credentials"

	"github.com/meshlite-go/meshlite/balancer/leastrequest"
	_ "github.com/meshlite-go/meshlite/balancer/peakewma"
	"github.com/meshlite-go/meshlite/internal/benchkit"
)

// The services of this module's servers.
const (
	service        = "catalog"
	securedService = "secured-catalog" // the same by mutual TLS
)

// The paths, by the names in the tables.
const (
	grpcRoundRobin   = "grpc-go round_robin"
	grpcTuned        = "grpc-go round_robin, 64 stream workers"
	grpcDeadline     = "grpc-go round_robin, 64 stream workers, a deadline as ours"
	grpcLeastRequest = "grpc-go least_request_experimental"
	meshPick         = "meshlite least_request, no interceptors"
	meshLeastRequest = "meshlite least_request, whole chain"
	meshPeakEWMA     = "meshlite peak_ewma, whole chain"
	meshStreams      = "meshlite least_request, whole chain, call streams"
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
// another has measured. Callers spread over them.
type dial func(testing.TB) benchkit.Clients

func paths() []path {
	return []path{
		{name: grpcRoundRobin, start: bare("round_robin", untuned)},
		{name: grpcTuned, start: bare("round_robin", tuned)},
		{name: grpcDeadline, start: bare("round_robin", tuned, benchkit.WithDeadline())},
		{name: grpcLeastRequest, start: bare("least_request_experimental", untuned)},
		{name: meshPick, start: bare(leastrequest.Name, untuned)},
		{name: meshLeastRequest, start: meshed(service, benchkit.Mesh{Policy: "least_request", Security: benchkit.Plaintext})},
		{name: meshPeakEWMA, start: meshed(service, benchkit.Mesh{Policy: "peak_ewma", Security: benchkit.Plaintext})},
		{name: meshStreams, start: meshed(service, benchkit.Mesh{Policy: "least_request", Security: benchkit.Plaintext, CallStreams: true})},
		{name: grpcSecured, start: bareSecured},
		{name: meshSecured, start: meshed(securedService, benchkit.Mesh{Policy: "least_request", Security: benchkit.MutualTLS("storefront")})},
		{name: nginxLeastConn, program: "nginx", start: behind(benchkit.StartNGINX)},
		{name: haproxyLeastConn, program: "haproxy", start: behind(benchkit.StartHAProxy)},
	}
}

func untuned(b *backends) []string { return b.Bare }
func tuned(b *backends) []string   { return b.Tuned }

// bare is a channel of grpc-go with a policy, and nothing else but options.
func bare(policy string, servers func(*backends) []string, options ...grpc.DialOption) func(testing.TB, *backends) dial {
	return func(_ testing.TB, b *backends) dial { return bareDial(servers(b), policy, options...) }
}

// bareSecured has certificates of Consul's CA.
func bareSecured(t testing.TB, b *backends) dial {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	settings, err := benchkit.PlainTLS(client, b.Consul, "storefront")
	if err != nil {
		t.Fatal(err)
	}
	return bareDial(b.Secured, "round_robin", grpc.WithTransportCredentials(credentials.NewTLS(settings)))
}

func bareDial(addresses []string, policy string, options ...grpc.DialOption) dial {
	return func(t testing.TB) benchkit.Clients {
		t.Helper()
		conn, err := benchkit.Bare(addresses, policy, options...)
		if err != nil {
			t.Fatal(err)
		}
		return &benchkit.Channels{Conns: []*grpc.ClientConn{conn}}
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
func meshed(service string, with benchkit.Mesh) func(testing.TB, *backends) dial {
	return func(_ testing.TB, b *backends) dial {
		return func(t testing.TB) benchkit.Clients {
			t.Helper()
			channels, err := benchkit.DialMesh(b.Consul, service, with, 1)
			if err != nil {
				t.Fatal(err)
			}
			return channels
		}
	}
}
