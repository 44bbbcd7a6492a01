package transcode_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meshlite-go/meshlite/gateway/transcode"
	"github.com/meshlite-go/meshlite/gateway/transcode/testdata/forms"
)

// The exchanges are those of connectrpc.com/docs/protocol; internal/connecttest has Connect's
// own client.
func TestConnectPost(t *testing.T) {
	b := backend{handle: func(ctx context.Context, in *forms.Thing) (*forms.Thing, error) {
		_ = grpc.SetHeader(ctx, metadata.Pairs("x-lead", "a", "x-data-bin", "\x00\xff", "x-other", "b"))
		_ = grpc.SetTrailer(ctx, metadata.Pairs("x-trail", "c", "ratelimit", `"a";r=1;t=1`))
		return in, nil
	}}
	mux := newMux(t, &b, func(c *transcode.Config) { c.Headers = []string{"x-lead", "x-trail", "x-data-bin"} })
	w := do(mux, "POST", "/forms.v1.FormsService/Literal", `{"name":"Buf"}`, "Connect-Protocol-Version", "1")
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/json" || w.Body.String() != `{"name":"Buf"}` {
		t.Errorf("status %d, %v, %s", w.Code, w.Header(), w.Body)
	}
	for name, want := range map[string]string{"X-Lead": "a", "X-Data-Bin": "AP8", "X-Other": "", "Trailer-X-Trail": "c", "X-Trail": "", "Trailer-Ratelimit": `"a";r=1;t=1`} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	message, err := proto.Marshal(&forms.Thing{Name: "Buf", Int64: 7})
	if err != nil {
		t.Fatal(err)
	}
	w = do(mux, "POST", "/forms.v1.FormsService/Literal", string(message), "Connect-Protocol-Version", "1", "Content-Type", "application/proto")
	answer := new(forms.Thing)
	if err := proto.Unmarshal(w.Body.Bytes(), answer); err != nil || w.Code != 200 || w.Header().Get("Content-Type") != "application/proto" || answer.GetInt64() != 7 {
		t.Errorf("status %d, %v, %q, %v", w.Code, w.Header(), w.Body, err)
	}
}

func TestConnectErrors(t *testing.T) {
	want := map[codes.Code]struct {
		name   string
		status int
	}{
		codes.Canceled: {"canceled", 499}, codes.Unknown: {"unknown", 500}, codes.InvalidArgument: {"invalid_argument", 400},
		codes.DeadlineExceeded: {"deadline_exceeded", 504}, codes.NotFound: {"not_found", 404}, codes.AlreadyExists: {"already_exists", 409},
		codes.PermissionDenied: {"permission_denied", 403}, codes.ResourceExhausted: {"resource_exhausted", 429},
		codes.FailedPrecondition: {"failed_precondition", 400}, codes.Aborted: {"aborted", 409}, codes.OutOfRange: {"out_of_range", 400},
		codes.Unimplemented: {"unimplemented", 501}, codes.Internal: {"internal", 500}, codes.Unavailable: {"unavailable", 503},
		codes.DataLoss: {"data_loss", 500}, codes.Unauthenticated: {"unauthenticated", 401},
	}
	type body struct {
		Code, Message string
		Details       []struct {
			Type, Value string
			Debug       map[string]any
		}
	}
	info := &errdetails.ErrorInfo{Reason: "WHY"}
	for code, want := range want {
		mux := newMux(t, failing(withDetails(t, code, "text", info, &errdetails.DebugInfo{Detail: "secret"}), "x-trail", "c"), func(c *transcode.Config) { c.Headers = []string{"x-trail"} })
		w := do(mux, "POST", "/forms.v1.FormsService/Literal", `{}`, "Connect-Protocol-Version", "1")
		var got body
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != want.status || got.Code != want.name || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%v: status %d, %s, %v; want %v", code, w.Code, w.Body, err, want)
		}
		hidden := got.Message != "text"
		if internal := code == codes.Internal || code == codes.Unknown || code == codes.DataLoss; internal && !hidden || code == codes.NotFound && hidden {
			t.Errorf("%v: message %q", code, got.Message)
		}
		value, err := proto.Marshal(info)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Details) != 1 || got.Details[0].Type != "google.rpc.ErrorInfo" || got.Details[0].Value != base64.RawStdEncoding.EncodeToString(value) || got.Details[0].Debug["reason"] != "WHY" {
			t.Errorf("%v: details %+v", code, got.Details)
		}
		if w.Header().Get("Trailer-X-Trail") != "c" || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%v: headers %v", code, w.Header())
		}
	}

	var b backend
	mux := newMux(t, &b, nil)
	for _, test := range []struct {
		body    string
		headers []string
		status  int
		code    string
	}{
		{`{"nmae":"x"}`, nil, 400, "invalid_argument"},
		{`{}`, []string{"Connect-Protocol-Version", "2"}, 400, "invalid_argument"},
		{`{}`, []string{"Connect-Timeout-Ms", "soon"}, 400, "invalid_argument"},
		{`{}`, []string{"Content-Type", "text/plain"}, 415, ""},
		{`{}`, []string{"Content-Type", "application/connect+json"}, 415, ""},
		{"\xff", []string{"Content-Type", "application/proto"}, 400, "invalid_argument"},
	} {
		w := do(mux, "POST", "/forms.v1.FormsService/Literal", test.body, append([]string{"Connect-Protocol-Version", "1"}, test.headers...)...)
		var got body
		_ = json.Unmarshal(w.Body.Bytes(), &got)
		if w.Code != test.status || got.Code != test.code || len(b.taken()) > 0 {
			t.Errorf("%s %q: status %d, %s; want %d, %s and no call", test.body, test.headers, w.Code, w.Body, test.status, test.code)
		}
		if test.status == 415 && w.Header().Get("Accept-Post") == "" {
			t.Errorf("%q: no Accept-Post", test.headers)
		}
	}
}

