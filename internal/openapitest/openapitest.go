// Package openapitest brings contracts with everything in them to the tests of the OpenAPI
// document and of its page.
package openapitest

import (
	"context"
	"embed"
	"testing"

	"github.com/bufbuild/protocompile"
	_ "google.golang.org/genproto/googleapis/api/annotations" // imported by everything.proto
	_ "google.golang.org/genproto/googleapis/api/httpbody"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/meshlite-go/meshlite/gateway/transcode"
)

//go:embed *.proto
var sources embed.FS

// Everything is a contract with all that the mapping to HTTP knows.
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
	compiler := protocompile.Compiler{
		SourceInfoMode: protocompile.SourceInfoStandard,
		Resolver: protocompile.WithStandardImports(protocompile.CompositeResolver{
			&protocompile.SourceResolver{Accessor: protocompile.SourceAccessorFromMap(map[string]string{"api.proto": text})},
			protocompile.ResolverFunc(func(path string) (protocompile.SearchResult, error) {
				file, err := protoregistry.GlobalFiles.FindFileByPath(path)
				return protocompile.SearchResult{Desc: file}, err
			}),
		}),
	}
	compiled, err := compiler.Compile(context.Background(), "api.proto")
	if err != nil {
		t.Fatal(err)
	}
	set := &descriptorpb.FileDescriptorSet{}
	seen := map[string]bool{}
	var add func(file protoreflect.FileDescriptor)
	add = func(file protoreflect.FileDescriptor) {
		if seen[file.Path()] {
			return
		}
		seen[file.Path()] = true
		for i := range file.Imports().Len() {
			add(file.Imports().Get(i).FileDescriptor)
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(file))
	}
	for _, file := range compiled {
		add(file)
	}
	binary, err := proto.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	set.Reset()
	if err := proto.Unmarshal(binary, set); err != nil { // which reads the options by their types
		t.Fatal(err)
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		t.Fatal(err)
	}
	return files
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
