package cache

import (
	"context"
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache/cachecontrol"
)

// maxPooled is the largest key buffer that is kept for the next call.
const maxPooled = 64 << 10

// metadataValues is the metadata that a caller sends with a call.
type metadataValues struct {
	ctx  context.Context
	side interceptors.Side
}

func (v metadataValues) get(key string) []string {
	return interceptors.MetadataValues(v.ctx, v.side, key)
}

// deterministic gives equal messages equal bytes, whatever order their maps have.
var deterministic = proto.MarshalOptions{Deterministic: true}

// read is a call as the cache sees it. It reports false for one that the cache must have
// no part in.
func (r *rule) read(ctx context.Context, target string, req any) (asked, bool) {
	a := asked{values: metadataValues{ctx, r.meta.Side}}
	a.tell = len(a.values.get(xCache)) > 0
	message, ok := req.(proto.Message)
	if !ok || r.closed.Load() || hasUnknown(message.ProtoReflect()) || r.options.skip != nil && r.options.skip(ctx, r.meta) {
		return a, false
	}
	a.request, a.wishes = message, r.wishesOf(a.values)
	if a.wishes.Has(cachecontrol.NoStore) {
		return a, false
	}
	a.key, ok = r.key(target, message, a.values)
	return a, ok
}

// wishesOf reads what the caller says of caching. On a server that counts only from who
// is trusted: anybody else could make every call run the handler.
func (r *rule) wishesOf(values metadataValues) cachecontrol.Directives {
	said := values.get("cache-control")
	if len(said) == 0 {
		return cachecontrol.Directives{}
	}
	if trusted := r.options.trusted; values.side == interceptors.Server && (trusted == nil || !trusted(values.ctx)) {
		r.method.results.ignored.Add(1)
		return cachecontrol.Directives{}
	}
	return cachecontrol.Parse(said)
}

// key identifies the answer to a call. It reports false when nobody knows who calls.
// Entries are found by the whole key and not by a hash of it, so two calls share an answer
// only if everything that counts is equal.
func (r *rule) key(target string, message proto.Message, values metadataValues) (string, bool) {
	caller, known := "", r.public
	if !r.public {
		caller, known = r.caller(values)
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
	b, err := appendRequest(b, message.ProtoReflect(), r.fields)
	key := string(b)
	if cap(b) <= maxPooled {
		*buffer = b
		r.buffers.Put(buffer)
	}
	return key, err == nil
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
		all := values.get(key)
		b = binary.AppendUvarint(b, uint64(len(all)))
		for _, value := range all {
			b = appendString(b, value)
		}
	}
	return b
}

// appendRequest writes the request, or the fields of it that count. It ends the key, so the
// whole request needs no length before it.
func appendRequest(b []byte, m protoreflect.Message, fields []fieldPath) ([]byte, error) {
	if len(fields) == 0 {
		return deterministic.MarshalAppend(append(b, 'r'), m.Interface())
	}
	b = append(b, 'f')
	for _, path := range fields {
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
