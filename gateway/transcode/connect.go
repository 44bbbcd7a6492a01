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
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"
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
			if offset, err := scanJSON(text, m.mux.config.MaxDepth); err != nil {
				return wrongField(fieldAt(text, offset, to.Descriptor()), "%s", err)
			}
			return m.unmarshal(text, to)
		},
		encode: func(m *method, to *bytes.Buffer, message *dynamicpb.Message) error { return m.appendJSON(to, message) },
	},
	"proto": {
		contentType: "application/proto",
		decode: func(m *method, text []byte, to *dynamicpb.Message) error {
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

func (m *Mux) serveConnectPost(w http.ResponseWriter, r *http.Request, method *method) {
	if version := r.Header.Get(connectVersion); version != "1" {
		m.writeConnectError(w, r, answer{method: method, err: refuse(http.StatusBadRequest, "connect-protocol-version is %q: send 1", shortened(version))})
		return
	}
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	codec := connectCodecs[strings.TrimPrefix(kind, "application/")]
	if codec == nil || method.isStreaming() {
		w.Header().Set("Accept-Post", "application/json, application/proto")
		w.WriteHeader(http.StatusUnsupportedMediaType)
		return
	}
	buffer := getBuffer()
	defer putBuffer(buffer)
	err := m.readBody(w, r, buffer, "", codec.contentType)
	m.serveConnect(w, r, method, codec, buffer.Bytes(), err)
}

// serveConnectGet reads the message from the query.
func (m *Mux) serveConnectGet(w http.ResponseWriter, r *http.Request, method *method) {
	query := r.URL.Query()
	codec := connectCodecs[query.Get("encoding")]
	var err error
	switch compression := query.Get("compression"); {
	case codec == nil:
		codec, err = connectCodecs["json"], refuse(http.StatusBadRequest, "encoding is %q: send json or proto", shortened(query.Get("encoding")))
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
	m.serveConnect(w, r, method, codec, text, err)
}

// serveConnect makes the call whose message is text, unless err has refused it.
func (m *Mux) serveConnect(w http.ResponseWriter, r *http.Request, method *method, codec *connectCodec, text []byte, err error) {
	in := dynamicpb.NewMessage(method.desc.Input())
	if err == nil {
		err = codec.decode(method, text, in)
	}
	if err != nil {
		m.writeConnectError(w, r, answer{method: method, err: err})
		return
	}
	out, got := m.call(w, r, method, in)
	buffer := getBuffer()
	defer putBuffer(buffer)
	if got.err == nil {
		got.err = codec.encode(method, buffer, out)
	}
	if got.err != nil {
		m.writeConnectError(w, r, got)
		return
	}
	m.setConnectHeaders(w.Header(), got)
	m.writeBody(w, r, got, codec.contentType, buffer.Bytes())
}

// setConnectHeaders copies the metadata that callers may see. That of trailers has a prefix.
func (m *Mux) setConnectHeaders(header http.Header, got answer) {
	trailer := got.trailer
	got.trailer = nil
	m.setHeaders(header, got)
	for key, values := range m.shownMetadata(trailer) {
		header["Trailer-"+key] = values
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

// writeConnectError answers with the error JSON of Connect.
func (m *Mux) writeConnectError(w http.ResponseWriter, r *http.Request, got answer) {
	var (
		failure *status.Status
		code    = http.StatusBadRequest
	)
	if refused := new(refusal); errors.As(got.err, &refused) {
		failure, code = refused.status(), refused.Status
		w.Header().Set("Cache-Control", "no-store")
	} else {
		failure = m.failed(w, r, answer{method: got.method, header: got.header, err: got.err, identified: got.identified})
		setRetryAfter(w.Header(), failure, got.trailer)
		m.setConnectHeaders(w.Header(), got)
		code = problemOfCode(failure.Code(), "").Status
	}
	body := connectError{Code: strings.ToLower(connectCode(failure.Code())), Message: m.textOf(failure)}
	for _, detail := range m.shownDetails(failure) {
		debug, _ := got.method.writing.Marshal(detail)
		body.Details = append(body.Details, connectDetail{
			Type: string(detail.MessageName()), Value: base64.RawStdEncoding.EncodeToString(detail.GetValue()), Debug: compact(debug),
		})
	}
	text, err := json.Marshal(body)
	if err != nil {
		text = []byte(`{"code":"internal"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(text)
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
