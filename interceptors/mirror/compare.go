package mirror

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/anypb"
)

// The paths of what is no field.
const (
	statusPath  = "(status)"
	wirePath    = "(encoding)" // it cannot be decoded
	unknownName = "(unknown fields)"
)

const (
	maxValue = 64  // bytes of a value that is shown
	maxDepth = 32  // of messages that are compared field by field
	maxFound = 256 // paths of one answer
)

const redacted = "(redacted)"

// values are those of both answers at one path.
type values struct{ caller, copy string }

// comparison finds where two answers differ.
type comparison struct {
	ignored map[string]bool
	found   map[string]values
}

// differences are those between the caller's answer and that of the copy, by path.
func (c *copied) differences(answer []byte, code codes.Code) map[string]values {
	diff := comparison{c.ignored, map[string]values{}}
	switch {
	case code != c.code:
		diff.add(statusPath, c.code.String(), code.String())
	case code != codes.OK || bytes.Equal(c.answer, answer):
	default:
		own, other := c.reply.New(), c.reply.New()
		ownErr, otherErr := decoding.Unmarshal(c.answer, own.Interface()), decoding.Unmarshal(answer, other.Interface())
		if ownErr != nil || otherErr != nil {
			diff.add(wirePath, decoded(ownErr), decoded(otherErr))
			break
		}
		diff.messages("", own, other, false, 0)
	}
	return diff.found
}

// decoding takes what a server leaves out, as a caller's codec need not.
var decoding = proto.UnmarshalOptions{AllowPartial: true}

func decoded(err error) string {
	if err != nil {
		return "cannot be decoded"
	}
	return "can be decoded"
}

func (d *comparison) add(path, own, other string) {
	if _, ok := d.found[path]; ok || len(d.found) >= maxFound {
		return
	}
	d.found[path] = values{own, other}
}

// messages compares field by field. hidden is that a field above is redacted.
func (d *comparison) messages(path string, own, other protoreflect.Message, hidden bool, depth int) {
	if depth > maxDepth {
		if !proto.Equal(own.Interface(), other.Interface()) {
			d.add(path, "a message", "another")
		}
		return
	}
	if own.Descriptor().FullName() == "google.protobuf.Any" {
		d.anys(path, own, other, hidden, depth)
		return
	}
	fields := own.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		at := join(path, string(field.Name()))
		if d.ignored[at] || !own.Has(field) && !other.Has(field) {
			continue
		}
		d.field(at, field, own, other, hidden || isRedacted(field.Options()), depth)
	}
	for _, m := range []protoreflect.Message{own, other} {
		m.Range(func(field protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
			if at := join(path, "["+string(field.FullName())+"]"); field.IsExtension() && !d.ignored[at] {
				d.field(at, field, own, other, hidden || isRedacted(field.Options()), depth)
			}
			return true
		})
	}
	if a, b := own.GetUnknown(), other.GetUnknown(); !bytes.Equal(a, b) {
		d.add(join(path, unknownName), size(len(a)), size(len(b)))
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func (d *comparison) field(path string, field protoreflect.FieldDescriptor, own, other protoreflect.Message, hidden bool, depth int) {
	a, b := own.Get(field), other.Get(field)
	switch {
	case field.IsList():
		d.lists(path, field, a.List(), b.List(), hidden, depth)
	case field.IsMap():
		d.maps(path, field.MapValue(), a.Map(), b.Map(), hidden, depth)
	case own.Has(field) != other.Has(field):
		d.add(path, presence(field, own, hidden), presence(field, other, hidden))
	default:
		d.value(path, field, a, b, hidden, depth)
	}
}

func (d *comparison) lists(path string, field protoreflect.FieldDescriptor, a, b protoreflect.List, hidden bool, depth int) {
	if a.Len() != b.Len() {
		d.add(path, shown(items(a.Len()), hidden), shown(items(b.Len()), hidden))
		return
	}
	for i := range a.Len() {
		d.value(path, field, a.Get(i), b.Get(i), hidden, depth)
	}
}

func (d *comparison) maps(path string, field protoreflect.FieldDescriptor, a, b protoreflect.Map, hidden bool, depth int) {
	if a.Len() != b.Len() {
		d.add(path, shown(items(a.Len()), hidden), shown(items(b.Len()), hidden))
		return
	}
	a.Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
		if b.Has(key) {
			d.value(path, field, value, b.Get(key), hidden, depth)
		} else {
			d.add(path, "a key", "without it")
		}
		return true
	})
}

