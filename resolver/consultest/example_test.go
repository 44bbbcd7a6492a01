package consultest_test

import (
	"fmt"
	"net/http"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// A test gives the code under test a client that reaches the agent without a socket.
func Example() {
	agent := consultest.New()
	defer agent.Close()
	_ = agent.Register(consultest.Service{ID: "catalog-1", Name: "catalog", Address: "10.0.0.1", Port: 8080})
	_ = agent.Register(consultest.Service{ID: "catalog-2", Name: "catalog", Address: "10.0.0.2", Port: 8080})
	_ = agent.SetStatus("catalog-2", consultest.HealthCritical)

	client, err := api.NewClient(&api.Config{HttpClient: &http.Client{Transport: agent.Transport()}})
	if err != nil {
		fmt.Println(err)
		return
	}
	entries, _, err := client.Health().Service("catalog", "", true, nil)
	for _, entry := range entries {
		fmt.Println(entry.Service.ID, entry.Service.Address, entry.Service.Port)
	}
	fmt.Println(err, len(agent.Queries()))
	// Output:
	// catalog-1 10.0.0.1 8080
	// <nil> 1
}

// An agent on a free port, for programs that take CONSUL_HTTP_ADDR and for curl.
func ExampleServer_Listen() {
	agent := consultest.New(consultest.WithDatacenter("east"))
	defer agent.Close()
	addr, err := agent.Listen("127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	client, err := api.NewClient(&api.Config{Address: addr})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(client.Catalog().Datacenters())
	// Output: [east] <nil>
}

// How does a client take a Consul that answers 500?
func ExampleServer_Intercept() {
	agent := consultest.New()
	defer agent.Close()
	agent.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		http.Error(w, "No cluster leader", http.StatusInternalServerError)
		return true
	})
	client := &http.Client{Transport: agent.Transport()}
	res, err := client.Get("http://consul/v1/health/service/catalog")
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = res.Body.Close()
	fmt.Println(res.Status)
	// Output: 500 Internal Server Error
}
