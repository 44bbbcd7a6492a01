package cache_test

import (
	"context"
	"fmt"
	"log"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// The contract of the catalog says that its answers are public and good for two
// seconds, so a client that asks again is answered without a call.
func Example() {
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	catalogv1.RegisterCatalogServiceServer(server, &shop{})
	go server.Serve(listener)
	defer server.Stop()

	answers, err := cache.New(cache.WithMaxBytes(16 << 20))
	if err != nil {
		log.Fatal(err)
	}
	defer answers.Close()
	policies, err := interceptors.NewPolicies(nil)
	if err != nil {
		log.Fatal(err)
	}
	chain, err := interceptors.Chain(interceptors.Client, policies, answers)
	if err != nil {
		log.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///catalog", append(chain.DialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))...)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	sweets := catalogv1.NewCatalogServiceClient(conn)
	for range 3 {
		reply, err := sweets.GetSweet(context.Background(), &catalogv1.GetSweetRequest{Id: "fudge"})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(reply.GetSweet().GetId(), reply.GetSweet().GetName())
	}
	stats := answers.Stats()
	fmt.Println(stats.Hits, "hits,", stats.Misses, "miss")
	// Output:
	// fudge answer 1
	// fudge answer 1
	// fudge answer 1
	// 2 hits, 1 miss
}
