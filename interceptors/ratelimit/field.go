package ratelimit

import (
	"context"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meshlite-go/meshlite/interceptors"
)

// fieldKey is nil where the request's type is not known.
func fieldKey(seeds *seeds, method protoreflect.MethodDescriptor, text string) (of finder, named func(string) (key, error)) {
	if method == nil {
		return nil, nil
	}
	path, err := interceptors.FieldPath(method.Input(), text)
	if err != nil {
		return nil, nil
	}
	of = func(_ context.Context, req any) (key, error) {
		if message, ok := req.(proto.Message); ok {
			return seeds.hashField(message.ProtoReflect(), path), nil
		}
		return key{}, nil
	}
	return of, func(value string) (key, error) {
		if !isText(path[len(path)-1]) {
			return key{}, errNotText
		}
		return seeds.hash(value), nil
	}
}

func isText(field protoreflect.FieldDescriptor) bool {
	return field.Kind() == protoreflect.StringKind && !field.IsList()
}

// hashField takes a field that is absent for one without a value.
func (s *seeds) hashField(m protoreflect.Message, path []protoreflect.FieldDescriptor) key {
	for i, step := range path {
		// By number: a dynamic message has descriptors of its own.
		field := m.Descriptor().Fields().ByNumber(step.Number())
		if field == nil || field.Kind() != step.Kind() || field.Cardinality() != step.Cardinality() || !m.Has(field) {
			return key{}
		}
		if i < len(path)-1 {
			m = m.Get(field).Message()
			continue
		}
		if isText(field) {
			return s.hash(m.Get(field).String())
		}
		return s.hashLeaf(m, field)
	}
	return key{}
}

// hashLeaf takes the bytes of a message that has field and nothing else.
func (s *seeds) hashLeaf(m protoreflect.Message, field protoreflect.FieldDescriptor) key {
	only := m.New()
	only.Set(field, m.Get(field))
	bytes, _ := proto.MarshalOptions{Deterministic: true, AllowPartial: true}.Marshal(only.Interface())
	return s.hashBytes(bytes)
}
