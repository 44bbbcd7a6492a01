// Command storefront serves the customers of the shop. It finds the catalog and
// the inventory in Consul, which CONSUL_HTTP_ADDR names, registers there itself
// and leaves on SIGTERM or SIGINT. PORT is the port to listen on; without it, a
// free one is taken.
//
//	PORT=8080 storefront --catalog "consul:///catalog?policy=round_robin"
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strconv"

	"github.com/meshlite-go/meshlite"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	inventoryv1 "github.com/meshlite-go/meshlite/proto/sweetshop/inventory/v1"
	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
	"github.com/meshlite-go/meshlite/services/storefront"
)

func main() {
	metrics := flag.String("metrics-address", "127.0.0.1:0", "serve /metrics, /healthz and pprof at `host:port`")
	reflection := flag.Bool("reflection", false, "answer gRPC reflection")
	catalog := flag.String("catalog", "consul:///catalog", "`target` of the catalog")
	inventory := flag.String("inventory", "consul:///inventory", "`target` of the inventory")
	flag.Parse()
	listen, err := listenAddress(os.Getenv("PORT"))
	if err == nil && flag.NArg() > 0 {
		err = fmt.Errorf("argument %q is not expected: see storefront -h", flag.Arg(0))
	}
	if err != nil {
		fail(2, err)
	}
	options := []meshlite.ServerOption{
		meshlite.WithPlaintext(), meshlite.WithListenAddress(listen), meshlite.WithMetricsAddress(*metrics), meshlite.WithChannelz(),
	}
	if *reflection {
		options = append(options, meshlite.WithReflection())
	}
	if err := run(*catalog, *inventory, options); err != nil {
		fail(1, err)
	}
}

// run serves until SIGTERM.
func run(catalogTarget, inventoryTarget string, options []meshlite.ServerOption) error {
	catalog, err := meshlite.NewClient(catalogTarget, meshlite.WithPlaintext())
	if err != nil {
		return err
	}
	defer catalog.Close()
	inventory, err := meshlite.NewClient(inventoryTarget, meshlite.WithPlaintext())
	if err != nil {
		return err
	}
	defer inventory.Close()

	server, err := meshlite.NewServer("storefront", options...)
	if err != nil {
		return err
	}
	shop := storefront.New(catalogv1.NewCatalogServiceClient(catalog), inventoryv1.NewInventoryServiceClient(inventory))
	storefrontv1.RegisterStorefrontServiceServer(server, shop)
	return server.Run(context.Background())
}

// listenAddress is the port on loopback, or nothing for a free one.
func listenAddress(port string) (string, error) {
	if port == "" {
		return "", nil
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", fmt.Errorf("PORT is %q: want 0 to 65535, or nothing for a free port", port)
	}
	return "127.0.0.1:" + port, nil
}

func fail(code int, err error) {
	fmt.Fprintln(os.Stderr, "storefront:", err)
	os.Exit(code)
}
