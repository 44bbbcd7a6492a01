// Command inventory serves the stock of the shop, as slowly as it is told to. It
// registers in Consul, which CONSUL_HTTP_ADDR names, and leaves it on SIGTERM or
// SIGINT. PORT is the port to listen on; without it, a free one is taken.
//
//	PORT=8082 inventory --latency 2ms --jitter 3ms
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strconv"

	"github.com/meshlite-go/meshlite"
	inventoryv1 "github.com/meshlite-go/meshlite/proto/sweetshop/inventory/v1"
	"github.com/meshlite-go/meshlite/services/inventory"
)

func main() {
	metrics := flag.String("metrics-address", "127.0.0.1:0", "serve /metrics, /healthz and pprof at `host:port`")
	reflection := flag.Bool("reflection", false, "answer gRPC reflection")
	latency := flag.Duration("latency", 0, "every call takes this `duration`")
	jitter := flag.Duration("jitter", 0, "and up to this `duration` more, at random")
	flag.Parse()
	listen, err := listenAddress(os.Getenv("PORT"))
	if err == nil && flag.NArg() > 0 {
		err = fmt.Errorf("argument %q is not expected: see inventory -h", flag.Arg(0))
	}
	if err != nil {
		fail(2, err)
	}
	stock, err := inventory.New(inventory.Options{Latency: *latency, Jitter: *jitter})
	if err != nil {
		fail(2, err)
	}
	options := []meshlite.ServerOption{
		meshlite.WithPlaintext(), meshlite.WithListenAddress(listen), meshlite.WithMetricsAddress(*metrics), meshlite.WithChannelz(),
	}
	if *reflection {
		options = append(options, meshlite.WithReflection())
	}
	if err := run(stock, options); err != nil {
		fail(1, err)
	}
}

// run serves until SIGTERM.
func run(stock *inventory.Service, options []meshlite.ServerOption) error {
	server, err := meshlite.NewServer("inventory", options...)
	if err != nil {
		return err
	}
	inventoryv1.RegisterInventoryServiceServer(server, stock)
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
	fmt.Fprintln(os.Stderr, "inventory:", err)
	os.Exit(code)
}
