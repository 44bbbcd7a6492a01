// Command catalog serves the sweets of the shop. It registers in Consul, which
// CONSUL_HTTP_ADDR names, and leaves it on SIGTERM or SIGINT. PORT is the port
// to listen on, or :port for every address of the machine; without it, a free one is taken.
//
//	PORT=8081 catalog --metrics-address 127.0.0.1:9081
package main

import (
	"cmp"
	"flag"
	"fmt"
	"os"

	channelz "google.golang.org/grpc/channelz/service"
	"google.golang.org/grpc/reflection"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/internal/heapfloor"
	"github.com/meshlite-go/meshlite/internal/trust"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/services/catalog"
)

func main() {
	heapfloor.Set()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "catalog:", err)
		os.Exit(1)
	}
}

// run serves until SIGTERM.
func run() error {
	metrics := flag.String("metrics-address", cmp.Or(os.Getenv("MESHLITE_METRICS_ADDRESS"), "127.0.0.1:0"), "serve /metrics, /healthz, /readyz and pprof at `host:port`")
	reflect := flag.Bool("reflection", false, "answer gRPC reflection")
	advertise := flag.String("advertise", "", "register this `host`, host:port or network, such as 10.1.0.0/16 for the address in it, instead of that of the agent's node")
	region := flag.String("region", "", "the `region` that this process runs in")
	zone := flag.String("zone", "", "the `zone` of the region: instances in it are preferred")
	mutual := flag.Bool("identity", false, "be catalog by a certificate of Consul's CA, and let those call whom Consul's intentions allow: mutual TLS instead of plaintext")
	trusted := flag.String(trust.Flag, "", trust.Usage)
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("argument %q is not expected: see catalog -h", flag.Arg(0))
	}

	sweets, err := catalog.New()
	if err != nil {
		return err
	}

	security, end, err := secured(*mutual)
	if err != nil {
		return err
	}
	defer end()
	runtime, err := trust.Runtime(*trusted)
	if err != nil {
		return err
	}
	server, err := meshlite.NewServer("catalog", security, runtime, meshlite.WithLocality(*region, *zone),
		meshlite.WithListenAddress(os.Getenv("PORT")), meshlite.WithAdvertisedAddress(*advertise), meshlite.WithMetricsAddress(*metrics))
	if err != nil {
		return err
	}
	channelz.RegisterChannelzServiceToServer(server.GRPC())
	if *reflect {
		reflection.Register(server.GRPC())
	}
	catalogv1.RegisterCatalogServiceServer(server, sweets)
	return server.Run(meshlite.SignalContext())
}

// secured is plaintext, or the identity of the catalog, with which a server obeys the intentions about it.
func secured(mutual bool) (_ meshlite.Option, end func(), _ error) {
	if !mutual {
		return meshlite.WithPlaintext(), func() {}, nil
	}
	mtls, err := meshlite.ConsulIdentity("catalog")
	if err != nil {
		return nil, nil, err
	}
	return meshlite.WithTransportCredentials(mtls), mtls.Close, nil
}
