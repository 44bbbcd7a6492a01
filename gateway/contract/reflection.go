package contract

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jhump/protoreflect/v2/grpcreflect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/meshlite-go/meshlite/interceptors"
)

// ErrNoReflection is the error of a server that does not answer reflection.
var ErrNoReflection = errors.New("the server does not answer reflection: register it there, by reflection.Register of google.golang.org/grpc/reflection, or give a descriptor set file")

// versions are the methods of reflection, newest first. Their messages are the same on
// the wire.
var versions = [...]string{
	reflectionv1.ServerReflection_ServerReflectionInfo_FullMethodName,
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
}

// Reflection reads the contract of the service at conn by gRPC reflection, v1 or
// v1alpha. One Load asks one instance. Reflection brings no comments.
func Reflection(conn grpc.ClientConnInterface) Source { return reflection{conn} }

type reflection struct{ conn grpc.ClientConnInterface }

func (r reflection) Load(ctx context.Context) (*Contract, error) {
	ctx, cancel := context.WithTimeout(ctx, LoadTimeout)
	defer cancel()
	for _, version := range versions {
		loaded, err := r.load(ctx, version)
		if status.Code(err) != codes.Unimplemented {
			return loaded, err
		}
		// gRPC makes Unimplemented of HTTP's 404, which no gRPC server gives.
		if text := status.Convert(err).Message(); strings.HasPrefix(text, "unexpected HTTP status code") {
			return nil, err
		}
	}
	return nil, ErrNoReflection
}

func (r reflection) load(ctx context.Context, version string) (*Contract, error) {
	conn := &boundedConn{ClientConnInterface: r.conn, version: version}
	client := grpcreflect.NewClientV1(ctx, reflectionv1.NewServerReflectionClient(conn), grpcreflect.WithFallbackResolvers(linkedFiles{}, protoregistry.GlobalTypes))
	defer client.Reset()
	listed, err := client.ListServices()
	if err != nil {
		return nil, fmt.Errorf("list of services: %w", err)
	}
	names := []protoreflect.FullName{} // none is not all
	files := map[string]*descriptorpb.FileDescriptorProto{}
	for _, name := range listed {
		if interceptors.Infrastructure(string(name)) {
			continue
		}
		file, err := client.FileContainingSymbol(name)
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", name, err)
		}
		addWithImports(files, file)
		names = append(names, name)
	}
	set := &descriptorpb.FileDescriptorSet{}
	for _, file := range files {
		set.File = append(set.File, file)
	}
	return New(set, names...)
}

// addWithImports adds file and all that it imports.
func addWithImports(files map[string]*descriptorpb.FileDescriptorProto, file protoreflect.FileDescriptor) {
	if files[file.Path()] != nil {
		return
	}
	files[file.Path()] = protodesc.ToFileDescriptorProto(file)
	for i := range file.Imports().Len() {
		addWithImports(files, file.Imports().Get(i).FileDescriptor)
	}
}

// linkedFiles stands in for imports that a server does not send, as many leave out
// files that only declare options. It never stands in for a service.
type linkedFiles struct{}

func (linkedFiles) FindFileByPath(path string) (protoreflect.FileDescriptor, error) {
	return protoregistry.GlobalFiles.FindFileByPath(path)
}

func (linkedFiles) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if _, service := found.(protoreflect.ServiceDescriptor); service {
		return nil, protoregistry.NotFound
	}
	return found, err
}

// boundedConn opens reflection streams by one version of the method, and bounds what
// they bring together. One goroutine uses it.
type boundedConn struct {
	grpc.ClientConnInterface
	version      string
	bytes, files int
}

func (c *boundedConn) NewStream(ctx context.Context, desc *grpc.StreamDesc, _ string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := c.ClientConnInterface.NewStream(ctx, desc, c.version, append(opts, grpc.MaxCallRecvMsgSize(MaxBytes))...)
	if err != nil {
		return nil, err
	}
	return &boundedStream{stream, c}, nil
}

type boundedStream struct {
	grpc.ClientStream
	conn *boundedConn
}

func (s *boundedStream) RecvMsg(message any) error {
	if err := s.ClientStream.RecvMsg(message); err != nil {
		return err
	}
	answer, ok := message.(*reflectionv1.ServerReflectionResponse)
	if !ok {
		return status.Errorf(codes.Internal, "reflection answer %T", message)
	}
	for _, file := range answer.GetFileDescriptorResponse().GetFileDescriptorProto() {
		s.conn.bytes += len(file)
		s.conn.files++
	}
	s.conn.files += len(answer.GetListServicesResponse().GetService())
	if s.conn.bytes > MaxBytes || s.conn.files > MaxFiles {
		return status.Error(codes.ResourceExhausted, errTooLarge.Error())
	}
	return nil
}
