// Package prototest compiles contracts that a test program is not linked with.
//
//	files := prototest.Files(t, "pies/v1/pies.proto", `syntax = "proto3"; ...`)
package prototest

import (
	"context"
	"testing"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// Set compiles text as the file of that path to what `buf build` writes: its descriptor and
// those of its imports, with comments. Imports are files that the test program is linked with.
// Options have the linked types.
func Set(t testing.TB, path, text string) *descriptorpb.FileDescriptorSet {
	t.Helper()
	compiler := protocompile.Compiler{
		SourceInfoMode: protocompile.SourceInfoStandard,
		Resolver: protocompile.WithStandardImports(protocompile.CompositeResolver{
			&protocompile.SourceResolver{Accessor: protocompile.SourceAccessorFromMap(map[string]string{path: text})},
			protocompile.ResolverFunc(func(path string) (protocompile.SearchResult, error) {
				file, err := protoregistry.GlobalFiles.FindFileByPath(path)
				return protocompile.SearchResult{Desc: file}, err
			}),
		}),
	}
	compiled, err := compiler.Compile(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	set := SetOf(compiled[0])
	binary, err := proto.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	set.Reset()
	if err := proto.Unmarshal(binary, set); err != nil { // which reads the options by their types
		t.Fatal(err)
	}
	return set
}

// SetOf is the file with all that it imports, after what it needs.
func SetOf(file protoreflect.FileDescriptor) *descriptorpb.FileDescriptorSet {
	set, seen := &descriptorpb.FileDescriptorSet{}, map[string]bool{}
	var add func(protoreflect.FileDescriptor)
	add = func(file protoreflect.FileDescriptor) {
		if seen[file.Path()] {
			return
		}
		seen[file.Path()] = true
		for i := range file.Imports().Len() {
			add(file.Imports().Get(i).FileDescriptor)
		}
		set.File = append(set.File, protoutil.ProtoFromFileDescriptor(file))
	}
	add(file)
	return set
}

// Files are those of [Set].
func Files(t testing.TB, path, text string) *protoregistry.Files {
	t.Helper()
	files, err := protodesc.NewFiles(Set(t, path, text))
	if err != nil {
		t.Fatal(err)
	}
	return files
}
