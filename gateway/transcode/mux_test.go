package transcode_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/meshlite-go/meshlite/gateway/contract"
	"github.com/meshlite-go/meshlite/gateway/transcode"
)

func TestNothingIsServedThatIsNotOffered(t *testing.T) {
	var b backend
	for name, offers := range map[string]func(protoreflect.MethodDescriptor) bool{
		"nothing": nil,
		"literal": func(m protoreflect.MethodDescriptor) bool { return m.Name() == "Literal" },
	} {
		mux := newMux(t, &b, func(c *transcode.Config) { c.Services[0].Offers = offers })
		for target, want := range map[string]int{"/v1/literal": 404, "/v1/variables/a": 404, "/forms.v1.FormsService/ImplicitSafe": 404} {
			if name == "literal" && target == "/v1/literal" {
				want = 200
			}
			if w := do(mux, "GET", target, ""); w.Code != want {
				t.Errorf("%s offered, GET %s: status %d, want %d", name, target, w.Code, want)
			}
		}
		if n := len(mux.Bindings()); n != map[string]int{"nothing": 0, "literal": 1}[name] {
			t.Errorf("%s offered: %d bindings", name, n)
		}
	}
}

// ruled is a method with a rule, in a message with fields name, part.name and list.
func ruled(t *testing.T, rule *annotations.HttpRule) protoreflect.MethodDescriptor {
	t.Helper()
	options := new(descriptorpb.MethodOptions)
	proto.SetExtension(options, annotations.E_Http, rule)
	field := func(name string, number int32, kind descriptorpb.FieldDescriptorProto_Type, label descriptorpb.FieldDescriptorProto_Label) *descriptorpb.FieldDescriptorProto {
		f := &descriptorpb.FieldDescriptorProto{Name: &name, Number: &number, Type: &kind, Label: &label}
		if kind == descriptorpb.FieldDescriptorProto_TYPE_MESSAGE {
			f.TypeName = proto.String(".r.v1.Part")
		}
		return f
	}
	const text, message = descriptorpb.FieldDescriptorProto_TYPE_STRING, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE
	const one, many = descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL, descriptorpb.FieldDescriptorProto_LABEL_REPEATED
	file := &descriptorpb.FileDescriptorProto{
		Name: proto.String("r.proto"), Package: proto.String("r.v1"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{
			{Name: proto.String("Part"), Field: []*descriptorpb.FieldDescriptorProto{field("name", 1, text, one)}},
			{Name: proto.String("In"), Field: []*descriptorpb.FieldDescriptorProto{field("name", 1, text, one), field("part", 2, message, one), field("list", 3, text, many)}},
		},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("S"), Method: []*descriptorpb.MethodDescriptorProto{{
			Name: proto.String("M"), InputType: proto.String(".r.v1.In"), OutputType: proto.String(".r.v1.In"), Options: options,
		}}}},
	}
	c := contractOf(t, &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{file}}, "r.v1.S")
	return c.Services[0].Methods().Get(0)
}

func get(path string) *annotations.HttpRule {
	return &annotations.HttpRule{Pattern: &annotations.HttpRule_Get{Get: path}}
}

func TestABrokenRuleIsNamed(t *testing.T) {
	post := func(path, body string) *annotations.HttpRule {
		return &annotations.HttpRule{Pattern: &annotations.HttpRule_Post{Post: path}, Body: body}
	}
	nested := get("/v1/a")
	nested.AdditionalBindings = []*annotations.HttpRule{{Pattern: nested.Pattern, AdditionalBindings: []*annotations.HttpRule{get("/v1/b")}}}
	answer := get("/v1/a")
	answer.ResponseBody = "nmae"
	for _, test := range []struct {
		rule *annotations.HttpRule
		want string
	}{
		{get("v1/a"), "no leading /"},
		{get("/v1/{name"), "unterminated"},
		{get("/v1/{nmae}"), `unknown field "nmae"`},
		{get("/v1/{name.x}"), `field "name" has no fields`},
		{get("/v1/{part}"), "name one of its fields"},
		{get("/v1/{list}"), "repeated"},
		{get("/v1/{name}/{name}"), "twice"},
		{get("/v1/**/**"), "twice"},
		{post("/v1/{name}", "name"), "both in the path and in the body"},
		{post("/v1/a", "nmae"), `body: unknown field "nmae"`},
		{answer, `response_body: "nmae"`},
		{nested, "additional bindings of its own"},
		{&annotations.HttpRule{}, "no HTTP method"},
		{&annotations.HttpRule{Pattern: &annotations.HttpRule_Custom{Custom: &annotations.CustomHttpPattern{Kind: "A B", Path: "/"}}}, "no HTTP method"},
	} {
		_, err := transcode.Bindings(ruled(t, test.rule))
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "r.v1.S.M") {
			t.Errorf("%v: %v, want %q and the method", test.rule, err, test.want)
		}
	}
}

