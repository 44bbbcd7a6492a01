package transcode_test

import (
	"encoding/json"
	"net/http"
	"reflect"
	"testing"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/gateway/transcode/testdata/forms"
)

// generated is the same service by the code that protoc-gen-grpc-gateway makes.
func generated(t *testing.T, b *backend) http.Handler {
	t.Helper()
	mux := runtime.NewServeMux(
		runtime.WithUnescapingMode(runtime.UnescapingModeAllExceptReserved),
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.JSONPb{MarshalOptions: protojson.MarshalOptions{}}),
	)
	if err := forms.RegisterFormsServiceHandlerClient(t.Context(), mux, forms.NewFormsServiceClient(b.serve(t))); err != nil {
		t.Fatal(err)
	}
	return mux
}

// Case E1: Every template form of google.api.http maps as grpc-gateway's own generated code does, by comparison.
func TestEveryFormMapsAsGeneratedCodeDoes(t *testing.T) {
	var theirs, ours backend
	theirMux, ourMux := generated(t, &theirs), newMux(t, &ours, nil)
	const body = `{"name":"n","int64":"9007199254740993","part":{"name":"p","count":2,"parts":[{"name":"q"}]},"texts":["a","b"],"labels":{"k":"v"},"kind":"KIND_LARGE"}`
	for _, test := range []struct {
		method, target, body string
	}{
		{"GET", "/v1/literal", ""},
		{"GET", "/v1/literal?name=x&int64=-7&uint64=18446744073709551615&double=1e300&float=2.5&bool=true&bytes=AQID&kind=KIND_SMALL", ""},
		{"GET", "/v1/literal?kind=2&kinds=KIND_SMALL&kinds=2&part.name=p&part.inner.inner.count=-3&texts=a&texts=b%2Cc&numbers=1&numbers=2", ""},
		{"GET", "/v1/literal?labels[a]=b&labels[c.d]=e&kinds_by_number[3]=KIND_LARGE&kindsByNumber[4]=1", ""},
		{"GET", "/v1/literal?at=2026-01-02T03:04:05.000000006Z&lasts=1.5s&mask=a,b.c&wrapped_string=&wrappedInt64=0&struct=%7B%22a%22:1%7D&value=null", ""},
		{"GET", "/v1/literal?other_name=3", ""},
		{"GET", "/v1/literal?otherName=3&optional_text=&choice_number=4&wrapped_bool=true&wrapped_bytes=AQ", ""},
		{"GET", "/v1/literal?renamed=-3&choice_kind=KIND_SMALL", ""},
		{"GET", "/v1/literal/", ""},
		{"GET", "/v1/variables/a", ""},
		{"GET", "/v1/variables/a?id=b&name=c", ""},
		{"GET", "/v1/variables/a%2Fb%20c%25", ""},
		{"GET", "/v1/variables/", ""},
		{"GET", "/v1/variables/a/b", ""},
		{"GET", "/v1/variables/a:b", ""},
		{"GET", "/v1/numbers/-5/6/true/KIND_LARGE/1.5", ""},
		{"GET", "/v1/numbers/-5/6/true/2/NaN", ""},
		{"GET", "/v1/numbers/x/6/true/2/1", ""},
		{"GET", "/v1/numbers/1/-6/true/2/1", ""},
		{"GET", "/v1/star/anything/end", ""},
		{"GET", "/v1/star/anything/else", ""},
		{"GET", "/v1/all/a/b/c", ""},
		{"GET", "/v1/all/", ""},
		{"GET", "/v1/files/a/b%2Fc/d%20e", ""},
		{"GET", "/v1/files/a", ""},
		{"GET", "/v1/files", ""},
		{"GET", "/v1/tail/a/b/c:verb", ""},
		{"GET", "/v1/tail/a/b/c", ""},
		{"GET", "/v1/tail/c:verb", ""},
		{"GET", "/v1/shelves/s1", ""},
		{"GET", "/v1/shelves/s1?part.count=4&name=x", ""},
		{"GET", "/v1/shelves/s1/books/b%201", ""},
		{"POST", "/v1/shelves/s1:move", body},
		{"POST", "/v1/shelves/s1:other", body},
		{"POST", "/v1/shelves/s1:move", ""},
		{"GET", "/v1/things:batchGet?texts=1&texts=2", ""},
		{"GET", "/v1/things:batchget", ""},
		{"POST", "/v1/bodies", body},
		{"POST", "/v1/bodies", "{}"},
		{"POST", "/v1/bodies", ""},
		{"POST", "/v1/bodies", `{"otherName":4}`},
		{"POST", "/v1/bodies", `{"other_name":`},
		{"PUT", "/v1/bodies/i/7", body},
		{"PUT", "/v1/bodies/i/7", `{"id":"other","part":{"count":9}}`},
		{"POST", "/v1/parts/i", `{"name":"p","inner":{"count":3}}`},
		{"POST", "/v1/parts/i?name=q&kind=1", `{"name":"p"}`},
		{"POST", "/v1/parts/i", `{}`},
		{"POST", "/v1/lists?id=3", `[{"name":"a"},{"count":2}]`},
		{"POST", "/v1/lists", `[]`},
		{"POST", "/v1/texts", `"some text"`},
		{"POST", "/v1/texts", `5`},
		{"DELETE", "/v1/things/i?bool=true", ""},
		{"PATCH", "/v1/patches/i", `{"name":"new","inner":{"count":0}}`},
		{"PATCH", "/v1/patches/i?update_mask=count", `{"name":"new"}`},
		{"PATCH", "/v1/patches/i", `{}`},
		{"REPORT", "/v1/custom/i?name=x", ""},
		{"GET", "/v1/custom/i", ""},
		{"GET", "/v1/first/i", ""},
		{"GET", "/v1/second/i/n?bool=1", ""},
		{"POST", "/v1/third?id=x", `{"name":"p"}`},
		{"POST", "/v1/answers/part", body},
		{"POST", "/v1/answers/texts", body},
		{"POST", "/v1/answers/labels", body},
		{"POST", "/v1/answers/name", body},
		{"POST", "/v1/answers/parts", `{"parts":[{"name":"a"},{}]}`},
		{"GET", "/v1/times/2026-01-02T03:04:05Z/90s/text/-9", ""},
		{"GET", "/v1/times/yesterday/90s/text/-9", ""},
		{"GET", "/v1/choices/a", ""},
		{"GET", "/v1/choices/a?choice_number=4", ""},
		{"GET", "/v1/literal?choice_text=a&choice_number=4", ""},
		{"GET", "/v1/literal?part=x", ""},
		{"GET", "/v1/literal?name=a&name=b", ""},
		{"GET", "/v1/literal?texts.x=a", ""},
		{"GET", "/v1/narrow/wide", ""},
		{"GET", "/v1/narrow/x/wide", ""},
		{"GET", "/v1/narrow/x:wide", ""},
		{"GET", "/v1/again/wide", ""},
		{"GET", "/v1/other/wide", ""},
		{"GET", "/v1/literal:wide", ""},
		{"GET", "/one", ""},
		{"GET", "/one:wide", ""},
		{"GET", "/one/", ""},
		{"GET", "/v2/a/b", ""},
		{"GET", "/v2//b", ""},
		{"GET", "//b", ""},
		{"GET", "/:wide", ""},
		{"GET", "/v1/nothing", ""},
		{"PUT", "/v1/literal", ""},
	} {
		theirAnswer, ourAnswer := do(theirMux, test.method, test.target, test.body), do(ourMux, test.method, test.target, test.body)
		theirCalls, ourCalls := theirs.taken(), ours.taken()
		name := test.method + " " + test.target + " " + test.body
		if test.target == "/v1/variables/a?id=b&name=c" || test.target == "/v1/literal?other_name=3" {
			// A query parameter of nothing, or of what the path has: theirs ignores it, ours refuses it.
			if len(theirCalls) != 1 {
				t.Errorf("%s: generated code made %d calls", name, len(theirCalls))
			}
			if len(ourCalls) != 0 || ourAnswer.Code != http.StatusBadRequest {
				t.Errorf("%s: status %d and %d calls, want 400 and none", name, ourAnswer.Code, len(ourCalls))
			}
			continue
		}
		if len(theirCalls) != len(ourCalls) {
			t.Errorf("%s: %d calls (%d %s), generated code makes %d (%d %s)", name, len(ourCalls), ourAnswer.Code, ourAnswer.Body, len(theirCalls), theirAnswer.Code, theirAnswer.Body)
			continue
		}
		if ourAnswer.Code != theirAnswer.Code && !(theirAnswer.Code == http.StatusNotImplemented && ourAnswer.Code == http.StatusMethodNotAllowed) {
			t.Errorf("%s: status %d %s, generated code has %d %s", name, ourAnswer.Code, ourAnswer.Body, theirAnswer.Code, theirAnswer.Body)
		}
		if len(ourCalls) == 0 {
			continue
		}
		if ourCalls[0].method != theirCalls[0].method || !proto.Equal(ourCalls[0].request, theirCalls[0].request) {
			t.Errorf("%s: calls %s with %v, generated code %s with %v", name, ourCalls[0].method, ourCalls[0].request, theirCalls[0].method, theirCalls[0].request)
		}
		var theirJSON, ourJSON any
		if err := json.Unmarshal(ourAnswer.Body.Bytes(), &ourJSON); err != nil {
			t.Errorf("%s: answer %s: %v", name, ourAnswer.Body, err)
		}
		if _ = json.Unmarshal(theirAnswer.Body.Bytes(), &theirJSON); !reflect.DeepEqual(ourJSON, theirJSON) {
			t.Errorf("%s: answer %s, generated code has %s", name, ourAnswer.Body, theirAnswer.Body)
		}
	}
}
