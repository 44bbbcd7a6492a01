// Package contract is where the contracts of services come from: gRPC reflection, or files
// of descriptor sets.
package contract

import (
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
)

// Contract is what one service of the mesh offers. It is immutable.
type Contract struct {
	Files    *protoregistry.Files             // all files, imports included
	Types    *dynamicpb.Types                 // of Files: resolves Any and extensions
	Services []protoreflect.ServiceDescriptor // by name, without gRPC's own
}
