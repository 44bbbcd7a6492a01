package transcode

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// Binding is one way to call a method over HTTP.
type Binding struct {
	Method       protoreflect.MethodDescriptor
	HTTPMethod   string // "GET"; "*" is any
	Template     string // "/v1/{name=shelves/*}:move"
	Body         string // "", "*" or a field
	ResponseBody string // "" or a field
	Implicit     bool   // POST (and, if NO_SIDE_EFFECTS, GET) /package.Service/Method of a method without a rule
}

// String is "GET /v1/{name=shelves/*}".
func (b Binding) String() string { return b.HTTPMethod + " " + b.Template }

// Bindings returns the ways to call method that its google.api.http rule declares, in its
// order, or the implicit ones if it has no rule. An error names the method and what is wrong
// in its rule.
func Bindings(method protoreflect.MethodDescriptor) ([]Binding, error) {
	rule, err := ruleOf(method)
	if err != nil {
		return nil, fmt.Errorf("transcode: %s: its option google.api.http cannot be read: %w", method.FullName(), err)
	}
	if rule == nil {
		return implicitBindings(method), nil
	}
	var all []Binding
	for i, r := range append([]*annotations.HttpRule{rule}, rule.GetAdditionalBindings()...) {
		if i > 0 && len(r.GetAdditionalBindings()) > 0 {
			return nil, fmt.Errorf("transcode: %s: additional binding %d has additional bindings of its own: write them beside it", method.FullName(), i)
		}
		b, err := bindingOf(method, r)
		if err == nil {
			err = b.check()
		}
		if err != nil {
			return nil, fmt.Errorf("transcode: %s: binding %d of its option google.api.http, %q: %w", method.FullName(), i, b, err)
		}
		all = append(all, b)
	}
	return all, nil
}

// ruleOf reads the option from its bytes, since the descriptor of a contract may hold it as an
// unknown field or as a dynamic message.
func ruleOf(method protoreflect.MethodDescriptor) (*annotations.HttpRule, error) {
	raw, err := proto.MarshalOptions{AllowPartial: true}.Marshal(method.Options())
	if err != nil || len(raw) == 0 {
		return nil, err
	}
	var options descriptorpb.MethodOptions
	if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(raw, &options); err != nil {
		return nil, err
	}
	if !proto.HasExtension(&options, annotations.E_Http) {
		return nil, nil
	}
	return proto.GetExtension(&options, annotations.E_Http).(*annotations.HttpRule), nil
}

func implicitBindings(method protoreflect.MethodDescriptor) []Binding {
	post := Binding{Method: method, HTTPMethod: http.MethodPost, Template: pathOf(method), Body: "*", Implicit: true}
	if !hasNoSideEffects(method) || method.IsStreamingClient() {
		return []Binding{post}
	}
	get := post
	get.HTTPMethod, get.Body = http.MethodGet, ""
	return []Binding{post, get}
}

// pathOf is what gRPC calls the method by.
func pathOf(method protoreflect.MethodDescriptor) string {
	return "/" + string(method.Parent().FullName()) + "/" + string(method.Name())
}

func hasNoSideEffects(method protoreflect.MethodDescriptor) bool {
	options, ok := method.Options().(*descriptorpb.MethodOptions)
	return ok && options.GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS
}

func bindingOf(method protoreflect.MethodDescriptor, rule *annotations.HttpRule) (Binding, error) {
	b := Binding{Method: method, Body: rule.GetBody(), ResponseBody: rule.GetResponseBody()}
	switch pattern := rule.GetPattern().(type) {
	case *annotations.HttpRule_Get:
		b.HTTPMethod, b.Template = http.MethodGet, pattern.Get
	case *annotations.HttpRule_Put:
		b.HTTPMethod, b.Template = http.MethodPut, pattern.Put
	case *annotations.HttpRule_Post:
		b.HTTPMethod, b.Template = http.MethodPost, pattern.Post
	case *annotations.HttpRule_Delete:
		b.HTTPMethod, b.Template = http.MethodDelete, pattern.Delete
	case *annotations.HttpRule_Patch:
		b.HTTPMethod, b.Template = http.MethodPatch, pattern.Patch
	case *annotations.HttpRule_Custom:
		b.HTTPMethod, b.Template = pattern.Custom.GetKind(), pattern.Custom.GetPath()
	default:
		return b, errors.New("no HTTP method: set get, put, post, delete, patch or custom")
	}
	return b, nil
}

