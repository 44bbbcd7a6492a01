package transcode

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/meshlite-go/meshlite/gateway/problem"
)

// refusal is a request that is answered without a call.
type refusal struct{ problem.Problem }

func (r *refusal) Error() string { return r.Detail }

func refuse(status int, format string, args ...any) *refusal {
	return &refusal{problem.Problem{Status: status, Detail: fmt.Sprintf(format, args...)}}
}

// wrongField is a 400 about one field of the request.
func wrongField(path, format string, args ...any) *refusal {
	return &refusal{problem.Problem{Status: http.StatusBadRequest, Code: "INVALID_ARGUMENT", Field: shortened(path), Detail: fmt.Sprintf(format, args...)}}
}

// route is a binding with what its requests need, made once.
type route struct {
	Binding
	method *method
	// renderings is the key of those that the channel's cache keeps, without all else of a route,
	// which they may outlive.
	renderings *renderingKey
	variables  []pathVariable
	body       bodyPlace
	response   protoreflect.FieldDescriptor // nil is the whole message
	mask       protoreflect.FieldDescriptor // filled with what a PATCH has in its body; or nil
	noQuery    [][]string                   // paths that the query may not set, since the path or body does
}

// bodyPlace is where the body of a request belongs: its JSON between before and after is that
// of the request message. Both are empty for the whole message.
type bodyPlace struct {
	used          bool
	before, after string
	fields        []protoreflect.FieldDescriptor
}

// renderingKey is equal to itself alone.
type renderingKey struct{ _ byte }

// pathVariable is a field that the path sets.
type pathVariable struct {
	path string
	text protoreflect.FieldDescriptor // of one that any text is a value of; nil for others
}

func newRoute(m *method, b Binding) *route {
	rt := &route{Binding: b, method: m, renderings: new(renderingKey)}
	for _, path := range b.variables() {
		v := pathVariable{path: path}
		fields, _ := fieldsOf(b.Method.Input(), path) // checked by Bindings
		if field := fields[0]; len(fields) == 1 && field.Kind() == protoreflect.StringKind && field.ContainingOneof() == nil {
			v.text = field
		}
		rt.variables = append(rt.variables, v)
		rt.noQuery = append(rt.noQuery, namesOf(b.Method.Input(), path))
	}
	switch b.Body {
	case "":
	case "*":
		rt.body.used = true
	default:
		rt.body.used = true
		rt.body.fields, _ = fieldsOf(b.Method.Input(), b.Body) // checked by Bindings
		for _, field := range rt.body.fields {
			name, _ := json.Marshal(field.JSONName()) // a string always can be
			rt.body.before += "{" + string(name) + ":"
			rt.body.after += "}"
		}
		rt.noQuery = append(rt.noQuery, namesOf(b.Method.Input(), b.Body))
		if b.HTTPMethod == http.MethodPatch {
			rt.mask = onlyFieldMask(b.Method.Input())
		}
	}
	if b.ResponseBody != "" {
		rt.response = fieldNamed(b.Method.Output(), b.ResponseBody)
	}
	return rt
}

// namesOf is path by the names of the contract.
func namesOf(message protoreflect.MessageDescriptor, path string) []string {
	fields, _ := fieldsOf(message, path)
	names := make([]string, len(fields))
	for i, field := range fields {
		names[i] = string(field.Name())
	}
	return names
}

// onlyFieldMask is the field of type FieldMask if there is exactly one.
func onlyFieldMask(message protoreflect.MessageDescriptor) (mask protoreflect.FieldDescriptor) {
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		if field.Message() == nil || field.Message().FullName() != "google.protobuf.FieldMask" {
			continue
		}
		if mask != nil {
			return nil
		}
		mask = field
	}
	return mask
}

// buffers are for bodies and answers.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func getBuffer() *bytes.Buffer { return buffers.Get().(*bytes.Buffer) }

