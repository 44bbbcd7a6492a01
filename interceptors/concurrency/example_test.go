package concurrency_test

import (
	"context"
	"fmt"
	"log"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/concurrency"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// A server that looks up two sweets at once and no more.
func Example() {
	policies, err := interceptors.NewPolicies(&policyv1.ServicePolicy{
		Methods: map[string]*policyv1.MethodPolicy{"GetSweet": {
			Concurrency: &policyv1.ConcurrencyRule{Max: proto.Uint32(2)}, // and Adaptive, to have it find a lower one
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	limiter, err := concurrency.New()
	if err != nil {
		log.Fatal(err)
	}
	chain, err := interceptors.Chain(interceptors.Server, policies, limiter)
	if err != nil {
		log.Fatal(err)
	}
	// grpc.NewServer(chain.ServerOptions()...) would call this for every call:
	lookUp := func(while func()) {
		info := &grpc.UnaryServerInfo{FullMethod: "/sweetshop.catalog.v1.CatalogService/GetSweet"}
		_, err := chain.UnaryServer()(context.Background(), nil, info, func(context.Context, any) (any, error) {
			while()
			return nil, nil
		})
		fmt.Println(status.Code(err))
	}
	lookUp(func() {
		lookUp(func() {
			lookUp(func() {})
		})
	})
	// Output:
	// Unavailable
	// OK
	// OK
}
