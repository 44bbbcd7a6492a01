package cache

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache/cachecontrol"
	"github.com/meshlite-go/meshlite/internal/wire"
)

// overhead is the memory, in bytes, of an entry beside its key, body and metadata: the
// struct, its node and its table slot.
const overhead = 400

// entry is a stored answer, a stored failure, or a vary marker. Only touched and derived
// change after it is made, so it may be read concurrently.
type entry struct {
	key        string
	method     *method
	bornAt     time.Time     // when the origin made it, as far as its age header says
	loadTime   time.Duration // how long the origin took
	loadNumber uint64        // orders loads: a later one is not replaced by an earlier one
	// generation was the current one when the load began, and slots are where the
	// generations of its own subjects are.
	generation uint64
	slots      []uint32
	weight     uint32 // bytes of memory, about
	lifetime   lifetime
	// touched is set by each lookup and cleared by the clock of the method: see clockRing.
	touched atomic.Bool

	failure         *status.Status // nil is OK
	message         protoreflect.MessageType
	body            []byte
	header, trailer metadata.MD
	etag            string

	// derived is what a caller has made of the answer, and room how many bytes it may take.
	derived atomic.Pointer[derivation]
	room    uint32

	// vary makes the entry a vary marker: it holds no answer, but says which metadata keys
	// are part of the keys under which the answers to this request are stored.
	vary []string
}

// entryOf makes an entry of an answer under key, nil if it may not be stored or cannot be
// marshaled. It shares nothing with got, which the caller may change.
func (l *load) entryOf(key string, got answer) *entry {
	lifetime, ok := l.rule.lifetimeOf(got.header)
	if got.message == nil || !ok {
		return nil
	}
	body := got.body
	if body == nil {
		var err error
		if body, err = deterministic.Marshal(got.message); err != nil {
			return nil
		}
	}
	return l.complete(&entry{
		message:  got.message.ProtoReflect().Type(),
		body:     append([]byte(nil), body...), // its cap is what the allocator gives
		etag:     first(got.header.Get("etag")),
		lifetime: lifetime,
		bornAt:   bornAt(got.header, l.startedAt),
	}, key, got.header, got.trailer)
}

// negativeEntryOf makes an entry of a failure, nil if the rule stores no such failure.
func (l *load) negativeEntryOf(err error, got answer) *entry {
	failure := status.Convert(err)
	lifetime, ok := l.rule.lifetimeOf(got.header)
	if l.rule.negative[failure.Code()] == 0 || !ok {
		return nil
	}
	e := &entry{failure: failure, lifetime: lifetime, bornAt: bornAt(got.header, l.startedAt)}
	return l.complete(e, l.found.key, got.header, got.trailer)
}

// varyMarker leads from the exchange's own key to those of the answers, which vary.
func (l *load) varyMarker(vary []string) *entry {
	return l.complete(&entry{vary: vary, bornAt: l.startedAt}, l.key, metadata.MD{"vary": vary}, nil)
}

// renewed is the expired entry after its origin has confirmed it with header, and whether
// it may be stored as that.
func (l *load) renewed(header metadata.MD) (*entry, bool) {
	e := l.found.entry
	all := metadata.Join(e.header) // RFC 9111, 3.2
	for name, values := range endToEnd(header) {
		all[name] = values
	}
	lifetime, ok := l.rule.lifetimeOf(all)
	again := &entry{message: e.message, body: e.body, etag: first(all["etag"]), lifetime: lifetime, bornAt: bornAt(header, l.startedAt)}
	return l.complete(again, e.key, all, e.trailer), ok
}

