package meshtest_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/meshtest"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	resolvercatalog "github.com/meshlite-go/meshlite/resolver/catalog"
)

// A call through the mesh, with the options that the program itself has.
func Example() {
	var t *testing.T // that of the test
	test := func() {
		mesh := meshtest.New(t)
		mesh.Serve("catalog", register, meshlite.WithLocality("eu", "eu-1"))
		catalog := catalogv1.NewCatalogServiceClient(mesh.Client("catalog", meshlite.WithBalancer("peak_ewma")))
		response, err := catalog.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "fudge"})
		fmt.Println(response.GetSweet().GetId(), err)
	}
	_ = test
}

// A fault of one instance, and what its client does about it.
func ExampleInstance_Fail() {
	var t *testing.T // that of the test
	test := func() {
		mesh := meshtest.New(t)
		ill, well := mesh.Serve("catalog", register), mesh.Serve("catalog", register)
		ill.Fail(codes.Unavailable)
		catalog := catalogv1.NewCatalogServiceClient(mesh.Client("catalog"))
		_, err := catalog.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "fudge"})
		fmt.Println(err, ill.Calls() <= 1, well.Calls() == 1) // a retry goes to the other instance
	}
	_ = test
}

// A deadline in virtual time: the test takes none.
func ExampleInstance_Slow() {
	var t *testing.T // that of the test
	test := func() {
		synctest.Test(t, func(t *testing.T) {
			mesh := meshtest.New(t)
			mesh.Serve("catalog", register).Slow(time.Hour)
			catalog := catalogv1.NewCatalogServiceClient(mesh.Client("catalog"))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := catalog.GetSweet(ctx, &catalogv1.GetSweetRequest{Id: "fudge"})
			fmt.Println(status.Code(err)) // DeadlineExceeded
		})
	}
	_ = test
}

// Config entries of Consul decide where calls go: the test reads the files that are deployed.
func Example_routes() {
	var t *testing.T // that of the test
	test := func() {
		mesh := meshtest.New(t)
		version := func(version string) meshlite.ServerOption {
			return meshlite.WithRegistration(resolvercatalog.Registration{Instance: resolvercatalog.Instance{Metadata: map[string]string{"version": version}}})
		}
		old, canary := mesh.Serve("catalog", register, version("1")), mesh.Serve("catalog", register, version("2"))
		for _, file := range []string{"service-defaults.json", "service-resolver.json", "service-router.json"} {
			entry, err := os.ReadFile("deploy/" + file)
			if err == nil {
				err = mesh.Agent.WriteConfig(entry)
			}
			if err != nil {
				t.Fatal(err) // what `consul config write` would answer
			}
		}
		catalog := catalogv1.NewCatalogServiceClient(mesh.Client("catalog"))
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x-canary", "yes")
		_, err := catalog.GetSweet(ctx, &catalogv1.GetSweetRequest{Id: "fudge"})
		fmt.Println(err, old.Calls() == 0, canary.Calls() == 1)
	}
	_ = test
}
