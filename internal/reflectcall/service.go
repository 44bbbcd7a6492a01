package reflectcall

import (
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
)

// Service is a service as its contract has it.
type Service struct {
	desc  protoreflect.ServiceDescriptor
	types *dynamicpb.Types
}

// Name is "package.Service".
func (s *Service) Name() string { return string(s.desc.FullName()) }

// Methods are all methods, in the order of the contract.
func (s *Service) Methods() []*Method {
	var all []*Method
	for i := range s.desc.Methods().Len() {
		all = append(all, &Method{desc: s.desc.Methods().Get(i), types: s.types})
	}
	return all
}

// Unfinished is the error of a service that stands where a method must.
func (s *Service) Unfinished() error {
	return fmt.Errorf("%q is a service: write %s/ and one of %s", s.Name(), s.Name(), offer("", s.names()))
}

func (s *Service) method(name string) (*Method, error) {
	if m := s.desc.Methods().ByName(protoreflect.Name(name)); m != nil {
		return &Method{desc: m, types: s.types}, nil
	}
	return nil, fmt.Errorf("%s has no method %q: it has %s", s.Name(), name, offer(name, s.names()))
}

func (s *Service) names() []string {
	var names []string
	for i := range s.desc.Methods().Len() {
		names = append(names, string(s.desc.Methods().Get(i).Name()))
	}
	return names
}

// service asks for the contract of a service.
func (s *session) service(name string) (*Service, error) {
	files, err := s.files(name)
	if status.Code(err) == codes.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	service, err := serviceIn(files, name)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "the contract is not valid: %v", err)
	}
	return service, nil
}

// serviceIn is nil when name is something else than a service.
func serviceIn(files *protoregistry.Files, name string) (*Service, error) {
	desc, err := files.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return nil, err
	}
	service, ok := desc.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil, nil
	}
	return &Service{service, dynamicpb.NewTypes(files)}, nil
}
