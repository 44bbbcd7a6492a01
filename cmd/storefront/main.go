// Command storefront serves the customers of the shop. It finds the catalog and
// the inventory in Consul, which CONSUL_HTTP_ADDR names, registers there itself
// and leaves on SIGTERM or SIGINT. PORT is the port to listen on, or :port for
// every address of the machine; without it, a free one is taken.
//
//	PORT=8080 storefront --catalog "consul:///catalog?policy=round_robin"
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
	inventoryv1 "github.com/meshlite-go/meshlite/proto/sweetshop/inventory/v1"
	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
	"github.com/meshlite-go/meshlite/services/storefront"
)

func main() {
	heapfloor.Set()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "storefront:", err)
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
	catalogTarget := flag.String("catalog", "consul:///catalog", "`target` of the catalog")
	inventoryTarget := flag.String("inventory", "consul:///inventory", "`target` of the inventory")
	mutual := flag.Bool("identity", false, "be storefront by a certificate of Consul's CA, and let those call whom Consul's intentions allow: mutual TLS instead of plaintext")
	trusted := flag.String(trust.Flag, "", trust.Usage)
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("argument %q is not expected: see storefront -h", flag.Arg(0))
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
	catalog, err := meshlite.NewClient(*catalogTarget, security, runtime, meshlite.WithLocality(*region, *zone))
	if err != nil {
		return err
	}
	defer catalog.Close()
	inventory, err := meshlite.NewClient(*inventoryTarget, security, runtime, meshlite.WithLocality(*region, *zone))
	if err != nil {
		return err
	}
	defer inventory.Close()
	shop := storefront.New(catalogv1.NewCatalogServiceClient(catalog), inventoryv1.NewInventoryServiceClient(inventory))

	server, err := meshlite.NewServer("storefront", security, runtime, meshlite.WithLocality(*region, *zone),
		meshlite.WithListenAddress(os.Getenv("PORT")), meshlite.WithAdvertisedAddress(*advertise), meshlite.WithMetricsAddress(*metrics))
	if err != nil {
		return err
	}
	channelz.RegisterChannelzServiceToServer(server.GRPC())
	if *reflect {
		reflection.Register(server.GRPC())
	}
	storefrontv1.RegisterStorefrontServiceServer(server, shop)
	return server.Run(meshlite.SignalContext())
}

// secured is plaintext, or the identity of the storefront, with which a server obeys the intentions about it.
func secured(mutual bool) (_ meshlite.Option, end func(), _ error) {
	if !mutual {
		return meshlite.WithPlaintext(), func() {}, nil
	}
	mtls, err := meshlite.ConsulIdentity("storefront")
	if err != nil {
		return nil, nil, err
	}
	return meshlite.WithTransportCredentials(mtls), mtls.Close, nil
}
