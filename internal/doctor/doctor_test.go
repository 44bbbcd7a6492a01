package doctor_test

import (
	"context"
	"fmt"
	"testing"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/internal/doctor"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ExampleRun() {
	agent := consultest.New()
	defer agent.Close()
	err := agent.Register(consultest.Service{ID: "catalog-1", Name: "catalog", Address: "127.0.0.1"}) // a port is missing
	if err != nil {
		fmt.Println(err)
	}
	directory, err := consul.New(consul.Config{Address: "consul.example:8500", Transport: agent.Transport()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer directory.Close()

	report := doctor.Run(context.Background(), directory, doctor.Options{})
	for _, c := range report.Checks {
		fmt.Println(c.Result, c.Group, c.Name)
	}
	// Output:
	// passed consul reachable
	// passed consul leader
	// passed consul token
	// passed consul datacenter
	// passed consul services
	// passed clock offset
	// failed service address
}
