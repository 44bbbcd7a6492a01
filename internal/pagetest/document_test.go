package pagetest

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/errors"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meshlite-go/meshlite/gateway/openapi"
	"github.com/meshlite-go/meshlite/gateway/transcode"
	"github.com/meshlite-go/meshlite/internal/openapitest"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	inventoryv1 "github.com/meshlite-go/meshlite/proto/sweetshop/inventory/v1"
	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// contracts are what the tests describe, by name.
func contracts(t *testing.T) map[string][]transcode.Binding {
	var shop []transcode.Binding
	for _, file := range []protoreflect.FileDescriptor{
		catalogv1.File_sweetshop_catalog_v1_catalog_proto,
		inventoryv1.File_sweetshop_inventory_v1_inventory_proto,
		storefrontv1.File_sweetshop_storefront_v1_storefront_proto,
	} {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				bindings, err := transcode.Bindings(methods.Get(j))
				if err != nil {
					t.Fatal(err)
				}
				shop = append(shop, bindings...)
			}
		}
	}
	return map[string][]transcode.Binding{
		"sweetshop":  shop,
		"everything": openapitest.Bindings(t, openapitest.Everything(t)),
		"nothing":    nil,
	}
}

func documentOf(t *testing.T, bindings []transcode.Binding) []byte {
	t.Helper()
	text, err := openapi.Document(openapi.Info{Title: "Sweets", Bearer: true}, bindings)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func validatorOf(t *testing.T, text []byte) validator.Validator {
	t.Helper()
	document, err := libopenapi.NewDocument(text)
	if err != nil {
		t.Fatal(err)
	}
	v, errs := validator.NewValidator(document)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	t.Cleanup(v.Release)
	return v
}

func report(t *testing.T, errs []*errors.ValidationError) {
	t.Helper()
	for _, e := range errs {
		t.Errorf("%s: %s", e.Message, e.Reason)
		for _, s := range e.SchemaValidationErrors {
			t.Errorf("  %s: %s", s.FieldPath, s.Reason)
		}
	}
}

// Case E13
func TestTheDocumentIsOpenAPI31(t *testing.T) {
	for name, bindings := range contracts(t) {
		t.Run(name, func(t *testing.T) {
			text := documentOf(t, bindings)
			if ok, errs := validatorOf(t, text).ValidateDocument(); !ok {
				report(t, errs)
			}
			for valid, broken := range map[string]string{`"openapi":"3.1.0"`: `"openapi":"3.1.0","extra":1`, `"title":"Sweets"`: `"name":"Sweets"`, `"x-grpc-method"`: `"grpc-method"`} {
				if !bytes.Contains(text, []byte(valid)) {
					continue // there is no operation
				}
				if ok, _ := validatorOf(t, bytes.ReplaceAll(text, []byte(valid), []byte(broken))).ValidateDocument(); ok {
					t.Errorf("still valid with %s", broken)
				}
			}
		})
	}
}

// Case E13
func TestExamplesAreValidAgainstTheirSchemas(t *testing.T) {
	for name, bindings := range contracts(t) {
		t.Run(name, func(t *testing.T) {
			text := documentOf(t, bindings)
			v := validatorOf(t, text)
			items := pathItems(t, text)
			for id, r := range openapitest.Requests(t, text) {
				t.Run(id, func(t *testing.T) {
					// The validator would take a verb for a part of the parameter before it.
					operation, _, _ := strings.Cut(id, "?")
					at, found := items[operation]
					if !found {
						t.Skip("its HTTP method is none that OpenAPI has")
					}
					if ok, errs := v.ValidateHttpRequestWithPathItem(r, at.item, at.path); !ok {
						report(t, errs)
						t.Log(r.URL)
					}
				})
			}
		})
	}
}

type pathItem struct {
	path string
	item *v3.PathItem
}

// pathItems are those of each operation, by operationId.
func pathItems(t *testing.T, text []byte) map[string]pathItem {
	t.Helper()
	document, err := libopenapi.NewDocument(text)
	if err != nil {
		t.Fatal(err)
	}
	model, err := document.BuildV3Model()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]pathItem{}
	for path, item := range model.Model.Paths.PathItems.FromOldest() {
		for _, operation := range item.GetOperations().FromOldest() {
			all[operation.OperationId] = pathItem{path, item}
		}
	}
	return all
}

// The check above can fail.
func TestAWrongRequestIsInvalid(t *testing.T) {
	text := documentOf(t, contracts(t)["everything"])
	v := validatorOf(t, text)
	for _, body := range []string{`{"int32Value":"x"}`, `{"at":5}`, `{"level":"NO_SUCH"}`, `{"inners":{}}`} {
		r, err := http.NewRequest("POST", "http://gateway/v1/everything", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		if ok, _ := v.ValidateHttpRequest(r); ok {
			t.Errorf("%s is valid", body)
		}
	}
}
