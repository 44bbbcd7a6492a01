package openapi

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// schema is a JSON Schema, as far as messages need one.
type schema struct {
	Ref                  string           `json:"$ref,omitempty"`
	Type                 any              `json:"type,omitempty"` // a string, or several
	Format               string           `json:"format,omitempty"`
	Description          string           `json:"description,omitempty"`
	Deprecated           bool             `json:"deprecated,omitempty"`
	ReadOnly             bool             `json:"readOnly,omitempty"`
	WriteOnly            bool             `json:"writeOnly,omitempty"`
	Enum                 []string         `json:"enum,omitempty"`
	Pattern              string           `json:"pattern,omitempty"`
	ContentEncoding      string           `json:"contentEncoding,omitempty"`
	Minimum              *int             `json:"minimum,omitempty"`
	Items                *schema          `json:"items,omitempty"`
	Required             []string         `json:"required,omitempty"`
	Properties           members[*schema] `json:"properties,omitempty"`
	PropertyNames        *schema          `json:"propertyNames,omitempty"`
	AdditionalProperties *schema          `json:"additionalProperties,omitempty"`
	Examples             []any            `json:"examples,omitempty"`
}

// componentRef refers to the schema of that name.
func componentRef(name string) *schema { return &schema{Ref: "#/components/schemas/" + name} }

// message returns a reference to the schema of m, which it adds if it is new.
func (d *builder) message(m protoreflect.MessageDescriptor) *schema {
	name := m.FullName()
	if d.schemas[name] != nil {
		return componentRef(string(name))
	}
	if s := wellKnown(name); s != nil {
		d.schemas[name] = s
		return componentRef(string(name))
	}
	s := &schema{Type: "object", Description: comment(m), Deprecated: deprecated(m)}
	d.schemas[name] = s // before its fields, which may refer to it
	for f := range each(m.Fields()) {
		s.Properties.add(f.JSONName(), d.field(f))
		if required(f) {
			s.Required = append(s.Required, f.JSONName())
		}
	}
	return componentRef(string(name))
}

// field returns the schema of f's value, with what its comment and its options say.
func (d *builder) field(f protoreflect.FieldDescriptor) *schema {
	s := d.value(f)
	s.Description = paragraphs(comment(f), oneofNote(f), s.Description)
	s.Deprecated = deprecated(f)
	s.ReadOnly = behaves(f, annotations.FieldBehavior_OUTPUT_ONLY)
	s.WriteOnly = behaves(f, annotations.FieldBehavior_INPUT_ONLY)
	return s
}

func (d *builder) value(f protoreflect.FieldDescriptor) *schema {
	switch {
	case f.IsMap():
		return &schema{Type: "object", PropertyNames: mapKey(f.MapKey()), AdditionalProperties: d.single(f.MapValue())}
	case f.IsList():
		return &schema{Type: "array", Items: d.single(f)}
	}
	return d.single(f)
}

// single returns the schema of one value of f.
func (d *builder) single(f protoreflect.FieldDescriptor) *schema {
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return d.message(f.Message())
	case protoreflect.EnumKind:
		return d.enum(f.Enum())
	}
	return scalar(f.Kind())
}

func (d *builder) enum(e protoreflect.EnumDescriptor) *schema {
	name := e.FullName()
	if d.schemas[name] != nil {
		return componentRef(string(name))
	}
	if name == "google.protobuf.NullValue" {
		d.schemas[name] = &schema{Type: "null"}
		return componentRef(string(name))
	}
	s := &schema{Type: "string", Deprecated: deprecated(e)}
	notes := []string{comment(e)}
	for v := range each(e.Values()) {
		s.Enum = append(s.Enum, string(v.Name()))
		note := comment(v)
		if deprecated(v) {
			note = strings.TrimSpace("Deprecated. " + note)
		}
		if note != "" {
			notes = append(notes, fmt.Sprintf("%s: %s", v.Name(), note))
		}
	}
	s.Description = paragraphs(notes...)
	d.schemas[name] = s
	return componentRef(string(name))
}

const (
	integers = `^-?[0-9]+$`
	floats   = `^(NaN|-?Infinity|-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?)$`
)

// scalar returns the schema of a scalar: numbers of 64 bits are strings, since JavaScript
// rounds them, and are accepted as numbers.
func scalar(k protoreflect.Kind) *schema {
	zero := 0
	switch k {
	case protoreflect.BoolKind:
		return &schema{Type: "boolean"}
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return &schema{Type: "integer", Format: "int32"}
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return &schema{Type: "integer", Format: "uint32", Minimum: &zero}
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return &schema{Type: []string{"string", "integer"}, Format: "int64", Pattern: integers}
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return &schema{Type: []string{"string", "integer"}, Format: "uint64", Pattern: `^[0-9]+$`, Minimum: &zero}
	case protoreflect.FloatKind:
		return &schema{Type: []string{"number", "string"}, Format: "float", Pattern: floats}
	case protoreflect.DoubleKind:
		return &schema{Type: []string{"number", "string"}, Format: "double", Pattern: floats}
	case protoreflect.BytesKind:
		return &schema{Type: "string", ContentEncoding: "base64"}
	default:
		return &schema{Type: "string"}
	}
}

