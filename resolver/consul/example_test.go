package consul_test

import (
	"context"
	"fmt"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// A registration and a watch, against a simulated for the agent.
func Example() {
	agent := consultest.New()
	defer agent.Close()
	directory, err := consul.New(consul.Config{Transport: agent.Transport()})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	lease, err := directory.Register(ctx, catalog.Registration{
		Instance: catalog.Instance{ID: "catalog-1", Service: "catalog", Address: "10.0.0.1:8080"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer lease.Deregister(context.Background())

	directory.Watch(ctx, catalog.Query{Service: "catalog"}, func(s catalog.Snapshot, err error) {
		fmt.Println(s.Instances[0].Address, s.Instances[0].Status, err)
		cancel() // one answer is enough here
	})
	// Output: 10.0.0.1:8080 passing <nil>
}
