package cache

import (
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

	"github.com/meshlite-go/meshlite/interceptors/cache/cachecontrol"
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
		"age", notModified, xCache:
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
