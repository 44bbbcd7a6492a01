package cache

import "google.golang.org/protobuf/reflect/protoreflect"

// hasUnknown reports whether m or a message in it holds fields that its contract
// does not have.
func hasUnknown(m protoreflect.Message) bool {
	if len(m.GetUnknown()) > 0 {
		return true
	}
	if isFlat(m.Descriptor()) {
		return false
	}
	found := false
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		found = valueHasUnknown(field, value)
		return !found
	})
	return found
}

// isFlat reports whether messages of this type hold no other messages.
func isFlat(d protoreflect.MessageDescriptor) bool {
	for i := range d.Fields().Len() {
		if d.Fields().Get(i).Message() != nil {
			return false
		}
	}
	return d.ExtensionRanges().Len() == 0
}

func valueHasUnknown(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
	found := false
	switch {
	case field.Message() == nil, field.IsMap() && field.MapValue().Message() == nil:
	case field.IsMap():
		value.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
			found = hasUnknown(v.Message())
			return !found
		})
	case field.IsList():
		for i := 0; i < value.List().Len() && !found; i++ {
			found = hasUnknown(value.List().Get(i).Message())
		}
	default:
		found = hasUnknown(value.Message())
	}
	return found
}
