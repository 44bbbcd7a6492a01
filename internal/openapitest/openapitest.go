// Package openapitest brings contracts with everything in them to the tests of the OpenAPI
// document and of its page.
package openapitest

import (
	"embed"
	"testing"

	_ "google.golang.org/genproto/googleapis/api/annotations" // imported by everything.proto
	_ "google.golang.org/genproto/googleapis/api/httpbody"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/meshlite-go/meshlite/gateway/transcode"
	"github.com/meshlite-go/meshlite/internal/prototest"
)

//go:embed *.proto
var sources embed.FS

// Everything is a contract with all that the mapping to HTTP supports.
func Everything(t testing.TB) *protoregistry.Files {
	text, err := sources.ReadFile("everything.proto")
	if err != nil {
		t.Fatal(err)
	}
	return Compile(t, string(text))
}

// Compile makes of one .proto file what a descriptor set brings: files with source info.
func Compile(t testing.TB, text string) *protoregistry.Files {
	t.Helper()
	return prototest.Files(t, "api.proto", text)
}

// Bindings returns those of all methods in files.
func Bindings(t testing.TB, files *protoregistry.Files) (all []transcode.Binding) {
	t.Helper()
	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				bindings, err := transcode.Bindings(methods.Get(j))
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, bindings...)
			}
		}
		return true
	})
	return all
}
