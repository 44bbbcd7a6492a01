package openapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/meshlite-go/meshlite/gateway/openapi"
	"github.com/meshlite-go/meshlite/gateway/transcode"
	"github.com/meshlite-go/meshlite/internal/openapitest"
)

// document is what tests read of it.
type document struct {
	Paths      map[string]map[string]json.RawMessage
	Tags       []struct{ Name, Description string }
	Components struct {
		Schemas map[string]json.RawMessage
	}
	Security []map[string][]string
}

type operation struct {
	OperationID, Summary, Description string
	Deprecated                        bool
	Parameters                        []parameter
	RequestBody                       *struct{ Content map[string]media }
	path                              string
}

type parameter struct {
	Name, In, Description string
	Example               any
	Schema                *struct{ Examples []any }
	Content               map[string]media
}

type media struct{ Example any }

// example is the parameter's, if it has one that goes with the others.
func (p parameter) example() (any, bool) {
	if p.Content != nil {
		return p.Content["application/json"].Example, p.Content["application/json"].Example != nil
	}
	return p.Example, p.Example != nil
}

func read(t *testing.T, about openapi.Info, bindings []transcode.Binding) (document, map[string]operation) {
	t.Helper()
	text, err := openapi.Document(about, bindings)
	if err != nil {
		t.Fatal(err)
	}
	var d document
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	operations := map[string]operation{}
	var add func(path string, item map[string]json.RawMessage)
	add = func(path string, item map[string]json.RawMessage) {
		for method, raw := range item {
			if method == "x-operations" {
				var other map[string]json.RawMessage
				if err := json.Unmarshal(raw, &other); err != nil {
					t.Fatal(err)
				}
				add(path, other)
				continue
			}
			var op operation
			if err := json.Unmarshal(raw, &op); err != nil {
				t.Fatal(err)
			}
			op.path = path
			if _, twice := operations[op.OperationID]; twice {
				t.Errorf("operationId %q is there twice", op.OperationID)
			}
			operations[op.OperationID] = op
		}
	}
	for path, item := range d.Paths {
		add(path, item)
	}
	return d, operations
}

// request is the message that an operation's examples make, as JSON.
type request struct {
	t      *testing.T
	fields map[string]any
}

// set puts value at path, and reports a field that two examples set.
func (r *request) set(path string, value any) {
	r.t.Helper()
	at := r.fields
	names := strings.Split(path, ".")
	for _, name := range names[:len(names)-1] {
		inner, ok := at[name].(map[string]any)
		if !ok {
			inner = map[string]any{}
			at[name] = inner
		}
		at = inner
	}
	last := names[len(names)-1]
	if have, ok := at[last].(map[string]any); ok {
		if more, ok := value.(map[string]any); ok {
			maps.Copy(have, more)
			return
		}
	}
	if at[last] != nil {
		r.t.Errorf("two examples set %s", path)
	}
	at[last] = value
}

var variables = regexp.MustCompile(`\{([^}=]+)(=[^}]*)?\}`)

// sent puts the examples of op together as a caller of b sends them.
func sent(t *testing.T, b transcode.Binding, op operation) any {
	t.Helper()
	r := &request{t, map[string]any{}}
	var inPath []parameter
	for _, p := range op.Parameters {
		if p.In == "path" {
			inPath = append(inPath, p)
		}
	}
	if op.RequestBody != nil {
		body := op.RequestBody.Content["application/json"].Example
		fields, isObject := body.(map[string]any)
		switch {
		case b.Body != "*":
			r.set(b.Body, body)
		case !isObject:
			return body
		default:
			maps.Copy(r.fields, fields)
		}
	}
	for _, variable := range variables.FindAllStringSubmatch(b.Template, -1) {
		pattern := strings.TrimPrefix(variable[2], "=")
		if pattern == "" || pattern == "*" || pattern == "**" {
			r.set(variable[1], inPath[0].Example)
			inPath = inPath[1:]
			continue
		}
		for strings.Contains(pattern, "*") {
			pattern = strings.Replace(pattern, "*", fmt.Sprint(inPath[0].Example), 1)
			inPath = inPath[1:]
		}
		r.set(variable[1], pattern)
	}
	for _, p := range op.Parameters {
		if value, ok := p.example(); ok && p.In == "query" {
			r.set(p.Name, value)
		}
	}
	return r.fields
}

