package mirror_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors/mirror"
	"github.com/meshlite-go/meshlite/internal/prototest"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

const everything = `
syntax = "proto3";
package mirrored.v1;
import "google/protobuf/any.proto";
import "google/protobuf/timestamp.proto";
message Answer {
  string name = 1;
  optional int32 count = 2;
  double price = 3;
  bytes raw = 4;
  Color color = 5;
  Part part = 6;
  repeated Part parts = 7;
  map<string, Part> by_name = 8;
  repeated string tags = 9;
  oneof one { string left = 10; string right = 11; }
  google.protobuf.Any detail = 12;
  google.protobuf.Timestamp at = 13;
  string secret = 14 [debug_redact = true];
  Part secrets = 15 [debug_redact = true];
  Answer nested = 16;
}
message Part { string id = 1; string token = 2 [debug_redact = true]; }
enum Color { COLOR_UNSPECIFIED = 0; COLOR_RED = 1; COLOR_BLUE = 2 [debug_redact = true]; }
`

// compareAnswers mirrors one call whose caller and whose copy get these answers.
func compareAnswers(t *testing.T, ignore []string, own, other proto.Message) mirror.Stats {
	t.Helper()
	to := &place{answer: func(context.Context, []byte) (proto.Message, error) { return other, nil }}
	r := rule("catalog-next", 100)
	r.Compare = proto.Bool(true)
	m, err := mirror.New(to.dial)
	if err != nil {
		t.Fatal(err)
	}
	m.Open()
	defer m.Close()
	// The answer is of another contract than the method, so that the policy does not check ignore.
	meta := policiesOf(t, r).Call(1, getSweet)
	meta.Policy.Mirror.Ignore = ignore
	by := m.UnaryClient(meta)
	reply := own.ProtoReflect().New().Interface()
	err = by(t.Context(), getSweet, &catalogv1.GetSweetRequest{}, reply, nil,
		func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
			proto.Merge(reply, own)
			return nil
		})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	s := only(t, m)
	if s.Same+s.Different != 1 {
		t.Fatalf("%+v: want one comparison", s)
	}
	return s
}

