package resolver_test

import (
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	_ "github.com/meshlite-go/meshlite/balancer/leastrequest" // the policy
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// The resolver with plain grpc-go, and nothing else of this module.
func ExampleDialOptions() {
	directory, err := consul.New(consul.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer directory.Close()
	options := append(resolver.DialOptions(directory), grpc.WithTransportCredentials(insecure.NewCredentials()))
	conn, err := grpc.NewClient("consul:///catalog?tag=v2", options...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	fmt.Println(conn.Target())
	// Output: consul:///catalog?tag=v2
}

func ExampleParseTarget() {
	target, err := resolver.ParseTarget("consul://127.0.0.1:8500/catalog?dc=near&dc=far&policy=round_robin")
	fmt.Println(target.Service, target.Datacenters, target.Policy, err)
	_, err = resolver.ParseTarget("consul:///catalog?colour=red")
	fmt.Println(err)
	// Output:
	// catalog [near far] meshlite_round_robin <nil>
	// target key "colour" is not known: write tag, dc, near, filter, consistency or policy
}