func putBuffer(b *bytes.Buffer) {
	if b.Cap() > 1<<16 { // a rare large one must not stay
		return
	}
	b.Reset()
	buffers.Put(b)
}

// decode makes the message of a request.
func (rt *route) decode(w http.ResponseWriter, r *http.Request, params map[string]string) (proto.Message, error) {
	in := dynamicpb.NewMessage(rt.method.desc.Input())
	if rt.body.used {
		buffer := getBuffer()
		defer putBuffer(buffer)
		if err := readBody(w, r, buffer, rt.body.before, "application/json", rt.method.mux.config.MaxRequestBytes); err != nil {
			return nil, err
		}
		if err := rt.decodeBody(in, buffer); err != nil {
			return nil, err
		}
	}
	for _, v := range rt.variables {
		if text := params[v.path]; v.text != nil && utf8.ValidString(text) {
			in.Set(v.text, protoreflect.ValueOfString(text))
		} else if err := setText(in, v.path, v.path, []string{text}, false); err != nil {
			return nil, err
		}
	}
	if rt.Body == "*" || r.URL.RawQuery == "" {
		return in, nil
	}
	return in, rt.decodeQuery(in, r.URL.RawQuery)
}

// readBody appends the body to buffer, after before. Without a body, buffer stays empty.
func readBody(w http.ResponseWriter, r *http.Request, buffer *bytes.Buffer, before, contentType string, maxBytes int) error {
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	if err := checkContentType(w, r, contentType); err != nil {
		return err
	}
	most := int64(maxBytes)
	tooLarge := refuse(http.StatusRequestEntityTooLarge, "the body may have at most %d bytes", most)
	if r.ContentLength > most {
		return tooLarge
	}
	buffer.WriteString(before)
	if n, err := buffer.ReadFrom(http.MaxBytesReader(w, r.Body, most)); err != nil {
		if errors.As(err, new(*http.MaxBytesError)) {
			return tooLarge
		}
		return refuse(http.StatusBadRequest, "the body ended before it was complete")
	} else if n == 0 {
		buffer.Reset()
	}
	return nil
}

// checkContentType refuses a body of another type. Without a type, a body is what it has to be.
func checkContentType(w http.ResponseWriter, r *http.Request, want string) error {
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		w.Header().Set("Accept-Encoding", "identity")
		return refuse(http.StatusUnsupportedMediaType, "the body has the encoding %q: send it without one", shortened(encoding))
	}
	text := r.Header.Get("Content-Type")
	if text == "" || text == want {
		return nil
	}
	kind, params, err := mime.ParseMediaType(text)
	charset := params["charset"]
	if err == nil && kind == want && (charset == "" || strings.EqualFold(charset, "utf-8")) {
		return nil
	}
	w.Header().Set("Accept-Post", want)
	return refuse(http.StatusUnsupportedMediaType, "the body is %q: send %s in UTF-8", shortened(text), want)
}

func (rt *route) decodeBody(in *dynamicpb.Message, buffer *bytes.Buffer) error {
	if buffer.Len() == 0 {
		return nil
	}
	before := len(rt.body.before)
	body := buffer.Bytes()[before:]
	if len(bytes.TrimLeft(body, " \t\r\n")) == 0 {
		return nil
	}
	if offset, err := rt.method.mux.config.scanJSON(body); err != nil {
		return wrongField(fieldAt(buffer.Bytes(), before+offset, in.Descriptor()), "%s", err)
	}
	buffer.WriteString(rt.body.after)
	if err := rt.method.unmarshal(buffer.Bytes(), in); err != nil {
		return err
	}
	if rt.mask != nil {
		return rt.fillMask(in, buffer.Bytes()[before:buffer.Len()-len(rt.body.after)])
	}
	return nil
}

