package transcode

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/internal/prototypes"
)

// The unary part of the Connect protocol (connectrpc.com/docs/protocol).

// connectVersion announces the protocol.
const connectVersion = "Connect-Protocol-Version"

func speaksConnect(r *http.Request) bool { return r.Header.Get(connectVersion) != "" }

// connectCodec is how messages are written in a call.
type connectCodec struct {
	contentType string
	decode      func(m *method, text []byte, to *dynamicpb.Message) error
	encode      func(m *method, to *bytes.Buffer, message *dynamicpb.Message) error
}

var connectCodecs = map[string]*connectCodec{
	"json": {
		contentType: "application/json",
		decode: func(m *method, text []byte, to *dynamicpb.Message) error {
			if len(bytes.TrimSpace(text)) == 0 {
				return nil
			}
			if offset, err := m.mux.config.scanJSON(text); err != nil {
				return wrongField(fieldAt(text, offset, to.Descriptor()), "%s", err)
			}
			return m.unmarshal(text, to)
		},
		encode: func(m *method, to *bytes.Buffer, message *dynamicpb.Message) error { return m.appendJSON(to, message) },
	},
	"proto": {
		contentType: "application/proto",
		decode: func(m *method, text []byte, to *dynamicpb.Message) error {
			scan := wireScan{prototypes.Types{Contract: m.service.Contract.Types}, m.mux.config.MaxValues}
			if !scan.passes(text, to.Descriptor(), m.mux.config.MaxDepth) {
				return wrongField("", "nested deeper than %d, more than %d values, or a message in two parts", m.mux.config.MaxDepth, m.mux.config.MaxValues)
			}
			options := proto.UnmarshalOptions{Resolver: m.reading.Resolver, RecursionLimit: m.reading.RecursionLimit}
			if err := options.Unmarshal(text, to); err != nil {
				return wrongField("", "the message cannot be read")
			}
			return nil
		},
		encode: func(_ *method, to *bytes.Buffer, message *dynamicpb.Message) error {
			text, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(to.AvailableBuffer(), message)
			_, _ = to.Write(text)
			return err
		},
	},
}

// wireScan is scanJSON for protobuf. It reads what is in an Any, too: the JSON of an answer that
// repeats one has a copy of the rest for each level.
type wireScan struct {
	types prototypes.Types
	left  int // fields
}

// passes reports whether the fields of a message, no deeper than depth, are no more than what is
// left. Whether they can be read is left to proto.Unmarshal. Of a message that is not in a list
// no writer makes two parts; an Any could be put together from such.
func (s *wireScan) passes(text []byte, message protoreflect.MessageDescriptor, depth int) bool {
	var seen map[protowire.Number]bool
	var packed packedAny
	for len(text) > 0 {
		number, kind, n := protowire.ConsumeTag(text)
		if n < 0 {
			return true
		}
		text = text[n:]
		if n = protowire.ConsumeFieldValue(number, kind, text); n < 0 {
			return true
		}
		if s.left--; s.left < 0 {
			return false
		}
		var inner []byte
		switch kind {
		case protowire.BytesType:
			inner, _ = protowire.ConsumeBytes(text)
		case protowire.StartGroupType:
			inner, _ = protowire.ConsumeGroup(number, text)
		}
		text = text[n:]
		packed.add(number, inner)
		field := s.field(message, number)
		if field == nil || field.Message() == nil {
			continue
		}
		if field.Cardinality() != protoreflect.Repeated {
			if seen[number] {
				return false
			}
			if seen == nil {
				seen = map[protowire.Number]bool{}
			}
			seen[number] = true
		}
		if depth == 0 || !s.passes(inner, field.Message(), depth-1) {
			return false
		}
	}
	if message.FullName() != "google.protobuf.Any" {
		return true
	}
	of, err := s.types.FindMessageByURL(string(packed.url))
	return err != nil || depth > 0 && s.passes(packed.value, of.Descriptor(), depth-1)
}

// field is also an extension's, nil if there is none.
func (s *wireScan) field(message protoreflect.MessageDescriptor, number protowire.Number) protoreflect.FieldDescriptor {
	if message.ExtensionRanges().Has(number) {
		if extension, err := s.types.FindExtensionByNumber(message.FullName(), number); err == nil {
			return extension.TypeDescriptor()
		}
	}
	return message.Fields().ByNumber(number)
}

// packedAny is the fields of an Any.
type packedAny struct{ url, value []byte }

func (a *packedAny) add(number protowire.Number, text []byte) {
	switch number {
	case 1:
		a.url = text
	case 2:
		a.value = text
	}
}

// connectCall is a call by the protocol.
type connectCall struct {
	mux    *Mux
	w      http.ResponseWriter
	r      *http.Request
	method *method
	codec  *connectCodec
}

