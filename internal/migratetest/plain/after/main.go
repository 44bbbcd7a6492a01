// After the move.
package main

import (
	"os"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/internal/migratetest/sweets"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

func main() { sweets.Main(serve, dial) }

func serve() error {
	server, err := meshlite.NewServer("catalog", meshlite.WithPlaintext(), meshlite.WithListenAddress(os.Getenv("LISTEN")))
	if err != nil {
		return err
	}
	catalogv1.RegisterCatalogServiceServer(server, sweets.Server{})
	return server.Run(meshlite.SignalContext())
}

func dial() (*grpc.ClientConn, error) {
	return meshlite.NewClient("consul:///catalog", meshlite.WithPlaintext())
}
