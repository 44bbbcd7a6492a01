package meshlite_test

import (
	"context"
	"fmt"
	"time"

	"github.com/meshlite-go/meshlite"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

type sweets struct {
	catalogv1.UnimplementedCatalogServiceServer
}

func (sweets) GetSweet(_ context.Context, r *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
	return &catalogv1.GetSweetResponse{Sweet: &catalogv1.Sweet{Id: r.GetId(), Name: "Lemon Sherbet"}}, nil
}

// A server and a client in one program, with a stand-in for Consul. Against a real
// agent, leave WithConsul out: the CONSUL_* environment tells where it is.
func Example() {
	agent := consultest.New()
	defer agent.Close()
	address, _ := agent.Listen("127.0.0.1:0")
	directory, _ := consul.New(consul.Config{Address: address, Logger: silent})
	options := []meshlite.Option{meshlite.WithPlaintext(), meshlite.WithConsul(directory), meshlite.WithLogger(silent)}

	server, err := meshlite.NewServer("catalog", options[0], options[1], options[2], meshlite.WithDrain(0, time.Second))
	if err != nil {
		fmt.Println(err)
		return
	}
	catalogv1.RegisterCatalogServiceServer(server, sweets{})
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan error)
	go func() { ended <- server.Run(ctx) }()

	conn, err := meshlite.NewClient("consul:///catalog", options[0], options[1], options[2])
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	catalog := catalogv1.NewCatalogServiceClient(conn)
	for {
		response, err := catalog.GetSweet(ctx, &catalogv1.GetSweetRequest{Id: "lemon-sherbet"})
		if err == nil {
			fmt.Println(response.GetSweet().GetName())
			break
		}
		time.Sleep(10 * time.Millisecond) // the server is starting
	}

	stop()
	fmt.Println(<-ended)
	// Output:
	// Lemon Sherbet
	// <nil>
}