// Case E13: OpenAPI 3.1 validates; every example in it, sent as it is, is accepted.
func TestEveryExampleIsAccepted(t *testing.T) {
	files := openapitest.Everything(t)
	bindings := openapitest.Bindings(t, files)
	_, operations := read(t, openapi.Info{}, bindings)
	if len(operations) != len(bindings) {
		t.Errorf("%d operations of %d bindings", len(operations), len(bindings))
	}
	count := map[protoreflect.FullName]int{}
	for _, b := range bindings {
		id := string(b.Method.FullName())
		if count[b.Method.FullName()]++; count[b.Method.FullName()] > 1 {
			id = fmt.Sprintf("%s-%d", id, count[b.Method.FullName()])
		}
		t.Run(id, func(t *testing.T) {
			op, found := operations[id]
			if !found {
				t.Fatal("not in the document")
			}
			accepted(t, files, b, sent(t, b, op))
		})
	}
}

func accepted(t *testing.T, files *protoregistry.Files, b transcode.Binding, value any) {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	in := dynamicpb.NewMessage(b.Method.Input())
	if err := (protojson.UnmarshalOptions{Resolver: dynamicpb.NewTypes(files)}).Unmarshal(text, in); err != nil {
		t.Errorf("%v\n%s", err, text)
	}
}

// What cannot be sent with the other examples can be sent by itself.
func TestAnExampleThatExcludesOthersIsAcceptedAlone(t *testing.T) {
	files := openapitest.Everything(t)
	_, operations := read(t, openapi.Info{}, openapitest.Bindings(t, files))
	var alone int
	for _, p := range operations["everything.v1.Library.Search"].Parameters {
		if p.Schema == nil || len(p.Schema.Examples) == 0 {
			continue
		}
		alone++
		r := &request{t, map[string]any{}}
		r.set(p.Name, p.Schema.Examples[0])
		method := transcode.Binding{Method: named(t, files, "everything.v1.Library.Search").(protoreflect.MethodDescriptor)}
		accepted(t, files, method, r.fields)
	}
	if alone < 2 {
		t.Errorf("%d parameters exclude another, want those of each oneof but the first", alone)
	}
}

func named(t *testing.T, files *protoregistry.Files, name protoreflect.FullName) protoreflect.Descriptor {
	t.Helper()
	d, err := files.FindDescriptorByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// The example of a body says something of every kind of field.
func TestTheExampleOfABodyHasEveryField(t *testing.T) {
	files := openapitest.Everything(t)
	_, operations := read(t, openapi.Info{}, openapitest.Bindings(t, files))
	body := operations["everything.v1.Library.Store"].RequestBody.Content["application/json"].Example.(map[string]any)
	fields := named(t, files, "everything.v1.Everything").(protoreflect.MessageDescriptor).Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		_, has := body[f.JSONName()]
		if o := f.ContainingOneof(); o != nil && !o.IsSynthetic() {
			if first := o.Fields().Get(0) == f; has != first {
				t.Errorf("%s is there: %v, want %v: one of each oneof", f.Name(), has, first)
			}
			continue
		}
		if !has {
			t.Errorf("no example of %s", f.Name())
		}
	}
}

func TestEqualContractsGiveEqualBytes(t *testing.T) {
	var first []byte
	for range 3 {
		text, err := openapi.Document(openapi.Info{}, openapitest.Bindings(t, openapitest.Everything(t)))
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = text
		}
		if !bytes.Equal(first, text) {
			t.Fatal("another document of the same contract")
		}
	}
}

func TestCommentsAreInTheDocument(t *testing.T) {
	bindings := openapitest.Bindings(t, openapitest.Everything(t))
	text, err := openapi.Document(openapi.Info{}, bindings)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Library lends books. It keeps them on shelves.", "The shelf's name.", "What the books have in common.",
		"LEVEL_HIGH: As high as it gets.", "LEVEL_OLD: Deprecated.", "Level has comments <on> its values & more.",
		"At most one of word, number may be set.",
	} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("the document has no %q", want)
		}
	}
	if bytes.Contains(text, []byte("nobody outside")) {
		t.Error("an internal comment is in the document")
	}
}

