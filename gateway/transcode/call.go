package transcode

import (
	"bytes"
	"context"
	"mime"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/meshlite-go/meshlite/interceptors/cache"
)

// serve answers a request by a route.
func (m *Mux) serve(w http.ResponseWriter, r *http.Request, rt *route, params map[string]string) {
	m.config.SetRoute(r.Context(), rt.Template)
	switch {
	case rt.method.desc.IsStreamingClient():
		refuseClientStream(w, rt.method)
	case rt == rt.method.post && speaksConnect(r):
		(&connectCall{mux: m, w: w, r: r, method: rt.method}).servePost()
	case rt == rt.method.get && r.URL.Query().Get("connect") == "v1":
		(&connectCall{mux: m, w: w, r: r, method: rt.method}).serveGet()
	case rt.method.desc.IsStreamingServer():
		(&streamBody{mux: m, w: w, r: r, control: http.NewResponseController(w), route: rt}).serve(params)
	default:
		m.serveUnary(w, r, rt, params)
	}
}

func (m *Mux) serveUnary(w http.ResponseWriter, r *http.Request, rt *route, params map[string]string) {
	if !accepts(r.Header["Accept"], "application/json") {
		m.shows.writeError(w, r, answer{err: refuse(http.StatusNotAcceptable, "the answer is application/json: accept it")})
		return
	}
	in, err := rt.decode(w, r, params)
	if err != nil {
		m.shows.writeError(w, r, answer{err: err})
		return
	}
	derived := cache.Derived{Key: rt.renderings}
	out, got := m.call(w, r, rt.method, in, &derived)
	known, isKnown := derived.Value().(*rendering)
	var body []byte
	switch {
	case got.err != nil:
	case isKnown:
		body, got.etag, got.rendered = known.body, known.etag, true
		got.header, got.trailer, got.age = derived.Metadata()
	default:
		buffer := getBuffer()
		defer putBuffer(buffer)
		got.err = rt.encode(buffer, out)
		body = buffer.Bytes()
	}
	if got.err != nil {
		m.shows.writeError(w, r, got)
		return
	}
	if size := renderingBytes + len(body); !isKnown && size <= derived.Room() {
		known = &rendering{bytes.Clone(body), []string{etagOf(body)}}
		got.etag = known.etag
		derived.Keep(known, size)
	}
	m.shows.setHeaders(w.Header(), got)
	writeBody(w, r, got, "application/json", body)
}

// rendering is an answer of the channel's cache as a route answers it.
type rendering struct {
	body []byte
	etag []string
}

// renderingBytes is the size of one without its body, about.
const renderingBytes = 256

// writeBody answers with body, or with 304 if the caller has it already.
func writeBody(w http.ResponseWriter, r *http.Request, got answer, contentType string, body []byte) {
	if isStored(w.Header(), r, got, body) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	setContentType(w.Header(), contentType)
	w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
	_, _ = w.Write(body) // whoever asked has left
}

func setContentType(header http.Header, contentType string) {
	if contentType == typeJSON[0] {
		header["Content-Type"] = typeJSON
	} else {
		header.Set("Content-Type", contentType)
	}
	header["X-Content-Type-Options"] = noSniff
}

// Values of headers that most answers have, which nobody changes.
var (
	typeJSON = []string{"application/json"}
	noSniff  = []string{"nosniff"}
)

// answer is what a call has brought beside its message.
type answer struct {
	method          *method
	header, trailer metadata.MD
	err             error         // a refusal, if no call was made
	rendered        bool          // it was made for an earlier call
	age             time.Duration // of one that is rendered; others have it in header
	etag            []string      // of its body; nil is not known
	identified      bool          // the caller is somebody, so that a shared cache must not store it
}

// call makes a unary call. Derived is used if the channel permits it.
func (m *Mux) call(w http.ResponseWriter, r *http.Request, method *method, in proto.Message, derived *cache.Derived) (*dynamicpb.Message, answer) {
	got := answer{method: method}
	md := m.metadataOf(r)
	ctx, cancel, err := m.callContext(w, r, md, m.config.Timeout)
	if err != nil {
		got.err = err
		return nil, got
	}
	defer cancel()
	got.identified = isIdentified(md, r)
	out := dynamicpb.NewMessage(method.desc.Output())
	opts := [3]grpc.CallOption{grpc.Header(&got.header), grpc.Trailer(&got.trailer), derived}
	if method.service.KeepRenderings && isGet(r) {
		got.err = method.service.Conn.Invoke(ctx, method.path, in, out, opts[:]...)
	} else {
		got.err = method.service.Conn.Invoke(ctx, method.path, in, out, opts[:2]...)
	}
	return out, got
}

// callContext carries the deadline and the metadata of a call.
func (m *Mux) callContext(w http.ResponseWriter, r *http.Request, md metadata.MD, timeout time.Duration) (context.Context, context.CancelFunc, error) {
	timeout, err := m.timeoutOf(w, r, timeout)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(r.Context(), md), timeout)
	return ctx, cancel, nil
}

// metadataOf is what a backend gets with the call of r.
func (m *Mux) metadataOf(r *http.Request) metadata.MD {
	md := m.config.Metadata(r)
	if len(md["if-none-match"]) > 0 {
		// A backend would answer an empty not-modified, for an answer that we do not have.
		md = md.Copy()
		delete(md, "if-none-match")
	}
	return md
}

