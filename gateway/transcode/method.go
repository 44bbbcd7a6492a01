package transcode

import (
	"bytes"
	"net/http"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
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
