package interceptors_test

import (
	"strings"
	"testing"

	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

func catalogMethod(name protoreflect.Name) protoreflect.MethodDescriptor {
	return catalogv1.File_sweetshop_catalog_v1_catalog_proto.Services().ByName("CatalogService").Methods().ByName(name)
}

func TestTags(t *testing.T) {
	request := &catalogv1.ListSweetsRequest{Section: "boiled", PageSize: 7}
	for text, want := range map[string]string{
		"sweets":                         "sweets",
		"{section}":                      "boiled",
		"section:{section}":              "section:boiled",
		"{section}/{page_size}s":         "boiled/7s",
		"page:{page_token}":              "page:",
		"a{section}b{section}c{section}": "aboiledbboiledcboiled",
	} {
		tag, err := interceptors.ParseTag(catalogMethod("ListSweets"), text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := tag.Of(request.ProtoReflect()); got != want {
			t.Errorf("%s is %q, want %q", text, got, want)
		}
		if literal := !strings.Contains(text, "{"); tag.Literal() != literal {
			t.Errorf("%s: Literal is %v", text, tag.Literal())
		}
	}
	// A message of another shape has none of the fields.
	tag, err := interceptors.ParseTag(catalogMethod("ListSweets"), "{section}/{page_size}")
	if err != nil {
		t.Fatal(err)
	}
	if got := tag.Of((&catalogv1.ListSectionsRequest{}).ProtoReflect()); got != "/0" {
		t.Errorf("of another message: %q", got)
	}
	// So it is with a field of a message that the other has not got.
	reflection := reflectionv1.File_grpc_reflection_v1_reflection_proto.Services().ByName("ServerReflection").Methods().ByName("ServerReflectionInfo")
	if tag, err = interceptors.ParseTag(reflection, "{file_containing_extension.extension_number}"); err != nil {
		t.Fatal(err)
	}
	if got := tag.Of(request.ProtoReflect()); got != "0" {
		t.Errorf("by path, of another message: %q", got)
	}
}

func TestWrongTagsAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		"":            "is no tag",
		"{section":    "does not close",
		"section}":    "not open",
		"{a}{":        `"a"`,
		"{}":          `""`,
		"{nothing}":   `has no field "nothing"`,
		"{section.x}": "is no message",
	} {
		if _, err := interceptors.ParseTag(catalogMethod("ListSweets"), text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error with %s", text, err, want)
		}
	}
	if _, err := interceptors.ParseTag(nil, "{id}"); err == nil || !strings.Contains(err.Error(), "not linked") {
		t.Errorf("without a contract: %v", err)
	}
	_, err := interceptors.NewPolicies(&policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{
		"GetSweet": {Cache: &policyv1.CacheRule{Ttl: proto.String("1m"), Tags: []string{"a", "{ids}"}}},
	}})
	if err == nil || !strings.Contains(err.Error(), `cache.tags[1]: "ids"`) {
		t.Errorf("in a policy: %v", err)
	}
}
