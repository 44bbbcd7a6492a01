// Before the move: grpc-go alone, with a list of addresses.
package main

import (
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/meshlite-go/meshlite/internal/migratetest/sweets"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

func main() { sweets.Main(serve, dial) }

func serve() error {
	listener, err := net.Listen("tcp", os.Getenv("LISTEN"))
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	healthv1.RegisterHealthServer(server, health.NewServer())
	catalogv1.RegisterCatalogServiceServer(server, sweets.Server{})
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		server.GracefulStop()
	}()
	return server.Serve(listener)
}

func dial() (*grpc.ClientConn, error) {
	addresses := manual.NewBuilderWithScheme("addresses")
	var state resolver.State
	for _, address := range strings.Split(os.Getenv("ADDRESSES"), ",") {
		state.Addresses = append(state.Addresses, resolver.Address{Addr: address})
	}
	addresses.InitialState(state)
	return grpc.NewClient("addresses:///catalog",
		grpc.WithResolvers(addresses),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
	)
}
