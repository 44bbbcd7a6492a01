package reflectcall

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// ErrNoReflection is the error of a server that does not answer reflection.
var ErrNoReflection = errors.New("the server does not answer reflection: build it with meshlite.WithReflection(), or google.golang.org/grpc/reflection")

// Lookup asks for the contract of a method, named as [SplitName] takes it. A
// method that the server does not offer is an error that lists what it offers,
// closest first. An error of the call to the server keeps its gRPC status.
func Lookup(ctx context.Context, conn grpc.ClientConnInterface, name string) (*Method, error) {
	service, method, err := SplitName(name)
	if err != nil {
		return nil, err
	}
	for _, version := range versions {
		found, err := lookup(ctx, conn, version, service, method)
		if status.Code(err) != codes.Unimplemented || isHTTP(err) {
			return found, err
		}
	}
	return nil, ErrNoReflection
}

// isHTTP reports an answer that no gRPC server gave: gRPC makes Unimplemented of
// HTTP's 404.
func isHTTP(err error) bool {
	return strings.HasPrefix(status.Convert(err).Message(), "unexpected HTTP status code")
}

func lookup(ctx context.Context, conn grpc.ClientConnInterface, version, service, method string) (*Method, error) {
	s, err := open(ctx, conn, version)
	if err != nil {
		return nil, err
	}
	defer s.close()
	found, err := s.service(service)
	if status.Code(err) == codes.NotFound || err == nil && found == nil {
		return nil, s.unknown(service, method)
	}
	if err != nil {
		return nil, err
	}
	if m := found.desc.Methods().ByName(protoreflect.Name(method)); m != nil {
		return &Method{desc: m, types: found.types}, nil
	}
	return nil, found.lacks(method)
}

// described is a service and the types that its contract knows.
type described struct {
	desc  protoreflect.ServiceDescriptor
	types *dynamicpb.Types
}

// service is nil without an error when name is something else than a service.
func (s *session) service(name string) (*described, error) {
	files, err := s.files(name)
	if err != nil {
		return nil, err
	}
	desc, err := files.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return nil, status.Errorf(codes.Internal, "the contract is not valid: %v", err)
	}
	service, ok := desc.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil, nil
	}
	return &described{service, dynamicpb.NewTypes(files)}, nil
}

// unknown says what the server offers instead of a service.
func (s *session) unknown(service, method string) error {
	names, err := s.services()
	if err != nil {
		return err
	}
	if whole := service + "." + method; slices.Contains(names, whole) {
		// A service was named, and no method of it.
		found, err := s.service(whole)
		if err != nil || found == nil {
			return fmt.Errorf("%q is a service: write %s/Method", whole, whole)
		}
		return fmt.Errorf("%q is a service: write %s/ and one of %s", whole, whole, offer("", found.methods()))
	}
	return fmt.Errorf("the server has no service %q: it offers %s", service, offer(service, names))
}

func (d *described) lacks(method string) error {
	return fmt.Errorf("%s has no method %q: it has %s", d.desc.FullName(), method, offer(method, d.methods()))
}

func (d *described) methods() []string {
	var names []string
	for i := range d.desc.Methods().Len() {
		names = append(names, string(d.desc.Methods().Get(i).Name()))
	}
	return names
}