var (
	grpcTimeout    = regexp.MustCompile(`^([0-9]{1,8})([HMSmun])$`)
	connectTimeout = regexp.MustCompile(`^[0-9]{1,10}$`)
	grpcUnits      = map[string]time.Duration{"H": time.Hour, "M": time.Minute, "S": time.Second, "m": time.Millisecond, "u": time.Microsecond, "n": 1}
)

// timeoutOf reads for how long the caller waits.
func (m *Mux) timeoutOf(w http.ResponseWriter, r *http.Request, timeout time.Duration) (time.Duration, error) {
	if text := r.Header.Get("Grpc-Timeout"); text != "" {
		match := grpcTimeout.FindStringSubmatch(text)
		if match == nil {
			return 0, refuse(http.StatusBadRequest, "grpc-timeout is %q: write digits and a unit of H, M, S, m, u or n", shortened(text))
		}
		n, _ := strconv.Atoi(match[1])
		timeout = m.config.MaxTimeout
		if unit := grpcUnits[match[2]]; time.Duration(n) <= timeout/unit {
			timeout = time.Duration(n) * unit
		}
	} else if text := r.Header.Get("Connect-Timeout-Ms"); text != "" {
		if !connectTimeout.MatchString(text) {
			return 0, refuse(http.StatusBadRequest, "connect-timeout-ms is %q: write up to 10 digits", shortened(text))
		}
		n, _ := strconv.ParseInt(text, 10, 64)
		timeout = time.Duration(n) * time.Millisecond
	} else if wait, ok := preferredWait(r.Header["Prefer"]); ok {
		timeout = min(wait, m.config.MaxTimeout)
		w.Header().Set("Preference-Applied", "wait="+strconv.Itoa(int(timeout/time.Second)))
	}
	return min(timeout, m.config.MaxTimeout), nil
}

// preferredWait reads Prefer: wait=N, in seconds (RFC 7240, 4.3).
func preferredWait(prefer []string) (time.Duration, bool) {
	for _, line := range prefer {
		for item := range strings.SplitSeq(line, ",") {
			item, _, _ = strings.Cut(item, ";")
			name, value, _ := strings.Cut(item, "=")
			if !strings.EqualFold(strings.TrimSpace(name), "wait") {
				continue
			}
			n, err := strconv.ParseUint(strings.Trim(strings.TrimSpace(value), `"`), 10, 31)
			return time.Duration(n) * time.Second, err == nil
		}
	}
	return 0, false
}

// accepts reports whether the Accept fields allow a media type (RFC 9110, 12.5.1): the most
// specific range that matches decides.
func accepts(accept []string, want string) bool {
	if len(accept) == 0 || len(accept) == 1 && (accept[0] == want || accept[0] == "*/*") {
		return true
	}
	major, _, _ := strings.Cut(want, "/")
	best, allowed := -1, false
	for _, line := range accept {
		for item := range strings.SplitSeq(line, ",") {
			kind, params, err := mime.ParseMediaType(item)
			if err != nil {
				continue
			}
			rank := -1
			switch {
			case kind == want:
				rank = 2
			case kind == "*/*":
				rank = 0
			case strings.HasSuffix(kind, "/*") && kind[:len(kind)-2] == major:
				rank = 1
			}
			if rank > best {
				q, err := strconv.ParseFloat(params["q"], 64)
				best, allowed = rank, err != nil || q > 0
			}
		}
	}
	return allowed
}

// encode appends the JSON of out, or of its field that is the body of the answer.
func (rt *route) encode(to *bytes.Buffer, out *dynamicpb.Message) error {
	if rt.response != nil {
		return rt.encodeField(to, out)
	}
	return rt.method.appendJSON(to, out)
}

func (rt *route) encodeField(to *bytes.Buffer, out *dynamicpb.Message) error {
	field := rt.response
	if field.Message() != nil && field.Cardinality() != protoreflect.Repeated {
		return rt.method.appendJSON(to, out.Get(field).Message().Interface())
	}
	if !out.Has(field) {
		to.WriteString(zeroJSON(field))
		return nil
	}
	alone := dynamicpb.NewMessage(out.Descriptor())
	alone.Set(field, out.Get(field))
	start := to.Len()
	if err := rt.method.appendJSON(to, alone); err != nil {
		return err
	}
	whole := to.Bytes()[start:] // {"name":value}
	value := whole[endOfString(whole, 1)+1 : len(whole)-1]
	n := copy(whole, value)
	to.Truncate(start + n)
	return nil
}

// zeroJSON is the JSON of a field that is not set.
func zeroJSON(field protoreflect.FieldDescriptor) string {
	switch {
	case field.IsMap():
		return "{}"
	case field.IsList():
		return "[]"
	}
	switch field.Kind() {
	case protoreflect.StringKind, protoreflect.BytesKind:
		return `""`
	case protoreflect.BoolKind:
		return "false"
	case protoreflect.EnumKind:
		return strconv.Quote(string(field.DefaultEnumValue().Name()))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind, protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return `"0"`
	}
	return "0"
}
