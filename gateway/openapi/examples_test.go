package openapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/meshlite-go/meshlite/gateway/openapi"
	"github.com/meshlite-go/meshlite/gateway/transcode"
	"github.com/meshlite-go/meshlite/internal/openapitest"
	"github.com/meshlite-go/meshlite/internal/racetest"
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
	Parameters                        []struct{ Name, In string }
	RequestBody                       *struct {
		Content map[string]struct{ Example any }
	}
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

// Case E13: OpenAPI 3.1 validates; every example in it, sent as it is, is accepted.
func TestEveryExampleIsAccepted(t *testing.T) {
	files := openapitest.Everything(t)
	mux := openapitest.Mux(t, files)
	text, err := openapi.Document(openapi.Info{}, mux.Bindings())
	if err != nil {
		t.Fatal(err)
	}
	requests := openapitest.Requests(t, text)
	if len(requests) < len(mux.Bindings()) {
		t.Errorf("%d requests of %d bindings", len(requests), len(mux.Bindings()))
	}
	alone := 0
	for id, r := range requests {
		if strings.Contains(id, "?") {
			alone++
		}
		t.Run(id, func(t *testing.T) { accepted(t, mux, r) })
	}
	if alone < 2 {
		t.Errorf("%d parameters exclude another, want those of each oneof but the first", alone)
	}
}

func accepted(t *testing.T, mux http.Handler, r *http.Request) {
	t.Helper()
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Errorf("%s %s: %d %s", r.Method, r.URL, w.Code, w.Body)
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
	mux := openapitest.Mux(t, files)
	for _, r := range openapitest.Requests(t, text) {
		accepted(t, mux, r)
	}
}

func TestABigContractIsDescribed(t *testing.T) {
	racetest.Skip(t)
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
