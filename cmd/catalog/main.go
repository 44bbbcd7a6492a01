// Command catalog serves the sweets of the shop. It registers in Consul, which
// CONSUL_HTTP_ADDR names, and leaves it on SIGTERM or SIGINT. PORT is the port
// to listen on; without it, a free one is taken.
//
//	PORT=8081 catalog --metrics-address 127.0.0.1:9081
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strconv"

	"github.com/meshlite-go/meshlite"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/services/catalog"
)

func main() {
	metrics := flag.String("metrics-address", "127.0.0.1:0", "serve /metrics, /healthz and pprof at `host:port`")
	reflection := flag.Bool("reflection", false, "answer gRPC reflection")
	flag.Parse()
	listen, err := listenAddress(os.Getenv("PORT"))
	if err == nil && flag.NArg() > 0 {
		err = fmt.Errorf("argument %q is not expected: see catalog -h", flag.Arg(0))
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
	if err := run(options); err != nil {
		fail(1, err)
	}
}

// run serves until SIGTERM.
func run(options []meshlite.ServerOption) error {
	sweets, err := catalog.New()
	if err != nil {
		return err
	}
	server, err := meshlite.NewServer("catalog", options...)
	if err != nil {
		return err
	}
	catalogv1.RegisterCatalogServiceServer(server, sweets)
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
	fmt.Fprintln(os.Stderr, "catalog:", err)
	os.Exit(code)
}
