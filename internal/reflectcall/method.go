package reflectcall

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/meshlite-go/meshlite/internal/prototypes"
)

// Method is a method as its contract has it.
type Method struct {
	desc  protoreflect.MethodDescriptor
	types *dynamicpb.Types
}

// Name is "package.Service/Method".
func (m *Method) Name() string {
	return string(m.desc.Parent().FullName()) + "/" + string(m.desc.Name())
}

// FullMethod is the name with a slash before it, as gRPC sends it.
func (m *Method) FullMethod() string { return "/" + m.Name() }

// Descriptor is the method in the contract.
func (m *Method) Descriptor() protoreflect.MethodDescriptor { return m.desc }

// Request reads a request from JSON as protobuf writes it. The error names what
// is wrong and where.
func (m *Method) Request(text []byte) (proto.Message, error) {
	request := dynamicpb.NewMessage(m.desc.Input())
	err := protojson.UnmarshalOptions{Resolver: prototypes.Types{Contract: m.types}}.Unmarshal(text, request)
	if err != nil {
		name := m.desc.Input().FullName()
		return nil, fmt.Errorf("%s: %s (%s has %s)", name, plain(err), name.Name(), offer("", m.Fields()))
	}
	return request, nil
}

// Fields are the names of the request's fields in JSON.
func (m *Method) Fields() []string {
	var names []string
	for i := range m.desc.Input().Fields().Len() {
		names = append(names, m.desc.Input().Fields().Get(i).JSONName())
	}
	return names
}

// NewAnswer is an empty answer.
func (m *Method) NewAnswer() proto.Message { return dynamicpb.NewMessage(m.desc.Output()) }

// JSON writes a message of the contract, in one line. Fields without a value are
// left out.
func (m *Method) JSON(message proto.Message) ([]byte, error) {
	text, err := protojson.MarshalOptions{Resolver: prototypes.Types{Contract: m.types}}.Marshal(message)
	if err != nil {
		return nil, errors.New("as JSON: " + plain(err))
	}
	// protojson varies its spaces on purpose.
	var compact bytes.Buffer
	if err := json.Compact(&compact, text); err != nil {
		return nil, fmt.Errorf("as JSON: %w", err)
	}
	return compact.Bytes(), nil
}

// plain is the text of an error of protobuf without "proto:" and the space after
// it, which varies on purpose.
func plain(err error) string {
	return strings.TrimLeft(strings.TrimPrefix(err.Error(), "proto:"), " \u00a0")
}
