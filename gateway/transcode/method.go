package transcode

import (
	"bytes"
	"net/http"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
)

// method is a gRPC method with what its calls need, made once.
type method struct {
	mux       *Mux
	service   *Service
	desc      protoreflect.MethodDescriptor
	path      string
	reading   protojson.UnmarshalOptions
	writing   protojson.MarshalOptions
	get, post *route // of path; get is nil unless the method has no side effects
}

func (m *method) isStreaming() bool { return m.desc.IsStreamingClient() || m.desc.IsStreamingServer() }

// routeOf is the route of the method's own path.
func (m *method) routeOf(httpMethod string) *route {
	switch httpMethod {
	case http.MethodPost:
		return m.post
	case http.MethodGet, http.MethodHead:
		return m.get
	}
	return nil
}

func (m *method) policy() CachePolicy {
	if m.service.Cache == nil {
		return CachePolicy{}
	}
	return m.service.Cache(m.desc)
}

// unmarshal reads JSON that scanJSON has passed.
func (m *method) unmarshal(text []byte, to proto.Message) error {
	err := m.reading.Unmarshal(text, to)
	if err == nil {
		return nil
	}
	offset, reason := positionOf(err, text)
	if offset < 0 { // half of a surrogate pair has none, near the end
		offset = bytes.LastIndex(text, []byte(`\u`))
	}
	if offset < 0 {
		return wrongField("", "%s", shortened(reason))
	}
	return wrongField(fieldAt(text, offset, to.ProtoReflect().Descriptor()), "%s", shortened(reason))
}

// appendJSON appends the JSON of message, the same in every build.
func (m *method) appendJSON(to *bytes.Buffer, message proto.Message) error {
	text, err := m.writing.MarshalAppend(to.AvailableBuffer(), message)
	if err != nil {
		return err
	}
	_, _ = to.Write(compact(text))
	return nil
}

// resolver finds messages and extensions in the contract, else in what is compiled in, such
// as google.rpc's details.
type resolver struct{ types *dynamicpb.Types }

func (r resolver) FindMessageByName(name protoreflect.FullName) (protoreflect.MessageType, error) {
	if t, err := r.types.FindMessageByName(name); err == nil {
		return t, nil
	}
	return protoregistry.GlobalTypes.FindMessageByName(name)
}

func (r resolver) FindMessageByURL(url string) (protoreflect.MessageType, error) {
	return r.FindMessageByName(protoreflect.FullName(url[strings.LastIndexByte(url, '/')+1:]))
}

func (r resolver) FindExtensionByName(name protoreflect.FullName) (protoreflect.ExtensionType, error) {
	if t, err := r.types.FindExtensionByName(name); err == nil {
		return t, nil
	}
	return protoregistry.GlobalTypes.FindExtensionByName(name)
}

func (r resolver) FindExtensionByNumber(message protoreflect.FullName, number protoreflect.FieldNumber) (protoreflect.ExtensionType, error) {
	if t, err := r.types.FindExtensionByNumber(message, number); err == nil {
		return t, nil
	}
	return protoregistry.GlobalTypes.FindExtensionByNumber(message, number)
}
