// Before the move: kratos, with its registry of Consul.
package main

import (
	"context"
	"os"

	"github.com/go-kratos/kratos/v2"
	kratosgrpc "github.com/go-kratos/kratos/v2/transport/grpc"
	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/internal/migratetest/kratosconsul"
	"github.com/meshlite-go/meshlite/internal/migratetest/sweets"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

func main() { sweets.Main(serve, dial) }

func serve() error {
	agent, err := api.NewClient(api.DefaultConfig())
	if err != nil {
		return err
	}
	server := kratosgrpc.NewServer(kratosgrpc.Address(os.Getenv("LISTEN")))
	catalogv1.RegisterCatalogServiceServer(server, sweets.Server{})
	app := kratos.New(
		kratos.Name("catalog"),
		kratos.Version("v1"),
		kratos.Server(server),
		kratos.Registrar(kratosconsul.New(agent)),
	)
	return app.Run()
}

func dial() (*grpc.ClientConn, error) {
	agent, err := api.NewClient(api.DefaultConfig())
	if err != nil {
		return nil, err
	}
	return kratosgrpc.DialInsecure(context.Background(),
		kratosgrpc.WithEndpoint("discovery:///catalog"),
		kratosgrpc.WithDiscovery(kratosconsul.New(agent)),
	)
}