// value compares single values.
func (d *comparison) value(path string, field protoreflect.FieldDescriptor, a, b protoreflect.Value, hidden bool, depth int) {
	switch {
	case field.Message() != nil:
		d.messages(path, a.Message(), b.Message(), hidden, depth+1)
	case !a.Equal(b):
		d.add(path, text(field, a, hidden), text(field, b, hidden))
	}
}

// anys compares what is packed, if this program knows its type.
func (d *comparison) anys(path string, own, other protoreflect.Message, hidden bool, depth int) {
	a, b := anyOf(own), anyOf(other)
	switch {
	case a.GetTypeUrl() != b.GetTypeUrl():
		d.add(path, shown(strconv.Quote(cut(a.GetTypeUrl(), maxValue)), hidden), shown(strconv.Quote(cut(b.GetTypeUrl(), maxValue)), hidden))
	case bytes.Equal(a.GetValue(), b.GetValue()):
	default:
		x, errX := a.UnmarshalNew()
		y, errY := b.UnmarshalNew()
		if errX != nil || errY != nil {
			d.add(path, size(len(a.GetValue())), size(len(b.GetValue())))
			return
		}
		d.messages(path, x.ProtoReflect(), y.ProtoReflect(), hidden, depth+1)
	}
}

// anyOf reads an Any, which may be dynamic.
func anyOf(m protoreflect.Message) *anypb.Any {
	fields := m.Descriptor().Fields()
	return &anypb.Any{TypeUrl: m.Get(fields.ByNumber(1)).String(), Value: m.Get(fields.ByNumber(2)).Bytes()}
}

func isRedacted(options protoreflect.ProtoMessage) bool {
	switch o := options.(type) {
	case *descriptorpb.FieldOptions:
		return o.GetDebugRedact()
	case *descriptorpb.EnumValueOptions:
		return o.GetDebugRedact()
	}
	return false
}

// presence is the value of a field that one of both messages does not have.
func presence(field protoreflect.FieldDescriptor, m protoreflect.Message, hidden bool) string {
	switch {
	case !m.Has(field) && field.HasPresence():
		return "not set"
	case field.Message() != nil:
		return "set"
	default:
		return text(field, m.Get(field), hidden)
	}
}

// text shows a value.
func text(field protoreflect.FieldDescriptor, value protoreflect.Value, hidden bool) string {
	switch field.Kind() {
	case protoreflect.StringKind:
		return shown(strconv.Quote(cut(value.String(), maxValue)), hidden)
	case protoreflect.BytesKind:
		return shown(size(len(value.Bytes())), hidden)
	case protoreflect.EnumKind:
		if known := field.Enum().Values().ByNumber(value.Enum()); known != nil {
			return shown(string(known.Name()), hidden || isRedacted(known.Options()))
		}
		return shown(fmt.Sprint(value.Enum()), hidden)
	default:
		return shown(value.String(), hidden)
	}
}

func shown(text string, hidden bool) string {
	if hidden {
		return redacted
	}
	return text
}

func size(bytes int) string { return fmt.Sprintf("%d bytes", bytes) }

func items(n int) string { return fmt.Sprintf("%d items", n) }

// cut shortens text to most bytes.
func cut(text string, most int) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) <= most {
		return text
	}
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	return text[:most] + "..."
}
