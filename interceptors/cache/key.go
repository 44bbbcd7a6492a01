package cache

import (
	"context"
	"encoding/binary"
	"fmt"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meshlite-go/meshlite/interceptors"
)

// maxPooled is the largest key buffer that is kept for the next call.
const maxPooled = 64 << 10

// metadataValues are the values of a metadata key of one call.
type metadataValues func(key string) []string

// deterministic gives equal messages equal bytes, whatever order their maps have.
var deterministic = proto.MarshalOptions{Deterministic: true}

// key identifies the answer to a call. It reports false for a call that must not
// be served from the cache. Entries are found by the whole key and not by a hash
// of it, so two calls share an answer only if everything that counts is equal.
func (r *rule) key(ctx context.Context, target string, req any) (string, bool) {
	message, ok := req.(proto.Message)
	if !ok || r.closed.Load() || hasUnknown(message.ProtoReflect()) {
		return "", false
	}
	values := r.metadataOf(ctx)
	caller, known := "", r.public
	if !r.public {
		caller, known = r.caller(ctx, values)
	}
	if !known {
		return "", false
	}
	buffer := r.buffers.Get().(*[]byte)
	b := append((*buffer)[:0], byte(r.meta.Side))
	b = appendString(b, r.scope)
	b = appendString(b, target)
	b = appendString(b, r.meta.FullMethod)
	b = r.appendCaller(b, caller)
	b = appendMetadata(b, r.vary, values)
	b, err := r.appendRequest(b, message.ProtoReflect())
	key := string(b)
	if cap(b) <= maxPooled {
		*buffer = b
		r.buffers.Put(buffer)
	}
	return key, err == nil
}

// metadataOf reads the metadata that the caller sends with a call.
func (r *rule) metadataOf(ctx context.Context) metadataValues {
	if r.meta.Side == interceptors.Server {
		return func(key string) []string { return metadata.ValueFromIncomingContext(ctx, key) }
	}
	if len(r.vary) == 0 {
		return nil // public answers that do not vary: no need to copy the metadata
	}
	md, _ := metadata.FromOutgoingContext(ctx)
	return md.Get
}

// appendString puts the length first, so that nothing in s can look like the end
// of it.
func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func (r *rule) appendCaller(b []byte, caller string) []byte {
	if r.public {
		return append(b, 'a') // anyone
	}
	return appendString(append(b, 'c'), caller)
}

func appendMetadata(b []byte, keys []string, values metadataValues) []byte {
	b = binary.AppendUvarint(b, uint64(len(keys)))
	for _, key := range keys {
		b = appendString(b, key)
		all := values(key)
		b = binary.AppendUvarint(b, uint64(len(all)))
		for _, value := range all {
			b = appendString(b, value)
		}
	}
	return b
}

// appendRequest ends the key, so the whole request needs no length before it.
func (r *rule) appendRequest(b []byte, m protoreflect.Message) ([]byte, error) {
	if len(r.fields) == 0 {
		return deterministic.MarshalAppend(append(b, 'r'), m.Interface())
	}
	b = append(b, 'f')
	for _, path := range r.fields {
		var err error
		if b, err = appendField(b, m, path); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// appendField writes the numbers along path and the bytes of a message that has
// the last field and nothing else.
func appendField(b []byte, m protoreflect.Message, path []protoreflect.FieldDescriptor) ([]byte, error) {
	b = binary.AppendUvarint(b, uint64(len(path)))
	for _, step := range path {
		b = binary.AppendUvarint(b, uint64(step.Number()))
	}
	only, err := fieldBytes(m, path)
	return appendString(b, string(only)), err
}

// fieldBytes is empty for a field that is absent.
func fieldBytes(m protoreflect.Message, path []protoreflect.FieldDescriptor) ([]byte, error) {
	for i, step := range path {
		// By number: a dynamic message has descriptors of its own.
		field := m.Descriptor().Fields().ByNumber(step.Number())
		switch {
		case field == nil || field.Kind() != step.Kind() || field.Cardinality() != step.Cardinality():
			return nil, fmt.Errorf("%s has no field like %s", m.Descriptor().FullName(), step.FullName())
		case !m.Has(field):
			return nil, nil
		case i < len(path)-1:
			m = m.Get(field).Message()
		default:
			only := m.New()
			only.Set(field, m.Get(field))
			return deterministic.Marshal(only.Interface())
		}
	}
	return nil, nil
}