// complete sets what all entries have.
func (l *load) complete(e *entry, key string, header, trailer metadata.MD) *entry {
	e.key, e.method, e.loadNumber, e.loadTime = key, l.rule.method, l.number, time.Since(l.startedAt)
	e.generation, e.slots = l.generation, l.slots
	e.header, e.trailer = endToEnd(header), endToEnd(trailer)
	weight := overhead + uint64(len(key)+len(key)/8) + uint64(cap(e.body)) + weightOf(e.header) + weightOf(e.trailer) + uint64(4*len(e.slots))
	if call, ok := l.origin.(*clientCall); ok && e.body != nil && derivedOf(call.opts) != nil {
		e.room = uint32(min(512+2*uint64(cap(e.body)), math.MaxUint32)) // see Derived.Keep
		weight += uint64(e.room)
	}
	if e.failure != nil {
		weight += uint64(2 * proto.Size(e.failure.Proto())) // parsed it takes more than on the wire
	}
	e.weight = uint32(min(weight, math.MaxUint32))
	return e
}

// weightOf estimates the memory of md: a map of slices of strings.
func weightOf(md metadata.MD) uint64 {
	var bytes uint64
	for key, values := range md {
		bytes += 64 + uint64(len(key))
		for _, value := range values {
			bytes += 16 + uint64(len(value))
		}
	}
	return bytes
}

// endToEnd copies md without what describes one hop or one moment (RFC 9110, 7.6.1).
func endToEnd(md metadata.MD) metadata.MD {
	var kept metadata.MD
	for key, values := range md {
		if isHopByHop(key) {
			continue
		}
		if kept == nil {
			kept = metadata.MD{}
		}
		kept[key] = slices.Clone(values)
	}
	return kept
}

