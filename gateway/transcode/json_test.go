package transcode_test

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/gateway/transcode/testdata/forms"
)

// Case E3: 64-bit numbers survive JavaScript (strings out, both in); bytes, timestamps, durations, field masks, wrappers, maps, oneofs, Any of a known type round-trip.
func TestValuesRoundTrip(t *testing.T) {
	var b backend
	mux := newMux(t, &b, nil)
	for _, test := range []struct{ in, out string }{
		{`{"int64":"9223372036854775807","uint64":"18446744073709551615","renamed":1}`, `{"int64":"9223372036854775807","uint64":"18446744073709551615","otherName":"1"}`},
		{`{"int64":-9223372036854775808,"uint64":18446744073709551615,"numbers":[9007199254740993,"-1"]}`, `{"int64":"-9223372036854775808","uint64":"18446744073709551615","numbers":["9007199254740993","-1"]}`},
		{`{"bytes":"AQL_-w"}`, `{"bytes":"AQL/+w=="}`},
		{`{"at":"2026-01-02T03:04:05.5+01:00","lasts":"-1.500s","mask":"a,bC.d"}`, `{"at":"2026-01-02T02:04:05.500Z","lasts":"-1.500s","mask":"a,bC.d"}`},
		{`{"wrappedString":"","wrappedInt64":0,"wrappedBool":false,"wrappedBytes":""}`, `{"wrappedString":"","wrappedInt64":"0","wrappedBool":false,"wrappedBytes":""}`},
		{`{"wrappedString":null,"name":null,"parts":null,"labels":null}`, `{}`},
		{`{"labels":{"b":"2","a":"1"},"kindsByNumber":{"-1":2},"partsByName":{"x":{"count":1}}}`, `{"labels":{"a":"1","b":"2"},"kindsByNumber":{"-1":"KIND_LARGE"},"partsByName":{"x":{"count":1}}}`},
		{`{"choiceText":""}`, `{"choiceText":""}`},
		{`{"choicePart":{}}`, `{"choicePart":{}}`},
		{`{"choiceKind":"KIND_UNSPECIFIED","optionalText":""}`, `{"choiceKind":"KIND_UNSPECIFIED","optionalText":""}`},
		{`{"kind":99}`, `{"kind":99}`},
		{`{"struct":{"a":[null,true,1.5,"x",{}]},"value":null}`, `{"struct":{"a":[null,true,1.5,"x",{}]},"value":null}`},
		{`{"any":{"@type":"type.googleapis.com/forms.v1.Part","name":"p"}}`, `{"any":{"@type":"type.googleapis.com/forms.v1.Part","name":"p"}}`},
		{`{"any":{"@type":"type.googleapis.com/google.protobuf.Duration","value":"3s"}}`, `{"any":{"@type":"type.googleapis.com/google.protobuf.Duration","value":"3s"}}`},
		{`{"double":"Infinity","float":"NaN"}`, `{"double":"Infinity","float":"NaN"}`},
		{`{"name":"\ud83d\ude00  \" \\ , : "}`, `{"name":"😀  \" \\ , : "}`},
	} {
		w := do(mux, "POST", "/v1/bodies", test.in)
		var got, want any
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusOK {
			t.Errorf("%s: status %d, %s, %v", test.in, w.Code, w.Body, err)
		}
		if err := json.Unmarshal([]byte(test.out), &want); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: answer %s, want %s (%v)", test.in, w.Body, test.out, err)
		}
		// The backend's generated type holds the same.
		received := new(forms.Thing)
		if err := protojson.Unmarshal([]byte(test.out), received); err != nil {
			t.Fatal(err)
		}
		calls := b.taken()
		if len(calls) != 1 || !proto.Equal(calls[0].request, received) {
			t.Errorf("%s: calls %v, want one with %v", test.in, calls, received)
		}
	}
}

func TestAnswersHaveNoSpaceThatDiffersFromBuildToBuild(t *testing.T) {
	b := backend{handle: func(context.Context, *forms.Thing) (*forms.Thing, error) {
		return &forms.Thing{Name: `a, "b": {`, Texts: []string{"x", "y"}, Labels: map[string]string{"b": "1", "a": "2"}}, nil
	}}
	const want = `{"name":"a, \"b\": {","texts":["x","y"],"labels":{"a":"2","b":"1"}}`
	if w := do(newMux(t, &b, nil), "GET", "/v1/literal", ""); w.Body.String() != want {
		t.Errorf("answer %s, want %s", w.Body, want)
	}
}

func TestAnAnswerWithoutTheFieldOfItsBodyHasItsZeroValue(t *testing.T) {
	var b backend
	mux := newMux(t, &b, nil)
	for target, want := range map[string]string{"part": "{}", "texts": "[]", "parts": "[]", "labels": "{}", "name": `""`} {
		if w := do(mux, "POST", "/v1/answers/"+target, "{}"); w.Body.String() != want {
			t.Errorf("%s: answer %s, want %s", target, w.Body, want)
		}
	}
}
