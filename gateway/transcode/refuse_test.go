package transcode_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/gateway/problem"
	"github.com/meshlite-go/meshlite/gateway/transcode"
)

// problemIn reads the problem of an answer, and checks that it is one.
func problemIn(t *testing.T, w *httptest.ResponseRecorder) problem.Problem {
	t.Helper()
	var p problem.Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Status != w.Code || w.Header().Get("Content-Type") != problem.ContentType {
		t.Errorf("status %d, %s, %s, %v: want a problem", w.Code, w.Header().Get("Content-Type"), w.Body, err)
	}
	return p
}

// Case E2: An unknown JSON field, a wrong type, an enum that does not exist, a number out of range: 400, problem+json, the field's path in it; the backend is not called.
func TestWrongRequestsNameTheirFieldAndMakeNoCall(t *testing.T) {
	var b backend
	mux := newMux(t, &b, nil)
	for _, test := range []struct{ method, target, body, field string }{
		{"POST", "/v1/bodies", `{"nmae":"x"}`, "nmae"},
		{"POST", "/v1/bodies", `{"name":5}`, "name"},
		{"POST", "/v1/bodies", `{"int32":2147483648}`, "int32"},
		{"POST", "/v1/bodies", `{"int32":"-2147483649"}`, "int32"},
		{"POST", "/v1/bodies", `{"int64":9223372036854775808}`, "int64"},
		{"POST", "/v1/bodies", `{"uint64":"-1"}`, "uint64"},
		{"POST", "/v1/bodies", `{"uint32":1.5}`, "uint32"},
		{"POST", "/v1/bodies", `{"int32":1e1000000000}`, "int32"},
		{"POST", "/v1/bodies", `{"float":1e39}`, "float"},
		{"POST", "/v1/bodies", `{"double":1e309}`, "double"},
		{"POST", "/v1/bodies", `{"bool":"true"}`, "bool"},
		{"POST", "/v1/bodies", `{"bytes":"%"}`, "bytes"},
		{"POST", "/v1/bodies", `{"kind":"KIND_NONE"}`, "kind"},
		{"POST", "/v1/bodies", `{"kinds":["KIND_SMALL", "x"]}`, "kinds[1]"},
		{"POST", "/v1/bodies", `{"numbers":[1,2,"three"]}`, "numbers[2]"},
		{"POST", "/v1/bodies", `{"part":{"inner":{"count":"a"}}}`, "part.inner.count"},
		{"POST", "/v1/bodies", "{\n \"name\": \"\u00e9\u00e9\", \"part\" :\n { \"inner\" : {\"x\":1}}}", "part.inner.x"},
		{"POST", "/v1/bodies", `{"parts":[{"name":"a"},{"parts":[{},{"count":true}]}]}`, "parts[1].parts[1].count"},
		{"POST", "/v1/bodies", `{"partsByName":{"a.b":{"named":{"c":{"count":{}}}}}}`, `partsByName["a.b"].named["c"].count`},
		{"POST", "/v1/bodies", `{"labels":{"a":1}}`, `labels["a"]`},
		{"POST", "/v1/bodies", `{"kindsByNumber":{"x":1}}`, `kindsByNumber["x"]`},
		{"POST", "/v1/bodies", `{"labels":{"a":"b","a":"c"}}`, `labels["a"]`},
		{"POST", "/v1/bodies", `{"name":"a","name":"b"}`, "name"},
		{"POST", "/v1/bodies", `{"kindsByNumber":{}, "kinds_by_number":{}}`, "kinds_by_number"},
		{"POST", "/v1/bodies", `{"choiceText":"a","choiceNumber":1}`, "choiceNumber"},
		{"POST", "/v1/bodies", `{"at":"yesterday"}`, "at"},
		{"POST", "/v1/bodies", `{"lasts":"5"}`, "lasts"},
		{"POST", "/v1/bodies", `{"wrappedInt64":"x"}`, "wrappedInt64"},
		{"POST", "/v1/bodies", `{"any":{"@type":"type.googleapis.com/forms.v1.Part","nmae":"x"}}`, "any.nmae"},
		{"POST", "/v1/bodies", `{"any":{"@type":"type.googleapis.com/forms.v1.Unknown"}}`, `any["@type"]`},
		{"POST", "/v1/bodies", `{"struct":{"a":{"b":[1,{"c":tru}]}}}`, `struct["a"].b[1].c`},
		{"POST", "/v1/bodies", "{\"name\":\"\xff\"}", "name"},
		{"POST", "/v1/bodies", `{"name":"\ud800"}`, "name"},
		{"POST", "/v1/bodies", `{"name":"a"`, "name"},
		{"POST", "/v1/bodies", `{"name":"a"}}`, ""},
		{"POST", "/v1/bodies", `{"name":"a"} {}`, ""},
		{"POST", "/v1/bodies", `[]`, ""},
		{"POST", "/v1/bodies", `null`, ""},
		{"POST", "/v1/bodies", `{"a" "b"}`, "a"},
		{"POST", "/v1/parts/i", `{"nmae":"x"}`, "part.nmae"},
		{"POST", "/v1/parts/i", `{},"name":"smuggled"`, "part"},
		{"POST", "/v1/parts/i", `{}},{"name":"smuggled"`, "part"},
		{"POST", "/v1/lists", `[{},{"count":"x"}]`, "parts[1].count"},
		{"POST", "/v1/texts", `{}`, "name"},
		{"PATCH", "/v1/patches/i", `{"x":1}`, "part.x"},
		{"GET", "/v1/literal?nmae=x", "", "nmae"},
		{"GET", "/v1/literal?part.x=1", "", "part.x"},
		{"GET", "/v1/literal?part=1", "", "part"},
		{"GET", "/v1/literal?kind=KIND_NONE", "", "kind"},
		{"GET", "/v1/literal?kind=7", "", "kind"},
		{"GET", "/v1/literal?kinds=KIND_SMALL&kinds=x", "", "kinds"},
		{"GET", "/v1/literal?kinds_by_number[x]=KIND_SMALL", "", "kinds_by_number[x]"},
		{"GET", "/v1/literal?labels[a%5Bb]=x", "", "labels[a[b]"},
		{"GET", "/v1/literal?labels[a%0Ab]=x", "", "labels[a\nb]"},
		{"GET", "/v1/literal?kinds_by_number[1]=KIND_NONE", "", "kinds_by_number[1]"},
		{"GET", "/v1/literal?int32=2147483648", "", "int32"},
		{"GET", "/v1/literal?name=%FF", "", "name"},
		{"GET", "/v1/literal?labels=x", "", "labels"},
		{"GET", "/v1/literal?name[a]=x", "", "name[a]"},
		{"GET", "/v1/literal?otherName=1&renamed=2", "", "renamed"},
		{"GET", "/v1/literal?choice_kind=1&choice_text=a", "", "choice_text"},
		{"GET", "/v1/literal?choice_text=a&choiceKind=1", "", "choice_text"},
		{"GET", "/v1/literal?%zz", "", ""},
		{"GET", "/v1/literal?a;b", "", ""},
		{"GET", "/v1/numbers/1/2/x/0/1", "", "bool"},
		{"GET", "/v1/numbers/1/2/true/x/1", "", "kind"},
		{"GET", "/v1/variables/%FF", "", "id"},
		{"GET", "/v1/variables/a?id=b", "", "id"},
		{"GET", "/v1/shelves/a?part.name=b", "", "part.name"},
		{"POST", "/v1/parts/i?part.count=4", "{}", "part.count"},
		{"POST", "/forms.v1.FormsService/Implicit", `{"nmae":"x"}`, "nmae"},
		{"GET", "/forms.v1.FormsService/ImplicitSafe?nmae=x", "", "nmae"},
	} {
		w := do(mux, test.method, test.target, test.body)
		if p := problemIn(t, w); w.Code != http.StatusBadRequest || p.Field != test.field || p.Detail == "" {
			t.Errorf("%s %s %s: status %d, field %q, detail %q; want 400 and field %q", test.method, test.target, test.body, w.Code, p.Field, p.Detail, test.field)
		}
		if calls := b.taken(); len(calls) > 0 {
			t.Errorf("%s %s %s: called with %v", test.method, test.target, test.body, calls)
		}
	}
}