// Each row is a pair of answers, and where they differ with the values that are shown.
func TestAnswersAreComparedByFields(t *testing.T) {
	answer := prototest.Files(t, "mirrored/v1/answer.proto", everything)
	found, err := answer.FindDescriptorByName("mirrored.v1.Answer")
	if err != nil {
		t.Fatal(err)
	}
	kind := found.(protoreflect.MessageDescriptor)
	long := strings.Repeat("x", 100)
	for _, test := range []struct {
		own, copied string
		ignore      []string
		want        string
	}{
		{`name: "a"`, `name: "a"`, nil, ``},
		{`by_name {key: "x" value {id: "1"}} by_name {key: "y" value {}}`, `by_name {key: "y" value {}} by_name {key: "x" value {id: "1"}}`, nil, ``},
		{`price: nan`, `price: nan`, nil, ``},
		{`name: "a"`, `name: "b"`, nil, `name: "a" / "b"`},
		{`name: "a"`, ``, nil, `name: "a" / ""`},
		{`name: "` + long + `"`, `name: "b"`, nil, `name: "` + long[:64] + `..." / "b"`},
		{`count: 0`, ``, nil, `count: 0 / not set`},
		{`price: 1.5`, `price: 2`, nil, `price: 1.5 / 2`},
		{`raw: "abc"`, `raw: "abcd"`, nil, `raw: 3 bytes / 4 bytes`},
		{`color: COLOR_RED`, `color: 7`, nil, `color: COLOR_RED / 7`},
		{`color: COLOR_RED`, `color: COLOR_BLUE`, nil, `color: COLOR_RED / (redacted)`},
		{`part {id: "1"}`, `part {id: "2"}`, nil, `part.id: "1" / "2"`},
		{`part {}`, ``, nil, `part: set / not set`},
		{`parts {id: "1"} parts {id: "2"}`, `parts {id: "1"} parts {id: "3"}`, nil, `parts.id: "2" / "3"`},
		{`parts {id: "1"}`, ``, nil, `parts: 1 items / 0 items`},
		{`by_name {key: "x" value {id: "1"}}`, `by_name {key: "x" value {id: "2"}}`, nil, `by_name.id: "1" / "2"`},
		{`by_name {key: "x" value {}}`, `by_name {key: "y" value {}}`, nil, `by_name: a key / without it`},
		{`tags: "a" tags: "b"`, `tags: "b" tags: "a"`, nil, `tags: "a" / "b"`},
		{`left: "a"`, `right: "a"`, nil, `left: "a" / not set; right: not set / "a"`},
		{`at {seconds: 1}`, `at {seconds: 2}`, nil, `at.seconds: 1 / 2`},
		{`at {seconds: 1}`, `at {seconds: 2}`, []string{"at"}, ``},
		{`at {seconds: 1} name: "a"`, `at {seconds: 2} name: "b"`, []string{"at.seconds"}, `name: "a" / "b"`},
		{`parts {id: "1" token: "x"}`, `parts {id: "2" token: "x"}`, []string{"parts.id"}, ``},
		{`by_name {key: "x" value {id: "1"}}`, `by_name {key: "x" value {id: "2"}}`, []string{"by_name.id"}, ``},
		{`secret: "s1"`, `secret: "s2"`, nil, `secret: (redacted) / (redacted)`},
		{`secrets {id: "s1"}`, `secrets {id: "s2"}`, nil, `secrets.id: (redacted) / (redacted)`},
		{`parts {token: "s1"}`, `parts {token: "s2"}`, nil, `parts.token: (redacted) / (redacted)`},
		{`nested {nested {secrets {token: "s1"}}}`, `nested {nested {secrets {token: "s2"}}}`, nil, `nested.nested.secrets.token: (redacted) / (redacted)`},
		{`detail {[type.googleapis.com/sweetshop.catalog.v1.Sweet] {id: "1"}}`, `detail {[type.googleapis.com/sweetshop.catalog.v1.Sweet] {id: "2"}}`, nil, `detail.id: "1" / "2"`},
		{`detail {type_url: "x/unknown.T" value: "secret"}`, `detail {type_url: "x/unknown.T" value: "secrets"}`, nil, `detail: 6 bytes / 7 bytes`},
		{`detail {type_url: "x/A"}`, `detail {type_url: "x/B"}`, nil, `detail: "x/A" / "x/B"`},
	} {
		synctest.Test(t, func(t *testing.T) {
			own, copied := dynamicpb.NewMessage(kind), dynamicpb.NewMessage(kind)
			for text, into := range map[*string]*dynamicpb.Message{&test.own: own, &test.copied: copied} {
				if err := prototext.Unmarshal([]byte(*text), into); err != nil {
					t.Fatal(err)
				}
			}
			var got []string
			s := compareAnswers(t, test.ignore, own, copied)
			for _, d := range s.Differences {
				if d.Count != 1 {
					t.Errorf("%s is counted %d times", d.Path, d.Count)
				}
				got = append(got, fmt.Sprintf("%s: %s / %s", d.Path, d.Caller, d.Copy))
			}
			if strings.Join(got, "; ") != test.want || (s.Different == 1) != (test.want != "") {
				t.Errorf("%s and %s differ by %q, want %q", test.own, test.copied, got, test.want)
			}
		})
	}
}