// fillMask sets the field mask of a PATCH without one to the fields in its body, as
// grpc-gateway does.
func (rt *route) fillMask(in *dynamicpb.Message, body []byte) error {
	paths := rt.mask.Message().Fields().ByName("paths")
	if in.Get(rt.mask).Message().Get(paths).List().Len() > 0 {
		return nil
	}
	patched := in.Get(rt.body.fields[0])
	for _, field := range rt.body.fields[1:] {
		patched = patched.Message().Get(field)
	}
	field := rt.body.fields[len(rt.body.fields)-1]
	if field.Message() == nil || field.Cardinality() == protoreflect.Repeated {
		return nil
	}
	mask, err := runtime.FieldMaskFromRequestBody(bytes.NewReader(body), patched.Message().Interface())
	if err != nil {
		return wrongField(rt.Body, "%s", shortened(err.Error()))
	}
	list := in.Mutable(rt.mask).Message().Mutable(paths).List()
	for _, path := range mask.GetPaths() {
		list.Append(protoreflect.ValueOfString(path))
	}
	return nil
}

// decodeQuery sets fields from query parameters: a.b=1, list=1&list=2, map[key]=value.
func (rt *route) decodeQuery(in *dynamicpb.Message, raw string) error {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return refuse(http.StatusBadRequest, "the query cannot be read: %s", shortened(err.Error()))
	}
	return rt.setQuery(in, values)
}

func (rt *route) setQuery(in *dynamicpb.Message, values url.Values) error {
	const most = 1000
	if len(values) > most {
		return refuse(http.StatusBadRequest, "the query has more than %d parameters", most)
	}
	set := make(map[string]string, len(values))
	for _, key := range sortedKeys(values) {
		path, mapKey, isMap := cutMapKey(key)
		if !utf8.ValidString(key) {
			return wrongField(key, "invalid UTF-8 in the name of a query parameter")
		}
		if most := rt.method.mux.config.MaxDepth; strings.Count(path, ".") >= most {
			return wrongField(path, "nested deeper than %d", most)
		}
		fields, err := fieldsOf(in.Descriptor(), path)
		if err != nil {
			return wrongField(path, "unknown query parameter %q", shortened(key))
		}
		names := namesOfFields(fields)
		if slices.ContainsFunc(rt.noQuery, func(other []string) bool { return overlap(names, other) }) {
			return wrongField(path, "query parameter %q sets what the path or the body sets", shortened(key))
		}
		name := strings.Join(names, ".")
		if isMap {
			name += "[" + mapKey + "]"
		}
		if other, ok := set[name]; ok {
			return wrongField(path, "query parameters %q and %q set the same field", shortened(other), shortened(key))
		}
		set[name] = key
		texts := values[key]
		if isMap {
			texts = append([]string{mapKey}, texts...)
		}
		if err := setText(in, strings.Join(names, "."), key, texts, isMap); err != nil {
			return err
		}
	}
	return nil
}