func TestBodiesAreBounded(t *testing.T) {
	var b backend
	mux := newMux(t, &b, func(c *transcode.Config) { c.MaxRequestBytes, c.MaxDepth, c.MaxValues = 1000, 10, 50 })
	nested := func(n int) string { return strings.Repeat(`{"inner":`, n) + "{}" + strings.Repeat("}", n) }
	for _, test := range []struct {
		body   string
		status int
	}{
		{`{"name":"` + strings.Repeat("a", 989) + `"}`, 200},
		{`{"name":"` + strings.Repeat("a", 990) + `"}`, 413},
		{`{"part":` + nested(8) + `}`, 200},
		{`{"part":` + nested(9) + `}`, 400},
		{`{"struct":{"a":` + strings.Repeat("[", 8) + strings.Repeat("]", 8) + `}}`, 200},
		{`{"struct":{"a":` + strings.Repeat("[", 9) + strings.Repeat("]", 9) + `}}`, 400},
		{strings.Repeat("[", 999), 400},
		{`{"parts":[{}` + strings.Repeat(",{}", 23) + `]}`, 200},
		{`{"parts":[{}` + strings.Repeat(",{}", 24) + `]}`, 400},
		{`{"numbers":[1` + strings.Repeat(",1", 47) + `]}`, 200},
		{`{"numbers":[1` + strings.Repeat(",1", 48) + `]}`, 400},
		{`{"double":` + strings.Repeat("1", 300) + `}`, 200},
		{`{"double":` + strings.Repeat("1", 401) + `}`, 400},
		{`{"value":0.` + strings.Repeat("0", 500) + `}`, 400},
	} {
		if w := do(mux, "POST", "/v1/bodies", test.body); w.Code != test.status {
			t.Errorf("%s: status %d %s, want %d", test.body, w.Code, w.Body, test.status)
		}
		if calls := b.taken(); (len(calls) == 1) != (test.status == 200) {
			t.Errorf("%s: %d calls", test.body, len(calls))
		}
	}
	for n, status := range map[int]int{9: 200, 10: 400} {
		if w := do(mux, "GET", "/v1/literal?part"+strings.Repeat(".inner", n-1)+".count=1", ""); w.Code != status {
			t.Errorf("a parameter %d deep: status %d, want %d", n+1, w.Code, status)
		}
	}
	// A body of unknown length is cut at the bound.
	r := httptest.NewRequest("POST", "/v1/bodies", strings.NewReader(`{"name":"`+strings.Repeat("a", 5000)+`"}`))
	r.ContentLength = -1
	w := httptest.NewRecorder()
	if mux.ServeHTTP(w, r); w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("chunked body: status %d, want 413", w.Code)
	}
}