func (c *connectCall) servePost() {
	if version := c.r.Header.Get(connectVersion); version != "1" {
		c.writeError(answer{err: refuse(http.StatusBadRequest, "connect-protocol-version is %q: send 1", shortened(version))})
		return
	}
	kind, _, _ := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if c.codec = connectCodecs[strings.TrimPrefix(kind, "application/")]; c.codec == nil || c.method.isStreaming() {
		c.w.Header().Set("Accept-Post", "application/json, application/proto")
		c.w.WriteHeader(http.StatusUnsupportedMediaType)
		return
	}
	buffer := getBuffer()
	defer putBuffer(buffer)
	err := readBody(c.w, c.r, buffer, "", c.codec.contentType, c.mux.config.MaxRequestBytes)
	c.serve(buffer.Bytes(), err)
}

// serveGet reads the message from the query.
func (c *connectCall) serveGet() {
	query := c.r.URL.Query()
	c.codec = connectCodecs[query.Get("encoding")]
	var err error
	switch compression := query.Get("compression"); {
	case c.codec == nil:
		err = refuse(http.StatusBadRequest, "encoding is %q: send json or proto", shortened(query.Get("encoding")))
	case compression != "" && compression != "identity":
		err = &refusal{problemOfCode(codes.Unimplemented, "compression is not supported: send identity")}
	case !query.Has("message"):
		err = refuse(http.StatusBadRequest, "the query has no message")
	}
	text := []byte(query.Get("message"))
	if err == nil && query.Get("base64") == "1" {
		if text, err = base64.RawURLEncoding.DecodeString(strings.TrimRight(string(text), "=")); err != nil {
			err = refuse(http.StatusBadRequest, "the message is not base64 for URLs")
		}
	}
	c.serve(text, err)
}

// serve makes the call whose message is text, unless err has refused it.
func (c *connectCall) serve(text []byte, err error) {
	in := dynamicpb.NewMessage(c.method.desc.Input())
	if err == nil {
		err = c.codec.decode(c.method, text, in)
	}
	if err != nil {
		c.writeError(answer{err: err})
		return
	}
	out, got := c.mux.call(c.w, c.r, c.method, in, &cache.Derived{})
	buffer := getBuffer()
	defer putBuffer(buffer)
	if got.err == nil {
		got.err = c.codec.encode(c.method, buffer, out)
	}
	if got.err != nil {
		c.writeError(got)
		return
	}
	c.setHeaders(got)
	writeBody(c.w, c.r, got, c.codec.contentType, buffer.Bytes())
}

// setHeaders copies the metadata that callers may see. That of trailers has a prefix.
func (c *connectCall) setHeaders(got answer) {
	trailer := got.trailer
	got.trailer = nil
	c.mux.shows.setHeaders(c.w.Header(), got)
	for key, values := range c.mux.shows.metadata(trailer) {
		c.w.Header()["Trailer-"+key] = values
	}
}

// connectError is the body of an error.
type connectError struct {
	Code    string          `json:"code"`
	Message string          `json:"message,omitempty"`
	Details []connectDetail `json:"details,omitempty"`
}

type connectDetail struct {
	Type  string          `json:"type"`
	Value string          `json:"value"` // base64, without padding
	Debug json.RawMessage `json:"debug,omitempty"`
}

// writeError answers with the error JSON of Connect.
func (c *connectCall) writeError(got answer) {
	var (
		shows   = &c.mux.shows
		failure *status.Status
		code    int
	)
	got.method = c.method
	if refused := new(refusal); errors.As(got.err, &refused) {
		failure, code = refused.status(), refused.Status
		c.w.Header().Set("Cache-Control", "no-store")
	} else {
		trailer := got.trailer
		got.trailer = nil
		failure = shows.failed(c.w, c.r, got)
		got.trailer = trailer
		setRetryAfter(c.w.Header(), failure, trailer)
		c.setHeaders(got)
		code = problemOfCode(failure.Code(), "").Status
	}
	body := connectError{Code: strings.ToLower(connectCode(failure.Code())), Message: shows.textOf(failure)}
	for _, detail := range shows.details(failure) {
		debug, _ := c.method.writing.Marshal(detail)
		body.Details = append(body.Details, connectDetail{
			Type: string(detail.MessageName()), Value: base64.RawStdEncoding.EncodeToString(detail.GetValue()), Debug: compact(debug),
		})
	}
	text, err := json.Marshal(body)
	if err != nil {
		text = []byte(`{"code":"internal"}`)
	}
	setContentType(c.w.Header(), "application/json")
	c.w.WriteHeader(code)
	_, _ = c.w.Write(text)
}

func connectCode(c codes.Code) string {
	if c == codes.Canceled {
		return "canceled" // with one l
	}
	return codeName(c)
}

// status is a refusal as an error of gRPC, with the field as google.rpc has it.
func (r *refusal) status() *status.Status {
	code := codes.InvalidArgument
	switch r.Status {
	case http.StatusRequestEntityTooLarge:
		code = codes.ResourceExhausted
	case http.StatusNotImplemented:
		code = codes.Unimplemented
	}
	s := status.New(code, r.Detail)
	if r.Field != "" {
		if detailed, err := s.WithDetails(&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: r.Field, Description: r.Detail}}}); err == nil {
			return detailed
		}
	}
	return s
}