var (
	token    = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$") // RFC 9110, 5.6.2
	variable = regexp.MustCompile(`\{([^}=]*)`)
)

// variables are the paths of the fields that the template binds.
func (b Binding) variables() []string {
	var paths []string
	for _, match := range variable.FindAllStringSubmatch(b.Template, -1) {
		paths = append(paths, match[1])
	}
	return paths
}

// check finds what would make each call through the binding fail.
func (b Binding) check() error {
	if !token.MatchString(b.HTTPMethod) {
		return fmt.Errorf("%q is no HTTP method", b.HTTPMethod)
	}
	if err := checkTemplate(b.Template); err != nil {
		return err
	}
	bound := map[string]bool{}
	for _, path := range b.variables() {
		fields, err := fieldsOf(b.Method.Input(), path)
		if err != nil {
			return err
		}
		last := fields[len(fields)-1]
		switch {
		case bound[path]:
			return fmt.Errorf("the path has field %q twice", path)
		case path == b.Body:
			return fmt.Errorf("field %q is both in the path and in the body", path)
		case last.IsMap() || last.IsList():
			return fmt.Errorf("field %q in the path is repeated: a path holds one value", path)
		case last.Message() != nil && !isParsedFromText(last.Message()):
			return fmt.Errorf("field %q in the path is a %s: name one of its fields", path, last.Message().FullName())
		}
		bound[path] = true
	}
	if b.Body != "" && b.Body != "*" {
		if _, err := fieldsOf(b.Method.Input(), b.Body); err != nil {
			return fmt.Errorf("body: %w", err)
		}
	}
	if b.ResponseBody != "" {
		if fields, err := fieldsOf(b.Method.Output(), b.ResponseBody); err != nil || len(fields) > 1 {
			return fmt.Errorf("response_body: %q is no field of %s", b.ResponseBody, b.Method.Output().FullName())
		}
	}
	return nil
}

// checkTemplate has the runtime parse it, whose parser is internal.
func checkTemplate(template string) error {
	if strings.Count(template, "**") > 1 {
		return errors.New("** is twice in the path: it may be there once")
	}
	return runtime.NewServeMux().HandlePath(http.MethodGet, template, nil)
}

// fieldsOf are the fields on the way to path, each a singular message but for the last.
func fieldsOf(message protoreflect.MessageDescriptor, path string) ([]protoreflect.FieldDescriptor, error) {
	var way []protoreflect.FieldDescriptor
	for name := range strings.SplitSeq(path, ".") {
		if len(way) > 0 {
			above := way[len(way)-1]
			if message = above.Message(); message == nil || above.Cardinality() == protoreflect.Repeated {
				return nil, fmt.Errorf("%q: field %q has no fields of its own", path, above.Name())
			}
		}
		field := fieldNamed(message, name)
		if field == nil {
			return nil, fmt.Errorf("unknown field %q of %s", path, message.FullName())
		}
		way = append(way, field)
	}
	return way, nil
}

// fieldNamed finds a field by the name in the contract or in JSON.
func fieldNamed(message protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	if field := message.Fields().ByTextName(name); field != nil {
		return field
	}
	return message.Fields().ByJSONName(name)
}

// isParsedFromText reports whether the message is written as one value in a path or a query.
func isParsedFromText(message protoreflect.MessageDescriptor) bool {
	switch message.FullName() {
	case "google.protobuf.Timestamp", "google.protobuf.Duration", "google.protobuf.FieldMask", "google.protobuf.Value",
		"google.protobuf.Struct", "google.protobuf.Empty", "google.protobuf.DoubleValue", "google.protobuf.FloatValue",
		"google.protobuf.Int64Value", "google.protobuf.Int32Value", "google.protobuf.UInt64Value", "google.protobuf.UInt32Value",
		"google.protobuf.BoolValue", "google.protobuf.StringValue", "google.protobuf.BytesValue":
		return true
	}
	return false
}