func TestSecurityIsWhatInfoSays(t *testing.T) {
	for _, row := range []struct {
		about openapi.Info
		want  int // alternatives; one of two is no token
	}{{openapi.Info{}, 0}, {openapi.Info{Bearer: true}, 2}, {openapi.Info{BearerRequired: true}, 1}} {
		if d, _ := read(t, row.about, nil); len(d.Security) != row.want {
			t.Errorf("%+v: security is %v, want %d alternatives", row.about, d.Security, row.want)
		}
	}
}

func TestTemplatesAreCheckedAgainstTheMessage(t *testing.T) {
	method := named(t, openapitest.Everything(t), "everything.v1.Library.GetShelf").(protoreflect.MethodDescriptor)
	for _, b := range []transcode.Binding{
		{Template: "v1"}, {Template: "/v1/{name"}, {Template: "/v1/{nobody}"}, {Template: "/v1/{name.sub}"},
		{Template: "/v1", Body: "nobody"}, {Template: "/v1", ResponseBody: "nobody"},
	} {
		b.Method, b.HTTPMethod = method, "GET"
		if _, err := openapi.Document(openapi.Info{}, []transcode.Binding{b}); err == nil {
			t.Errorf("%+v: no error", b)
		}
	}
}

// Each message below has two fields of the next: a query or an example of all of them would
// have a million fields.
func TestDeepContractsGiveSmallDocuments(t *testing.T) {
	var proto strings.Builder
	proto.WriteString(`syntax = "proto3"; package deep; import "google/api/annotations.proto"; service Deep {
		rpc Get(M0) returns (M0) { option (google.api.http) = {get: "/v1" additional_bindings {post: "/v1" body: "*"}}; } }`)
	const depth = 20
	for i := range depth {
		fmt.Fprintf(&proto, "message M%d { M%d a = 1; M%d b = 2; repeated M%d c = 3; }\n", i, i+1, i+1, i+1)
	}
	fmt.Fprintf(&proto, "message M%d { string word = 1; }\n", depth)
	files := openapitest.Compile(t, proto.String())
	bindings := openapitest.Bindings(t, files)
	text, err := openapi.Document(openapi.Info{}, bindings)
	if err != nil {
		t.Fatal(err)
	}
	if len(text) > 100<<10 {
		t.Errorf("the document has %d bytes", len(text))
	}
	_, operations := read(t, openapi.Info{}, bindings)
	get := operations["deep.Deep.Get"]
	if n := len(get.Parameters); n > 100 || !strings.Contains(get.Description, "more fields") {
		t.Errorf("%d parameters, described as %q: want at most 100 and a word on the others", n, get.Description)
	}
	accepted(t, files, bindings[1], sent(t, bindings[1], operations["deep.Deep.Get-2"]))
}

func TestABigContractIsDescribed(t *testing.T) {
	var proto strings.Builder
	proto.WriteString(`syntax = "proto3"; package big; `)
	const services, methods = 30, 40
	for s := range services {
		fmt.Fprintf(&proto, "service S%d {", s)
		for m := range methods {
			fmt.Fprintf(&proto, "rpc M%d(In%d) returns (In%d) {}\n", m, m, m)
		}
		proto.WriteString("}\n")
	}
	for m := range methods {
		fmt.Fprintf(&proto, "message In%d {", m)
		for f := range 50 {
			fmt.Fprintf(&proto, "string f%d = %d;\n", f, f+1)
		}
		proto.WriteString("}\n")
	}
	d, operations := read(t, openapi.Info{}, openapitest.Bindings(t, openapitest.Compile(t, proto.String())))
	if len(d.Tags) != services || len(operations) != services*methods {
		t.Errorf("%d tags and %d operations, want %d and %d", len(d.Tags), len(operations), services, services*methods)
	}
	if !slices.IsSortedFunc(d.Tags, func(a, b struct{ Name, Description string }) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("the services are in no order")
	}
}