func isHopByHop(key string) bool {
	switch key {
	case "content-type", "user-agent", "date", "server", "via",
		"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade",
		"set-cookie", "traceparent", "tracestate", "x-request-id", "retry-after",
		"age", notModified, xCache, wire.ExplainKey, wire.ExplainedKey:
		return true
	}
	return strings.HasPrefix(key, ":") || strings.HasPrefix(key, "grpc-") || strings.HasPrefix(key, "proxy-")
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// lifetime is what the cache-control of an answer allows. It shortens what the policy
// allows and never extends it; a duration of -1 sets no limit.
type lifetime struct {
	maxAge, staleWhileRevalidate, staleIfError time.Duration
	mustRevalidate                             bool
}

// lifetimeOf reads the header of an answer, and returns whether the answer may be stored.
func (r *rule) lifetimeOf(header metadata.MD) (lifetime, bool) {
	// One with not-modified is empty: it was for a caller that has the answer already.
	if slices.Contains(r.varyOf(header), "*") || len(header[notModified]) > 0 {
		return lifetime{}, false
	}
	if len(header["cache-control"]) == 0 {
		return lifetime{maxAge: -1, staleWhileRevalidate: -1, staleIfError: -1}, true
	}
	said := cachecontrol.Parse(header["cache-control"])
	seconds := func(of cachecontrol.Directive) time.Duration {
		if d, ok := said.Seconds(of); ok {
			return d
		}
		return -1
	}
	t := lifetime{
		maxAge:               seconds(cachecontrol.MaxAge),
		staleWhileRevalidate: seconds(cachecontrol.StaleWhileRevalidate),
		staleIfError:         seconds(cachecontrol.StaleIfError),
		mustRevalidate:       said.Has(cachecontrol.MustRevalidate),
	}
	if r.public && said.Has(cachecontrol.SharedMaxAge) { // RFC 9111, 5.2.2.10
		t.maxAge, t.mustRevalidate = seconds(cachecontrol.SharedMaxAge), true
	}
	if said.Has(cachecontrol.NoCache) {
		t.maxAge, t.mustRevalidate = 0, true // stored only to be revalidated by its etag
	}
	useless := t.maxAge == 0 && len(header["etag"]) == 0 && (t.mustRevalidate || r.staleWindow() == 0)
	return t, !useless && !said.Has(cachecontrol.NoStore) && !(r.public && said.Has(cachecontrol.Private))
}

// staleWindow is how long past its ttl an answer may be of use.
func (r *rule) staleWindow() time.Duration { return max(r.staleWhileRevalidate, r.staleIfError) }

// varyOf lists the metadata keys that an answer says it varies by and that are not part of
// the key already. "*" is every key.
func (r *rule) varyOf(header metadata.MD) []string {
	var keys []string
	for _, value := range header["vary"] {
		for name := range strings.SplitSeq(value, ",") {
			name = strings.ToLower(strings.TrimSpace(name))
			if name != "" && !slices.Contains(r.vary, name) && !slices.Contains(keys, name) {
				keys = append(keys, name)
			}
		}
	}
	slices.Sort(keys)
	return keys
}

// ttlOf is how long e is fresh: 0 if the rule no longer stores such a failure.
func (r *rule) ttlOf(e *entry) time.Duration {
	if e.failure != nil {
		return shorter(r.negative[e.failure.Code()], e.lifetime.maxAge)
	}
	return shorter(r.ttl, e.lifetime.maxAge)
}

// shorter is what policy and answer both allow.
func shorter(policy, answer time.Duration) time.Duration {
	if answer >= 0 && answer < policy {
		return answer
	}
	return policy
}

// freshness says how an entry may be used for a call.
type freshness uint8

const (
	expired              freshness = iota // only to revalidate it, or on an error
	fresh                                 // to be served
	staleWhileRevalidate                  // to be served while a newer one is fetched
	staleAccepted                         // to be served to this caller, who sent max-stale
)

// freshnessOf applies the policy, the answer's own lifetime and the caller's directives
// (RFC 9111, 4.2 and 5.2.1; RFC 5861, 3). Without an entry it is expired.
func (r *rule) freshnessOf(e *entry, directives cachecontrol.Directives, now time.Time) freshness {
	if e == nil {
		return expired
	}
	age, ttl := now.Sub(e.bornAt), r.ttlOf(e)
	if limit, ok := directives.Seconds(cachecontrol.MaxAge); ok && age > limit {
		return expired
	}
	if least, ok := directives.Seconds(cachecontrol.MinFresh); ok && ttl-age < least {
		return expired
	}
	switch past := age - ttl; {
	case past < 0:
		return fresh
	case r.mustRevalidate || e.lifetime.mustRevalidate || e.failure != nil:
		return expired
	case past < shorter(r.staleWhileRevalidate, e.lifetime.staleWhileRevalidate) && !directives.Has(cachecontrol.MaxAge):
		return staleWhileRevalidate
	default:
		if most, ok := directives.Seconds(cachecontrol.MaxStale); ok && past <= most && past < r.staleWindow() {
			return staleAccepted
		}
		return expired
	}
}

// bornAt is when an answer that has just arrived was made, by its age header.
func bornAt(header metadata.MD, requestedAt time.Time) time.Time {
	if len(header["age"]) > 0 {
		if age, ok := cachecontrol.ParseSeconds(header["age"][0]); ok {
			return requestedAt.Add(-age) // the time on the way counts, too (RFC 9111, 4.2.3)
		}
	}
	return time.Now()
}

// ageHeader is the value of the age header, in seconds.
func (e *entry) ageHeader() string { return strconv.FormatInt(int64(e.age()/time.Second), 10) }

func (e *entry) age() time.Duration { return max(time.Since(e.bornAt), 0) }

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
	switch {
	case !ok:
		x.unusable = "the request is no protobuf message"
	case r.cache.memory.closed.Load():
		x.unusable = "the cache is closed"
	case hasUnknown(message.ProtoReflect()):
		x.unusable = "the request has fields that the contract does not have"
	case skip != nil && skip(ctx, r.meta):
		x.unusable = "the program skips the cache for it"
	}
	if x.unusable != "" {
		return x, false
	}
	x.request, x.directives = message, directivesOf(r, x.values)
	if x.directives.Has(cachecontrol.NoStore) {
		x.unusable = "the call says no-store"
		return x, false
	}
	x.destination = destinationOf(ctx, r.meta.Side)
	if x.key, ok = keyOf(r, target, x.destination, message, x.values); !ok {
		x.unusable = "answers are private, and the caller has no identity"
	}
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
