package interceptors

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// Tag names answers that are invalidated together: "sweets", or "sweet:{id}" with fields
// of the request in braces, by path.
type Tag struct {
	texts  []string // around the fields, one more of them
	fields [][]protoreflect.FieldDescriptor
}

// ParseTag reads the tag of a method, which may be nil if the tag has no fields. Fields
// are singular and no messages.
func ParseTag(method protoreflect.MethodDescriptor, text string) (*Tag, error) {
	if text == "" {
		return nil, fmt.Errorf("%q is no tag: write a name, such as \"sweets\" or \"sweet:{id}\"", text)
	}
	t := &Tag{}
	for {
		before, rest, opened := strings.Cut(text, "{")
		if strings.Contains(before, "}") {
			return nil, fmt.Errorf("%q closes a brace that is not open: write {field}", text)
		}
		t.texts = append(t.texts, before)
		if !opened {
			return t, nil
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed {
			return nil, fmt.Errorf("%q opens a brace and does not close it: write {field}", text)
		}
		field, err := tagField(method, name)
		if err != nil {
			return nil, err
		}
		t.fields = append(t.fields, field)
		text = after
	}
}

func tagField(method protoreflect.MethodDescriptor, name string) ([]protoreflect.FieldDescriptor, error) {
	if method == nil {
		return nil, fmt.Errorf("{%s}: the contract of the method is not linked: write tags without fields", name)
	}
	path, err := FieldPath(method.Input(), name)
	if err != nil {
		return nil, err
	}
	if last := path[len(path)-1]; last.Message() != nil || last.IsList() {
		return nil, fmt.Errorf("{%s}: it is no single value: name a field of it", name)
	}
	return path, nil
}

// Literal reports whether the tag is the same for all requests.
func (t *Tag) Literal() bool { return len(t.fields) == 0 }

// Of is the tag of one request. A field that is absent has its default, and so has one
// that a dynamic message of another shape does not have.
func (t *Tag) Of(request protoreflect.Message) string {
	var tag strings.Builder
	for i, path := range t.fields {
		tag.WriteString(t.texts[i])
		tag.WriteString(valueAt(request, path))
	}
	tag.WriteString(t.texts[len(t.fields)])
	return tag.String()
}

func valueAt(m protoreflect.Message, path []protoreflect.FieldDescriptor) string {
	for i, step := range path {
		field := m.Descriptor().Fields().ByNumber(step.Number())
		switch {
		case field == nil || field.Kind() != step.Kind() || field.Cardinality() != step.Cardinality():
			return path[len(path)-1].Default().String()
		case i < len(path)-1:
			m = m.Get(field).Message()
		case field.Kind() == protoreflect.BytesKind:
			return string(m.Get(field).Bytes())
		default:
			return m.Get(field).String()
		}
	}
	return ""
}

// QualifiedMethod is the full name of the method that a rule of service names: of the
// service itself, or "package.Service/Method".
func QualifiedMethod(service, name string) string {
	if strings.Contains(name, "/") {
		return name
	}
	return service + "/" + name
}
