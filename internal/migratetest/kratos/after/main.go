// After the move.
package main

import (
	"os"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/internal/migratetest/sweets"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

func main() { sweets.Main(serve, dial) }

func serve() error {
	server, err := meshlite.NewServer("catalog",
		meshlite.WithPlaintext(),
		meshlite.WithListenAddress(os.Getenv("LISTEN")),
		meshlite.WithRegistration(catalog.Registration{Scheme: "grpc"}), // until no client of kratos is left
	)
	if err != nil {
		return err
	}
	catalogv1.RegisterCatalogServiceServer(server, sweets.Server{})
	return server.Run(meshlite.SignalContext())
}

func dial() (*grpc.ClientConn, error) {
	return meshlite.NewClient("consul:///catalog", meshlite.WithPlaintext())
}