func mapKey(f protoreflect.FieldDescriptor) *schema {
	switch f.Kind() {
	case protoreflect.StringKind:
		return nil
	case protoreflect.BoolKind:
		return &schema{Enum: []string{"true", "false"}}
	}
	return &schema{Pattern: integers}
}

// wrapped is the kind in each wrapper.
var wrapped = map[protoreflect.FullName]protoreflect.Kind{
	"google.protobuf.DoubleValue": protoreflect.DoubleKind,
	"google.protobuf.FloatValue":  protoreflect.FloatKind,
	"google.protobuf.Int64Value":  protoreflect.Int64Kind,
	"google.protobuf.UInt64Value": protoreflect.Uint64Kind,
	"google.protobuf.Int32Value":  protoreflect.Int32Kind,
	"google.protobuf.UInt32Value": protoreflect.Uint32Kind,
	"google.protobuf.BoolValue":   protoreflect.BoolKind,
	"google.protobuf.StringValue": protoreflect.StringKind,
	"google.protobuf.BytesValue":  protoreflect.BytesKind,
}

// wellKnown returns the schema of a message that protojson writes in its own way, or nil.
func wellKnown(name protoreflect.FullName) *schema {
	if kind, ok := wrapped[name]; ok {
		s := scalar(kind)
		if one, ok := s.Type.(string); ok {
			s.Type = []string{one}
		}
		s.Type = append(s.Type.([]string), "null")
		s.Description = "A value that may be null."
		return s
	}
	switch name {
	case "google.protobuf.Timestamp":
		return &schema{Type: "string", Format: "date-time", Description: "A time, such as 2026-01-02T03:04:05Z."}
	case "google.protobuf.Duration":
		return &schema{Type: "string", Pattern: `^-?[0-9]+(\.[0-9]{1,9})?s$`, Description: "A duration in seconds, such as 1.5s."}
	case "google.protobuf.FieldMask":
		return &schema{Type: "string", Description: "Paths of fields in lower camel case, with commas between them."}
	case "google.protobuf.Struct":
		return &schema{Type: "object", Description: "Any JSON object."}
	case "google.protobuf.Value":
		return &schema{Description: "Any JSON value."}
	case "google.protobuf.ListValue":
		return &schema{Type: "array", Items: &schema{}, Description: "Any JSON array."}
	case "google.protobuf.Empty":
		return &schema{Type: "object", Description: "An object without fields."}
	case "google.protobuf.Any":
		return &schema{
			Type:        "object",
			Description: "Any message: its fields, and in @type its name, such as type.googleapis.com/google.rpc.ErrorInfo.",
			Properties:  members[*schema]{{"@type", &schema{Type: "string"}}},
		}
	}
	return nil
}

// oneofNote says which other fields exclude f.
func oneofNote(f protoreflect.FieldDescriptor) string {
	o := oneofOf(f)
	if o == nil || o.Fields().Len() < 2 {
		return ""
	}
	var names []string
	for other := range each(o.Fields()) {
		names = append(names, other.JSONName())
	}
	return fmt.Sprintf("At most one of %s may be set.", strings.Join(names, ", "))
}

// oneofOf returns the oneof that the contract's author wrote around f, or nil.
func oneofOf(f protoreflect.FieldDescriptor) protoreflect.OneofDescriptor {
	if o := f.ContainingOneof(); o != nil && !o.IsSynthetic() {
		return o
	}
	return nil
}

// required reports whether a message without f is refused.
func required(f protoreflect.FieldDescriptor) bool {
	return f.Cardinality() == protoreflect.Required || behaves(f, annotations.FieldBehavior_REQUIRED)
}

// behaves reports whether google.api.field_behavior of f lists b.
func behaves(f protoreflect.FieldDescriptor, b annotations.FieldBehavior) bool {
	o := f.Options()
	if o == nil || !proto.HasExtension(o, annotations.E_FieldBehavior) {
		return false
	}
	list, _ := proto.GetExtension(o, annotations.E_FieldBehavior).([]annotations.FieldBehavior)
	return slices.Contains(list, b)
}

var plainName = regexp.MustCompile(`^[A-Za-z0-9_]+$`)

// queryName is the name of f in a query, where dots and brackets have a meaning.
func queryName(f protoreflect.FieldDescriptor) string {
	if plainName.MatchString(f.JSONName()) {
		return f.JSONName()
	}
	return string(f.Name())
}

// walk returns the fields on the path from m.
func walk(m protoreflect.MessageDescriptor, path string) ([]protoreflect.FieldDescriptor, error) {
	var fields []protoreflect.FieldDescriptor
	for _, name := range strings.Split(path, ".") {
		var f protoreflect.FieldDescriptor
		if m != nil {
			if f = m.Fields().ByTextName(name); f == nil {
				f = m.Fields().ByJSONName(name)
			}
		}
		if f == nil {
			return nil, fmt.Errorf("field %q: there is no %q", path, name)
		}
		fields = append(fields, f)
		m = f.Message()
		if f.Cardinality() == protoreflect.Repeated {
			m = nil
		}
	}
	return fields, nil
}

// each ranges over a list of descriptors.
func each[D any](list interface {
	Len() int
	Get(int) D
}) func(yield func(D) bool) {
	return func(yield func(D) bool) {
		for i := range list.Len() {
			if !yield(list.Get(i)) {
				return
			}
		}
	}
}
