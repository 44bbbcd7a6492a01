package openapi_test

import (
	"encoding/json"
	"fmt"
	"log"
	"testing"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/gateway/openapi"
	"github.com/meshlite-go/meshlite/gateway/transcode"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ExampleDocument() {
	service := catalogv1.File_sweetshop_catalog_v1_catalog_proto.Services().Get(0)
	bindings, err := transcode.Bindings(service.Methods().ByName("GetSweet"))
	if err != nil {
		log.Fatal(err)
	}
	text, err := openapi.Document(openapi.Info{Title: "Sweets"}, bindings)
	if err != nil {
		log.Fatal(err)
	}
	var document struct {
		OpenAPI string
		Paths   map[string]any
	}
	if err := json.Unmarshal(text, &document); err != nil {
		log.Fatal(err)
	}
	for path := range document.Paths {
		fmt.Println(document.OpenAPI, path)
	}
	// Output: 3.1.0 /sweetshop.catalog.v1.CatalogService/GetSweet
}