func TestConnectsBinaryMessagesAreBounded(t *testing.T) {
	var b backend
	mux := newMux(t, &b, func(c *transcode.Config) { c.MaxDepth, c.MaxValues = 5, 50 })
	deep := func(n int) *forms.Thing {
		part := new(forms.Part)
		for range n - 1 {
			part = &forms.Part{Inner: part}
		}
		return &forms.Thing{Part: part}
	}
	wide := func(n int) *forms.Thing { return &forms.Thing{Parts: make([]*forms.Part, n)} }
	packed := func(n int) *forms.Thing {
		inner, err := anypb.New(new(forms.Part))
		for range n - 2 {
			if err == nil {
				inner, err = anypb.New(inner)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		return &forms.Thing{Any: inner}
	}
	for _, test := range []struct {
		message *forms.Thing
		status  int
	}{
		{packed(5), 200}, {packed(6), 400}, {&forms.Thing{Any: &anypb.Any{TypeUrl: "a/b.Unknown", Value: []byte{1}}}, 200},
		{deep(5), 200}, {deep(6), 400}, {wide(50), 200}, {wide(51), 400},
		{&forms.Thing{Labels: map[string]string{"a": "b"}, Numbers: make([]int64, 900)}, 200},
	} {
		for i := range test.message.GetParts() {
			test.message.Parts[i] = new(forms.Part)
		}
		text, err := proto.Marshal(test.message)
		if err != nil {
			t.Fatal(err)
		}
		w := do(mux, "POST", "/forms.v1.FormsService/Literal", string(text), "Connect-Protocol-Version", "1", "Content-Type", "application/proto")
		if calls := b.taken(); w.Code != test.status || (len(calls) == 1) != (test.status == 200) {
			t.Errorf("%v: status %d %s, %d calls; want %d", test.message, w.Code, w.Body, len(calls), test.status)
		}
	}
}

// An Any of one part with the value of another would not be what was checked.
func TestConnectsMessagesHaveNoTwoParts(t *testing.T) {
	var b backend
	mux := newMux(t, &b, nil)
	inner, err := anypb.New(new(anypb.Any))
	if err != nil {
		t.Fatal(err)
	}
	var text []byte
	for _, part := range []*anypb.Any{{TypeUrl: "a/b.Unknown", Value: inner.GetValue()}, {TypeUrl: inner.GetTypeUrl()}} {
		more, err := proto.Marshal(&forms.Thing{Any: part})
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, more...)
	}
	w := do(mux, "POST", "/forms.v1.FormsService/Literal", string(text), "Connect-Protocol-Version", "1", "Content-Type", "application/proto")
	if w.Code != 400 || len(b.taken()) > 0 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestConnectGet(t *testing.T) {
	var b backend
	mux := newMux(t, &b, nil)
	message, err := proto.Marshal(&forms.Thing{Name: "Buf"})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		method string
		query  url.Values
		status int
	}{
		{"ImplicitSafe", url.Values{"connect": {"v1"}, "encoding": {"json"}, "message": {`{"name":"Buf"}`}}, 200},
		{"ImplicitSafe", url.Values{"connect": {"v1"}, "encoding": {"json"}, "message": {base64.URLEncoding.EncodeToString([]byte(`{"name":"Buf"}`))}, "base64": {"1"}}, 200},
		{"Literal", url.Values{"connect": {"v1"}, "encoding": {"proto"}, "message": {base64.RawURLEncoding.EncodeToString(message)}, "base64": {"1"}, "compression": {"identity"}}, 200},
		{"Literal", url.Values{"connect": {"v1"}, "encoding": {"json"}, "message": {`{"nmae":"Buf"}`}}, 400},
		{"Literal", url.Values{"connect": {"v1"}, "encoding": {"json"}, "message": {"%"}, "base64": {"1"}}, 400},
		{"Literal", url.Values{"connect": {"v1"}, "encoding": {"xml"}, "message": {"{}"}}, 400},
		{"Literal", url.Values{"connect": {"v1"}, "encoding": {"json"}}, 400},
		{"Literal", url.Values{"connect": {"v1"}, "encoding": {"json"}, "message": {"{}"}, "compression": {"gzip"}}, 501},
		{"Implicit", url.Values{"connect": {"v1"}, "encoding": {"json"}, "message": {"{}"}}, 405},
	} {
		w := do(mux, "GET", "/forms.v1.FormsService/"+test.method+"?"+test.query.Encode(), "")
		calls := b.taken()
		if w.Code != test.status || (len(calls) == 1) != (test.status == 200) {
			t.Errorf("%s %v: status %d, %s, %d calls; want %d", test.method, test.query, w.Code, w.Body, len(calls), test.status)
		}
		if len(calls) == 1 && (calls[0].request.(*forms.Thing).GetName() != "Buf" || w.Header().Get("ETag") == "") {
			t.Errorf("%s %v: call %v, headers %v", test.method, test.query, calls[0], w.Header())
		}
	}
}

func TestConnectOfAStreamIsRefusedAsAnUnsupportedType(t *testing.T) {
	var b backend
	w := do(newMux(t, &b, nil), "POST", "/forms.v1.FormsService/Download", "{}", "Connect-Protocol-Version", "1")
	if w.Code != http.StatusUnsupportedMediaType || len(b.taken()) > 0 {
		t.Errorf("status %d", w.Code)
	}
}
