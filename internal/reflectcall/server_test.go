package reflectcall_test

import (
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// frugal is a reflection server that sends one file at a time, as C++ and Java
// do, and none of those that it lacks.
type frugal struct {
	reflectionv1.UnimplementedServerReflectionServer
	lacks string
	asked []string // only read when the call is over
	spam  bool     // one more import with each file
}

func (f *frugal) ServerReflectionInfo(stream grpc.BidiStreamingServer[reflectionv1.ServerReflectionRequest, reflectionv1.ServerReflectionResponse]) error {
	for {
		question, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(f.answer(question)); err != nil {
			return err
		}
	}
}

func (f *frugal) answer(question *reflectionv1.ServerReflectionRequest) *reflectionv1.ServerReflectionResponse {
	var file protoreflect.FileDescriptor
	var err error
	switch q := question.GetMessageRequest().(type) {
	case *reflectionv1.ServerReflectionRequest_ListServices:
		return &reflectionv1.ServerReflectionResponse{MessageResponse: &reflectionv1.ServerReflectionResponse_ListServicesResponse{
			ListServicesResponse: &reflectionv1.ListServiceResponse{Service: []*reflectionv1.ServiceResponse{{Name: "sweetshop.catalog.v1.CatalogService"}}},
		}}
	case *reflectionv1.ServerReflectionRequest_FileContainingSymbol:
		f.asked = append(f.asked, q.FileContainingSymbol)
		var found protoreflect.Descriptor
		if found, err = protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(q.FileContainingSymbol)); err == nil {
			file = found.ParentFile()
		}
	case *reflectionv1.ServerReflectionRequest_FileByFilename:
		f.asked = append(f.asked, q.FileByFilename)
		if f.spam {
			return f.more(q.FileByFilename)
		}
		file, err = protoregistry.GlobalFiles.FindFileByPath(q.FileByFilename)
	}
	if err != nil || f.lacks != "" && file.Path() == f.lacks {
		return &reflectionv1.ServerReflectionResponse{MessageResponse: &reflectionv1.ServerReflectionResponse_ErrorResponse{
			ErrorResponse: &reflectionv1.ErrorResponse{ErrorCode: int32(codes.NotFound), ErrorMessage: "no such thing"},
		}}
	}
	return files(protodesc.ToFileDescriptorProto(file))
}

// more is a file that imports another one, which nobody has asked for yet.
func (f *frugal) more(name string) *reflectionv1.ServerReflectionResponse {
	next := fmt.Sprintf("%d.proto", len(f.asked))
	return files(&descriptorpb.FileDescriptorProto{Name: &name, Dependency: []string{next}})
}

func files(file proto.Message) *reflectionv1.ServerReflectionResponse {
	bytes, _ := proto.Marshal(file)
	return &reflectionv1.ServerReflectionResponse{MessageResponse: &reflectionv1.ServerReflectionResponse_FileDescriptorResponse{
		FileDescriptorResponse: &reflectionv1.FileDescriptorResponse{FileDescriptorProto: [][]byte{bytes}},
	}}
}
