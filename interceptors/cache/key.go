package cache

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache/cachecontrol"
)

// maxPooled is the largest key buffer, in bytes, that is reused.
const maxPooled = 64 << 10

// metadataValues is the metadata that a caller sends with a call.
type metadataValues struct {
	ctx  context.Context
	side interceptors.Side
}

func (v metadataValues) get(key string) []string {
	return interceptors.MetadataValues(v.ctx, v.side, key)
}

// deterministic marshals equal messages to equal bytes, whatever order their maps have.
var deterministic = proto.MarshalOptions{Deterministic: true}

// decoding is of what was stored, whose required fields were checked before.
var decoding = proto.UnmarshalOptions{AllowPartial: true}

// newExchange reads a call. It returns false for one that must bypass the cache; then only
// wantsResult is set.
func newExchange(ctx context.Context, r *rule, target string, req any) (exchange, bool) {
	x := exchange{rule: r, values: metadataValues{ctx, r.meta.Side}}
	x.wantsResult = len(x.values.get(xCache)) > 0
	message, ok := req.(proto.Message)
	skip := r.cache.options.skip
	if !ok || r.cache.memory.closed.Load() || hasUnknown(message.ProtoReflect()) || skip != nil && skip(ctx, r.meta) {
		return x, false
	}
	x.request, x.directives = message, directivesOf(r, x.values)
	if x.directives.Has(cachecontrol.NoStore) {
		return x, false
	}
	x.destination = destinationOf(ctx, r.meta.Side)
	x.key, ok = keyOf(r, target, x.destination, message, x.values)
	return x, ok
}

// directivesOf reads the caller's cache-control. On a server it counts only from trusted
// callers: anybody else could make every call run the handler.
func directivesOf(r *rule, values metadataValues) cachecontrol.Directives {
	said := values.get("cache-control")
	if len(said) == 0 {
		return cachecontrol.Directives{}
	}
	if values.side == interceptors.Server && !r.cache.options.callers.Trusted(values.ctx) {
		r.method.results.ignored.Add(1)
		return cachecontrol.Directives{}
	}
	return cachecontrol.Parse(said)
}

// identityOf returns false if the caller has no identity, or an ambiguous one.
func identityOf(r *rule, values metadataValues) (string, bool) {
	of := r.cache.options.callers.Outgoing
	if values.side == interceptors.Server {
		of = r.cache.options.callers.Incoming
	}
	identity, err := of(values.ctx)
	return identity, identity != "" && err == nil
}

// keyOf identifies the answer to a call: scope, target, destination, method, caller (unless the
// answer is public), the metadata that the rule varies by, and the request or its key fields. It
// returns false for a caller without an identity. Entries are found by the whole key and
// not by its hash, so two calls share an answer only if all of these are equal.
func keyOf(r *rule, target, destination string, message proto.Message, values metadataValues) (string, bool) {
	identity, ok := "", r.public
	if !r.public {
		identity, ok = identityOf(r, values)
	}
	if !ok {
		return "", false
	}
	buffer, _ := r.cache.keyBuffers.Get().(*[]byte)
	if buffer == nil {
		buffer = new([]byte)
		*buffer = make([]byte, 0, 256)
	}
	b := append((*buffer)[:0], byte(r.meta.Side))
	b = appendString(b, r.scope)
	b = appendString(b, target)
	b = appendString(b, destination)
	b = appendString(b, r.meta.FullMethod)
	if r.public {
		b = append(b, 'a') // anyone
	} else {
		b = appendString(append(b, 'c'), identity)
	}
	b = appendMetadata(b, r.vary, values)
	b, err := appendRequest(b, message.ProtoReflect(), r.fields)
	key := string(b)
	if cap(b) <= maxPooled {
		*buffer = b
		r.cache.keyBuffers.Put(buffer)
	}
	return key, err == nil
}

// destinationOf is what answers the call of ctx, as a chain of routes has chosen; "" without one.
func destinationOf(ctx context.Context, side interceptors.Side) string {
	if side == interceptors.Server {
		return "" // a handler's context has the record of no call to it
	}
	if record := attempt.FromContext(ctx); record != nil {
		if route := record.Latest().Route(); route != nil {
			return route.Destination
		}
	}
	return ""
}

// variantKey is the key of an answer that varies by metadata, as its own header says. No
// other key begins with its first byte.
func (x *exchange) variantKey(vary []string) string {
	if len(vary) == 0 {
		return x.key
	}
	return string(append(appendMetadata([]byte{'v'}, vary, x.values), x.key...))
}

// appendString puts the length first, so that nothing in s can look like the end
// of it.
func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
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

// fieldPath leads from a message to a field in it or in a message that it contains.
type fieldPath = []protoreflect.FieldDescriptor

// appendRequest writes the request, or its key fields. It ends the key, so the whole
// request needs no length before it.
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
func appendField(b []byte, m protoreflect.Message, path fieldPath) ([]byte, error) {
	b = binary.AppendUvarint(b, uint64(len(path)))
	for _, step := range path {
		b = binary.AppendUvarint(b, uint64(step.Number()))
	}
	only, err := fieldBytes(m, path)
	return appendString(b, string(only)), err
}

// fieldBytes is empty for a field that is absent.
func fieldBytes(m protoreflect.Message, path fieldPath) ([]byte, error) {
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

// Subjects go to other processes by these names.

// everything is the subject that all answers belong to.
const everything = "all"

// longestTag is the longest tag, in bytes, that is not replaced by its hash.
const longestTag = 256

func fullMethod(name string) string { return "/" + strings.TrimPrefix(name, "/") }

func methodSubject(name string) string { return "method " + fullMethod(name) }

func tagSubject(tag string) string {
	if len(tag) > longestTag {
		tag = "sha256:" + digest([]byte(tag))
	}
	return "tag " + tag
}

// requestSubject names a request by the bytes that it has in keys.
func requestSubject(method string, request []byte) string {
	return "request " + method + " " + digest(request)
}

// requestSubjects names what the answer to one request belongs to, beside r.subjects.
func requestSubjects(r *rule, request proto.Message) []string {
	var subjects []string
	if b, err := appendRequest(nil, request.ProtoReflect(), r.fields); err == nil {
		subjects = append(subjects, requestSubject(r.meta.FullMethod, b))
	}
	for _, tag := range r.tags {
		subjects = append(subjects, tagSubject(tag.Of(request.ProtoReflect())))
	}
	return subjects
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return base64.RawURLEncoding.EncodeToString(sum[:18])
}

// hasUnknown reports whether m or a message in it has fields that this program's contract
// lacks: to the server, two such requests that look equal may not be.
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
