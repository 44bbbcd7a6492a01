package openapi

import (
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// examples makes values that protojson accepts, for the fields that request leaves to them.
type examples struct {
	request *request
	left    int // fields that may still be added
}

// deepest is how far messages of an example are nested.
const deepest = 6

// message returns a value of m, which is at path. It has no field that the path of the
// request sets, that is deprecated or that only answers have, and one member of each oneof.
func (e *examples) message(m protoreflect.MessageDescriptor, above []protoreflect.MessageDescriptor, path string) any {
	if v, ok := wellKnownExample(m, above); ok {
		return v
	}
	above = append(slices.Clip(above), m)
	object := members[any]{}
	var chosen []protoreflect.FullName
	for f := range each(m.Fields()) {
		if e.request.bound[path+string(f.Name())] || !e.worth(f, above) {
			continue
		}
		if o := oneofOf(f); o != nil {
			if slices.Contains(chosen, o.FullName()) || !e.request.free(path, f) {
				continue
			}
			chosen = append(chosen, o.FullName())
		}
		e.left--
		object.add(f.JSONName(), e.field(f, above, path))
	}
	return object
}

// free reports whether the examples may set f below path.
func (r *request) free(path string, f protoreflect.FieldDescriptor) bool {
	member, set := r.chosen[path+string(oneofOf(f).Name())]
	return !set || member == f.Name()
}

// worth reports whether f belongs into an example inside of above.
func (e *examples) worth(f protoreflect.FieldDescriptor, above []protoreflect.MessageDescriptor) bool {
	if required(f) && len(above) < 4*deepest {
		return true
	}
	if e.left <= 0 || deprecated(f) || behaves(f, annotations.FieldBehavior_OUTPUT_ONLY) {
		return false
	}
	m := f.Message()
	if f.IsMap() {
		m = f.MapValue().Message()
	}
	return m == nil || len(above) < deepest && !slices.ContainsFunc(above, func(a protoreflect.MessageDescriptor) bool {
		return a.FullName() == m.FullName()
	})
}

// field returns a value of f, which is inside of above, at path.
func (e *examples) field(f protoreflect.FieldDescriptor, above []protoreflect.MessageDescriptor, path string) any {
	// The fields of an element have no path.
	switch {
	case f.IsMap():
		return members[any]{{mapKeyExample(f.MapKey()), e.single(f.MapValue(), above, "[].")}}
	case f.IsList():
		return []any{e.single(f, above, "[].")}
	}
	return e.single(f, above, path+string(f.Name())+".")
}

func (e *examples) single(f protoreflect.FieldDescriptor, above []protoreflect.MessageDescriptor, path string) any {
	switch {
	case f.Message() == nil:
		return scalarExample(f)
	case f.Message().FullName() == "google.protobuf.FieldMask":
		return e.mask(f.ContainingMessage())
	}
	return e.message(f.Message(), above, path)
}

func scalarExample(f protoreflect.FieldDescriptor) any {
	switch f.Kind() {
	case protoreflect.EnumKind:
		return enumExample(f.Enum())
	case protoreflect.MessageKind, protoreflect.GroupKind:
		v, _ := wellKnownExample(f.Message(), nil)
		return v
	}
	return kindExample(f.Kind())
}

func kindExample(k protoreflect.Kind) any {
	switch k {
	case protoreflect.BoolKind:
		return true
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind, protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return "1"
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return 1.5
	case protoreflect.StringKind:
		return "string"
	case protoreflect.BytesKind:
		return "aGVsbG8="
	}
	return 1
}

func mapKeyExample(f protoreflect.FieldDescriptor) string {
	switch f.Kind() {
	case protoreflect.StringKind:
		return "key"
	case protoreflect.BoolKind:
		return "true"
	}
	return "1"
}

// enumExample prefers a value that says something: not the zero, not a deprecated one.
func enumExample(e protoreflect.EnumDescriptor) any {
	if e.FullName() == "google.protobuf.NullValue" {
		return nil
	}
	for v := range each(e.Values()) {
		if v.Number() != 0 && !deprecated(v) {
			return string(v.Name())
		}
	}
	return string(e.Values().Get(0).Name())
}

// wellKnownExample returns a value of a message that protojson writes in its own way.
func wellKnownExample(m protoreflect.MessageDescriptor, above []protoreflect.MessageDescriptor) (any, bool) {
	if kind, ok := wrapped[m.FullName()]; ok {
		return kindExample(kind), true
	}
	switch m.FullName() {
	case "google.protobuf.Timestamp":
		return "2026-01-02T03:04:05Z", true
	case "google.protobuf.Duration":
		return "1.5s", true
	case "google.protobuf.FieldMask":
		return "name", true
	case "google.protobuf.Struct":
		return members[any]{{"key", "value"}}, true
	case "google.protobuf.Value":
		return "value", true
	case "google.protobuf.ListValue":
		return []any{"value"}, true
	case "google.protobuf.Empty":
		return members[any]{}, true
	case "google.protobuf.Any":
		return anyExample(above), true
	}
	return nil, false
}

// anyExample returns an Any of the message around it, whose type is known wherever the
// example is read.
func anyExample(above []protoreflect.MessageDescriptor) any {
	if len(above) == 0 || above[len(above)-1].RequiredNumbers().Len() > 0 {
		return members[any]{}
	}
	return members[any]{{"@type", "type.googleapis.com/" + string(above[len(above)-1].FullName())}}
}

// mask names a field of the message beside the mask, since such a mask says what of it is
// to change.
func (e *examples) mask(m protoreflect.MessageDescriptor) string {
	for beside := range each(m.Fields()) {
		inner := plainMessage(beside)
		if inner == nil {
			continue
		}
		for f := range each(inner.Fields()) {
			bound := e.request.bound[pathOf([]protoreflect.FieldDescriptor{beside, f})]
			if plain := !strings.Contains(string(f.Name()), "_"); plain && !bound { // the same in a query and in JSON
				return f.JSONName()
			}
		}
	}
	return "name"
}
