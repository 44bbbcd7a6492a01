package meshlite_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc/reflection"

	"github.com/meshlite-go/meshlite"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/resolver/catalog"
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
// agent, leave WithDirectory out: the CONSUL_* environment names it.
func Example() {
	agent := consultest.New()
	defer agent.Close()
	address, _ := agent.Listen("127.0.0.1:0")
	directory, _ := consul.New(consul.Config{Address: address, Logger: silent})
	common := meshlite.Options{meshlite.WithPlaintext(), meshlite.WithDirectory(directory), meshlite.WithLogger(silent)}

	server, err := meshlite.NewServer("catalog", common, meshlite.WithDrain(0, time.Second))
	if err != nil {
		fmt.Println(err)
		return
	}
	catalogv1.RegisterCatalogServiceServer(server, sweets{})
	reflection.Register(server.GRPC()) // for grpcurl and meshlite call
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan error)
	go func() { ended <- server.Run(ctx) }() // in a main function: server.Run(meshlite.SignalContext())
	<-server.Ready()

	conn, err := meshlite.NewClient("consul:///catalog", common)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	response, err := catalogv1.NewCatalogServiceClient(conn).GetSweet(ctx, &catalogv1.GetSweetRequest{Id: "lemon-sherbet"})
	fmt.Println(response.GetSweet().GetName(), err)

	stop()
	fmt.Println(<-ended)
	// Output:
	// Lemon Sherbet <nil>
	// <nil>
}

// A server in a container behind a port mapping, without hairpin NAT: clients and Consul reach
// it at the host's address, and the server itself does not.
func ExampleWithAdvertisedAddress() {
	agent := consultest.New() // in production an agent
	defer agent.Close()
	where, _ := agent.Listen("127.0.0.1:0")
	silent := slog.New(slog.DiscardHandler)
	directory, _ := consul.New(consul.Config{Address: where, Logger: silent})
	defer directory.Close()

	server, err := meshlite.NewServer("catalog", meshlite.WithPlaintext(), meshlite.WithDirectory(directory),
		meshlite.WithLogger(silent), meshlite.WithDrain(0, time.Second),
		meshlite.WithListenAddress(":0"), // such as ":8080"
		meshlite.WithAdvertisedAddress("192.0.2.10:18081"),
		meshlite.WithRegistration(catalog.Registration{SelfCheck: catalog.NoSelfCheck}))
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- server.Run(ctx) }()
	<-server.Ready()
	fmt.Println(server.Addr().(*net.TCPAddr).IP)
	stop()
	fmt.Println(<-ended)
	// Output:
	// ::
	// <nil>
}