func TestAnyMethodIsServedForTheKindStar(t *testing.T) {
	method := ruled(t, &annotations.HttpRule{Pattern: &annotations.HttpRule_Custom{Custom: &annotations.CustomHttpPattern{Kind: "*", Path: "/v1/any"}}})
	bindings, err := transcode.Bindings(method)
	if err != nil || len(bindings) != 1 || bindings[0].HTTPMethod != "*" || bindings[0].Implicit {
		t.Errorf("bindings %v, %v", bindings, err)
	}
	files := new(filesOf)
	if err := files.RegisterFile(method.ParentFile()); err != nil {
		t.Fatal(err)
	}
	mux, err := transcode.New(transcode.Config{Services: []transcode.Service{{Name: "r", Conn: echo{}, Offers: everyMethod, Contract: &contract.Contract{
		Files: files, Types: dynamicpb.NewTypes(files), Services: []serviceDescriptor{method.ParentFile().Services().Get(0)},
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, httpMethod := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} {
		if w := do(mux, httpMethod, "/v1/any", ""); w.Code != 200 {
			t.Errorf("%s: status %d", httpMethod, w.Code)
		}
	}
}

// A contract of another program must not take all memory.
func TestRoutesAreBounded(t *testing.T) {
	rule := &annotations.HttpRule{Pattern: &annotations.HttpRule_Get{Get: "/v1/first"}}
	for i := range 400 {
		for _, template := range []string{"/a%d/b", "/{name}/c%d"} {
			rule.AdditionalBindings = append(rule.AdditionalBindings, &annotations.HttpRule{Pattern: &annotations.HttpRule_Get{Get: fmt.Sprintf(template, i)}})
		}
	}
	method := ruled(t, rule)
	set := &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{protodesc.ToFileDescriptorProto(method.ParentFile())}}
	_, err := transcode.New(transcode.Config{Services: []transcode.Service{{Name: "r", Conn: echo{}, Offers: everyMethod, Contract: contractOf(t, set, "r.v1.S")}}})
	if err == nil || !strings.Contains(err.Error(), "161201 routes") {
		t.Errorf("%v", err)
	}
}

func TestAFieldMayHaveAnyNameInJSON(t *testing.T) {
	method := ruled(t, &annotations.HttpRule{Pattern: &annotations.HttpRule_Post{Post: "/v1/any"}, Body: "list", ResponseBody: "list"})
	file := protodesc.ToFileDescriptorProto(method.ParentFile())
	file.MessageType[1].Field[2].JsonName = proto.String("a\"b\\:")
	mux, err := transcode.New(transcode.Config{Services: []transcode.Service{{
		Name: "r", Conn: echo{}, Offers: everyMethod, Contract: contractOf(t, &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{file}}, "r.v1.S"),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if w := do(mux, "POST", "/v1/any", `["x", "y"]`); w.Code != 200 || w.Body.String() != `["x","y"]` {
		t.Errorf("status %d, %s", w.Code, w.Body)
	}
	if p := problemIn(t, do(mux, "POST", "/v1/any", `["x", 5]`)); p.Field != `["a\"b\\:"][1]` {
		t.Errorf("problem %+v", p)
	}
}

func TestAMuxThatCannotServeIsRefused(t *testing.T) {
	service := transcode.Service{Name: "forms", Conn: new(backend).serve(t), Contract: formsContract(t), Offers: everyMethod}
	other := service
	other.Name = "other"
	for _, test := range []struct {
		config transcode.Config
		want   string
	}{
		{transcode.Config{Services: []transcode.Service{service, other}}, `services "forms" and "other"`},
		{transcode.Config{Services: []transcode.Service{{Name: "empty"}}}, `service "empty" has no connection`},
		{transcode.Config{Headers: []string{"Grpc-Status"}}, `"Grpc-Status"`},
		{transcode.Config{Headers: []string{"x-meshlite-subject"}}, `"x-meshlite-subject"`},
		{transcode.Config{Headers: []string{"Content-Length"}}, `"Content-Length"`},
		{transcode.Config{Timeout: -time.Second}, "Config.Timeout"},
		{transcode.Config{MaxDepth: -1}, "Config.MaxDepth"},
	} {
		if _, err := transcode.New(test.config); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("error %v, want %q", err, test.want)
		}
	}
}
