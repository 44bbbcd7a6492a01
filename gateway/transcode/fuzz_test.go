package transcode_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/meshlite-go/meshlite/gateway/contract"
	"github.com/meshlite-go/meshlite/gateway/transcode"
	"github.com/meshlite-go/meshlite/gateway/transcode/testdata/forms"
)

// fuzzed sends a request to mux, which has to answer 200, with the message that was sent to the
// backend, or a refusal without a call.
func fuzzed(t *testing.T, newMux func(*capture) *transcode.Mux, r *http.Request) (*forms.Thing, int) {
	t.Helper()
	var b capture
	w := httptest.NewRecorder()
	newMux(&b).ServeHTTP(w, r)
	if (w.Code == 200) != (b.request != nil) || w.Code >= 500 {
		t.Fatalf("status %d %s, request %v", w.Code, w.Body, b.request)
	}
	if b.request == nil {
		problemIn(t, w)
		return nil, w.Code
	}
	wire, err := proto.Marshal(b.request)
	if err != nil {
		t.Fatal(err)
	}
	thing := new(forms.Thing)
	if err := proto.Unmarshal(wire, thing); err != nil {
		t.Fatal(err)
	}
	return thing, w.Code
}

// FuzzJSON compares with protojson and the compiled message.
func FuzzJSON(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"name":"a","int64":"9223372036854775807","parts":[{"named":{"a":{"count":-1}}}]}`, `{"double":1e309}`, `{"kind":"KIND_SMALL","kinds":[1,"x"]}`,
		`{"any":{"@type":"type.googleapis.com/forms.v1.Part","name":"p"}}`, `{"struct":{"a":[null,true,1.5]},"value":{"b":[]}}`, `{"at":"2026-01-02T03:04:05Z","lasts":"1s","mask":"a,b"}`,
		`{"name":"\ud83d"}`, "{\"name\":\"\xff\"}", `{"labels":{"a":"b","a":"c"}}`, `{"bytes":"AQ","wrappedBytes":"_w=="}`, `[`, `{"a":{"b":`, "", "{} {}", `{"choiceText":"a","choicePart":{}}`, `{"int32":1e2,"uint32":1.0,"float":"NaN"}`,
	} {
		f.Add(seed)
	}
	c := formsContract(f)
	f.Fuzz(func(t *testing.T, body string) {
		got, code := fuzzed(t, func(b *capture) *transcode.Mux { return captureMux(t, c, b) }, httptest.NewRequest("POST", "/v1/bodies", strings.NewReader(body)))
		want := new(forms.Thing)
		var err error
		if strings.Trim(body, " \t\r\n") != "" {
			err = protojson.Unmarshal([]byte(body), want)
		}
		switch {
		case got != nil && err != nil:
			t.Errorf("%q is taken as %v, protojson says %v", body, got, err)
		case got != nil && !proto.Equal(got, want):
			t.Errorf("%q is %v, want %v", body, got, want)
		case got == nil && err == nil && code == 400 && strings.Count(body, "[")+strings.Count(body, "{") < 100 && len(body) < 400:
			t.Errorf("%q is refused, protojson takes it", body)
		}
	})
}

// FuzzQuery compares with generated code, which ignores what it does not know.
func FuzzQuery(f *testing.F) {
	for _, seed := range []string{
		"name=a&int64=-1", "part.inner.name=x&texts=a&texts=b", "labels[a]=b&kinds_by_number[1]=KIND_SMALL", "at=2026-01-02T03:04:05Z&lasts=1s", "kind=2&kind=1",
		"choice_text=a&choice_kind=1", "%zz", "a=%ff", "a;b", "struct={}&value=null&mask=a,b", "otherName=1&renamed=1", "parts.name=a", "labels[]=", "labels[a", "bytes=_w", "wrapped_bool=t",
	} {
		f.Add(seed)
	}
	c := formsContract(f)
	f.Fuzz(func(t *testing.T, query string) {
		r := httptest.NewRequest("GET", "/v1/literal", nil)
		r.URL.RawQuery = query
		got, _ := fuzzed(t, func(b *capture) *transcode.Mux { return captureMux(t, c, b) }, r)
		if got == nil {
			return
		}
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatalf("%q is taken as %v, net/url says %v", query, got, err)
		}
		want := new(forms.Thing)
		if err := runtime.PopulateQueryParameters(want, values, noFilter); err != nil || !proto.Equal(got, want) {
			t.Errorf("%q is %v, generated code has %v, %v", query, got, want, err)
		}
	})
}

// FuzzTemplate makes a route of any template, and asks for any path: what matches does so as in
// the runtime.
func FuzzTemplate(f *testing.F) {
	for _, seed := range [][2]string{
		{"/v1/{name}", "/v1/a"}, {"/v1/{name=a/*}:verb", "/v1/a/b:verb"}, {"/v1/{part.name=**}", "/v1/a/b%2Fc"}, {"/**", "/"}, {"/v1/*/x/**", "/v1//x/y"}, {"/", "/"},
		{"/v1/{name}:{part}", "/v1/a:b"}, {"{name}", "/a"}, {"/v1/{name=**}/{part.name}", "/v1/a/b/c"}, {"/a%2Fb", "/a%2Fb"}, {"/v1/{name={part}}", "/v1/a"}, {"/v1/a:b:c", "/v1/a:b:c"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, template, path string) {
		method := ruled(t, get(template))
		bindings, err := transcode.Bindings(method)
		if err != nil {
			return
		}
		file := method.ParentFile()
		files := new(filesOf)
		if err := files.RegisterFile(file); err != nil {
			t.Fatal(err)
		}
		var b capture
		mux, err := transcode.New(transcode.Config{Services: []transcode.Service{{Name: "r", Conn: &b, Offers: everyMethod, Contract: &contract.Contract{
			Files: files, Types: dynamicpb.NewTypes(files), Services: []serviceDescriptor{file.Services().Get(0)},
		}}}})
		if err != nil {
			t.Fatalf("%v, which Bindings takes: %v", bindings, err)
		}
		target, err := url.ParseRequestURI(path)
		if err != nil || !strings.HasPrefix(path, "/") || target.RawQuery != "" {
			return
		}
		matched := false
		theirs := runtime.NewServeMux(runtime.WithUnescapingMode(runtime.UnescapingModeAllExceptReserved))
		if err := theirs.HandlePath("GET", template, func(http.ResponseWriter, *http.Request, map[string]string) { matched = true }); err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest("GET", "/", nil)
		r.URL = target
		theirs.ServeHTTP(httptest.NewRecorder(), r)
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		own := target.Path == "/r.v1.S/M"
		if !own && matched != (w.Code == 200 || w.Code == 400 && strings.Contains(w.Body.String(), "UTF-8")) {
			t.Errorf("GET %q of %q: status %d %s, the runtime matches: %v", path, template, w.Code, w.Body, matched)
		}
	})
}