func TestUnknownFieldsAndBrokenAnswersAreDifferences(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		newer := sweet("fudge")
		newer.ProtoReflect().SetUnknown(protoreflect.RawFields{0xf8, 0x07, 0x01})
		s := compareAnswers(t, nil, sweet("fudge"), newer)
		if len(s.Differences) != 1 || s.Differences[0] != (mirror.Difference{Path: "(unknown fields)", Count: 1, Caller: "0 bytes", Copy: "3 bytes"}) {
			t.Errorf("%+v", s.Differences)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		to := &place{broken: []byte{0xff}}
		r := rule("catalog-next", 100)
		r.Compare = proto.Bool(true)
		m, by := mirrored(t, to, r)
		if err := call(t, by, shop); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s := only(t, m); s.Differences[0].Path != "(encoding)" || s.Differences[0].Copy != "cannot be decoded" || s.Codes["OK"] != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// A message within itself is compared to some depth field by field, and below that as a whole.
func TestDepthAndPathsAreBounded(t *testing.T) {
	files := prototest.Files(t, "mirrored/v1/answer.proto", everything)
	found, err := files.FindDescriptorByName("mirrored.v1.Answer")
	if err != nil {
		t.Fatal(err)
	}
	kind := found.(protoreflect.MessageDescriptor)
	nested, name := kind.Fields().ByName("nested"), kind.Fields().ByName("name")
	deep := func(text string) *dynamicpb.Message {
		var at protoreflect.Message = dynamicpb.NewMessage(kind)
		top := at
		for range 100 {
			at.Set(name, protoreflect.ValueOfString(text))
			at = at.Mutable(nested).Message()
		}
		return top.Interface().(*dynamicpb.Message)
	}
	synctest.Test(t, func(t *testing.T) {
		s := compareAnswers(t, nil, deep("a"), deep("b"))
		others := s.Differences[len(s.Differences)-1]
		for _, d := range s.Differences {
			if len(d.Path) > 32*len("nested.")+len("name") {
				t.Errorf("path %s", d.Path)
			}
			if d.Path == mirror.Other {
				others = d
			}
		}
		if len(s.Differences) != 33 || others.Path != mirror.Other || others.Count != 1 || others.Caller != "" {
			t.Errorf("%d paths, and of the others %+v", len(s.Differences), others)
		}
	})
}

// Another code is a difference, and the same failure is none.
func TestCodesAreCompared(t *testing.T) {
	notFound, internal := status.Error(codes.NotFound, "no fudge of a secret customer"), status.Error(codes.Internal, "broken")
	for _, test := range []struct {
		own, copied error
		want        string
	}{
		{nil, internal, "OK / Internal"},
		{notFound, nil, "NotFound / OK"},
		{notFound, internal, "NotFound / Internal"},
		{notFound, status.Error(codes.NotFound, "other words"), ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			to := &place{answer: func(context.Context, []byte) (proto.Message, error) { return sweet("fudge"), test.copied }}
			r := rule("catalog-next", 100)
			r.Compare = proto.Bool(true)
			m, by := mirrored(t, to, r)
			_ = call(t, by, func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
				attempt.FromContext(ctx).SetPicked(&attempt.Instance{ID: "a"})
				return test.own
			})
			synctest.Wait()
			s := only(t, m)
			got := ""
			for _, d := range s.Differences {
				got += strings.TrimPrefix(d.Path, "(status)") + d.Caller + " / " + d.Copy
			}
			if got != test.want || s.Same+s.Different != 1 {
				t.Errorf("%v and %v: %q, want %q; %+v", test.own, test.copied, got, test.want, s)
			}
		})
	}
}

// A caller that has left has no answer that could be compared.
func TestACallThatItsCallerHasLeftIsCopiedAndNotCompared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &place{}
		r := rule("catalog-next", 100)
		r.Compare = proto.Bool(true)
		m, by := mirrored(t, to, r)
		ctx, cancel := context.WithCancel(t.Context())
		err := by(ctx, getSweet, &catalogv1.GetSweetRequest{}, &catalogv1.GetSweetResponse{}, nil,
			func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
				attempt.FromContext(ctx).SetPicked(&attempt.Instance{ID: "a"})
				cancel()
				return status.FromContextError(ctx.Err()).Err()
			})
		synctest.Wait()
		if s := only(t, m); status.Code(err) != codes.Canceled || s.Codes["OK"] != 1 || s.Same+s.Different != 0 {
			t.Errorf("%v, %+v", err, s)
		}
	})
}