func sortedKeys(values url.Values) []string {
	keys := make([]string, 0, len(values))
	for key := range values {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// cutMapKey splits "labels[a]".
func cutMapKey(key string) (path, mapKey string, ok bool) {
	if before, after, found := strings.Cut(key, "["); found && strings.HasSuffix(after, "]") {
		return before, after[:len(after)-1], true
	}
	return key, "", false
}

func namesOfFields(fields []protoreflect.FieldDescriptor) []string {
	names := make([]string, len(fields))
	for i, field := range fields {
		names[i] = string(field.Name())
	}
	return names
}

// overlap reports whether one path contains the other.
func overlap(a, b []string) bool {
	n := min(len(a), len(b))
	return slices.Equal(a[:n], b[:n])
}

// noFilter lets all through PopulateQueryParameters: paths are checked before.
var noFilter = utilities.NewDoubleArray(nil)

// setText sets the field at path, by the names of the contract, from texts: one, several for a
// list, key and value for an entry of a map. written is how the caller wrote the path.
func setText(in *dynamicpb.Message, path, written string, texts []string, isMap bool) error {
	for _, text := range texts {
		if !utf8.ValidString(text) {
			return wrongField(written, "invalid UTF-8")
		}
	}
	fields, err := fieldsOf(in.Descriptor(), path)
	if err != nil {
		return wrongField(written, "%s", err)
	}
	field := fields[len(fields)-1]
	switch {
	case isMap != field.IsMap():
		return wrongField(written, "a map is written as field[key]=value, and nothing else is")
	case enumOf(field) != nil:
		// The runtime reads only enums that are compiled in.
		err = setEnum(in, fields, texts)
	case isMap && strings.ContainsAny(texts[0], "[\n"):
		err = errors.New("a key with [ or a line end: send it in a body") // the runtime would ignore it
	case isMap:
		err = runtime.PopulateQueryParameters(in, url.Values{path + "[" + texts[0] + "]": texts[1:]}, noFilter)
	case len(texts) == 1 && !field.IsList():
		err = runtime.PopulateFieldFromPath(in, path, texts[0])
	default:
		err = runtime.PopulateQueryParameters(in, url.Values{path: texts}, noFilter)
	}
	if err != nil {
		return wrongField(written, "%s", shortened(err.Error()))
	}
	return nil
}

func enumOf(field protoreflect.FieldDescriptor) protoreflect.EnumDescriptor {
	if field.IsMap() {
		return field.MapValue().Enum()
	}
	return field.Enum()
}

func setEnum(in *dynamicpb.Message, fields []protoreflect.FieldDescriptor, texts []string) error {
	var message protoreflect.Message = in
	for _, field := range fields[:len(fields)-1] {
		message = message.Mutable(field).Message()
	}
	field := fields[len(fields)-1]
	if one := field.ContainingOneof(); one != nil && !one.IsSynthetic() && message.WhichOneof(one) != nil {
		return fmt.Errorf("another field of oneof %q is set", one.Name())
	}
	enum := enumOf(field)
	switch {
	case field.IsMap():
		if len(texts) != 2 {
			return errors.New("more than one value")
		}
		value, err := enumValue(enum, texts[1])
		if err != nil {
			return err
		}
		key, err := mapKeyOf(field.MapKey(), texts[0])
		if err != nil {
			return err
		}
		message.Mutable(field).Map().Set(key, value)
	case field.IsList():
		list := message.Mutable(field).List()
		for _, text := range texts {
			value, err := enumValue(enum, text)
			if err != nil {
				return err
			}
			list.Append(value)
		}
	case len(texts) != 1:
		return errors.New("more than one value")
	default:
		value, err := enumValue(enum, texts[0])
		if err != nil {
			return err
		}
		message.Set(field, value)
	}
	return nil
}

// enumValue reads a name or a number that the enum has.
func enumValue(enum protoreflect.EnumDescriptor, text string) (protoreflect.Value, error) {
	value := enum.Values().ByName(protoreflect.Name(text))
	if value == nil {
		if n, err := strconv.ParseInt(text, 10, 32); err == nil {
			value = enum.Values().ByNumber(protoreflect.EnumNumber(n))
		}
	}
	if value == nil {
		return protoreflect.Value{}, fmt.Errorf("%q is no value of %s", text, enum.FullName())
	}
	return protoreflect.ValueOfEnum(value.Number()), nil
}

func mapKeyOf(key protoreflect.FieldDescriptor, text string) (protoreflect.MapKey, error) {
	var (
		value any
		err   error
	)
	switch key.Kind() {
	case protoreflect.StringKind:
		value = text
	case protoreflect.BoolKind:
		value, err = strconv.ParseBool(text)
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		var n int64
		n, err = strconv.ParseInt(text, 10, 32)
		value = int32(n)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		var n uint64
		n, err = strconv.ParseUint(text, 10, 32)
		value = uint32(n)
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		value, err = strconv.ParseUint(text, 10, 64)
	default:
		value, err = strconv.ParseInt(text, 10, 64)
	}
	return protoreflect.ValueOf(value).MapKey(), err
}
