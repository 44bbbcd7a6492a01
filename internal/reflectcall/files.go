package reflectcall

import (
	"google.golang.org/grpc/codes"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// What a server can make us keep; no contract is that large.
const (
	maxFiles = 4096
	maxBytes = 64 << 20
)

// files gathers the file that declares symbol and all that it imports. Some
// servers send the imports unasked, some only when asked for them by name.
func (s *session) files(symbol string) (*protoregistry.Files, error) {
	g := gathering{session: s, known: map[string]bool{}}
	if err := g.ask(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: symbol},
	}); err != nil {
		return nil, err
	}
	for len(g.wanted) > 0 {
		name := g.wanted[0]
		g.wanted = g.wanted[1:]
		if err := g.find(name); err != nil {
			// Not the NotFound of the symbol, which means another thing.
			return nil, status.Errorf(codes.Internal, "the contract imports %q: %s", name, status.Convert(err).Message())
		}
	}
	files, err := protodesc.NewFiles(&g.set)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "the contract is not valid: %v", err)
	}
	return files, nil
}

// gathering is the set of files so far, and the imports that may be missing.
type gathering struct {
	*session
	set    descriptorpb.FileDescriptorSet
	known  map[string]bool
	bytes  int
	wanted []string
}

// find asks for one file by its name, unless it is there.
func (g *gathering) find(name string) error {
	if g.known[name] {
		return nil
	}
	err := g.ask(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_FileByFilename{FileByFilename: name},
	})
	if err == nil && !g.known[name] {
		err = status.Error(codes.Internal, "the server does not give it")
	}
	return err
}

func (g *gathering) ask(question *reflectionv1.ServerReflectionRequest) error {
	answer, err := g.session.ask(question)
	if err != nil {
		return err
	}
	for _, bytes := range answer.GetFileDescriptorResponse().GetFileDescriptorProto() {
		if err := g.add(bytes); err != nil {
			return err
		}
	}
	return nil
}

func (g *gathering) add(bytes []byte) error {
	file := &descriptorpb.FileDescriptorProto{}
	if err := proto.Unmarshal(bytes, file); err != nil {
		return status.Errorf(codes.Internal, "the contract is not valid: %v", err)
	}
	if g.known[file.GetName()] {
		return nil
	}
	if g.bytes += len(bytes); g.bytes > maxBytes || len(g.known) == maxFiles {
		return status.Errorf(codes.ResourceExhausted, "the contract is larger than %d files or %d MiB", maxFiles, maxBytes>>20)
	}
	g.known[file.GetName()] = true
	g.set.File = append(g.set.File, file)
	g.wanted = append(g.wanted, file.GetDependency()...)
	return nil
}