func TestTypesAreNegotiated(t *testing.T) {
	var b backend
	mux := newMux(t, &b, nil)
	for _, test := range []struct {
		headers []string
		status  int
	}{
		{[]string{"Content-Type", "application/json"}, 200},
		{[]string{"Content-Type", "application/json; charset=UTF-8"}, 200},
		{[]string{"Content-Type", ""}, 200},
		{[]string{"Content-Type", "application/json; charset=latin1"}, 415},
		{[]string{"Content-Type", "text/plain"}, 415},
		{[]string{"Content-Type", "application/x-www-form-urlencoded"}, 415},
		{[]string{"Content-Type", ";"}, 415},
		{[]string{"Content-Encoding", "gzip"}, 415},
		{[]string{"Content-Encoding", "identity"}, 200},
		{[]string{"Accept", "*/*"}, 200},
		{[]string{"Accept", "text/html, application/*;q=0.5"}, 200},
		{[]string{"Accept", "text/html"}, 406},
		{[]string{"Accept", "*/*, application/json;q=0"}, 406},
		{[]string{"X-HTTP-Method-Override", "GET"}, 200},
	} {
		if w := do(mux, "POST", "/v1/bodies", "{}", test.headers...); w.Code != test.status {
			t.Errorf("%q: status %d %s, want %d", test.headers, w.Code, w.Body, test.status)
		}
	}
}

func TestPathsAndMethodsWithoutARoute(t *testing.T) {
	var b backend
	mux := newMux(t, &b, nil)
	for _, test := range []struct {
		method, target string
		status         int
		allow          string
	}{
		{"GET", "/v1/nothing", 404, ""},
		{"GET", "/", 404, ""},
		{"OPTIONS", "/v1/nothing", 404, ""},
		{"PUT", "/v1/literal", 405, "GET, HEAD, OPTIONS"},
		{"OPTIONS", "/v1/literal", 204, "GET, HEAD, OPTIONS"},
		{"BREW", "/v1/things/i", 405, "DELETE, OPTIONS"},
		{"GET", "/forms.v1.FormsService/Implicit", 405, "OPTIONS, POST"},
		{"OPTIONS", "/forms.v1.FormsService/ImplicitSafe", 204, "GET, HEAD, OPTIONS, POST"},
		{"POST", "/forms.v1.FormsService/Literal", 200, ""},
		{"POST", "/forms.v1.FormsService/literal", 404, ""},
		{"POST", "/forms.v1.FormsService%2FLiteral", 404, ""},
		{"HEAD", "/v1/literal?name=x", 200, ""},
		{"HEAD", "/forms.v1.FormsService/ImplicitSafe", 200, ""},
	} {
		w := do(mux, test.method, test.target, "")
		if w.Code != test.status || w.Header().Get("Allow") != test.allow {
			t.Errorf("%s %s: status %d, allow %q; want %d, %q", test.method, test.target, w.Code, w.Header().Get("Allow"), test.status, test.allow)
		}
		if test.status >= 400 {
			problemIn(t, w)
		}
		if test.method == "HEAD" && (w.Body.Len() > 0 || w.Header().Get("Content-Length") == "") {
			t.Errorf("%s %s: body %q, headers %v; want the length alone", test.method, test.target, w.Body, w.Header())
		}
	}
}
