package cache

import (
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// overhead is what an entry takes beside its key, body and metadata: the entry
// itself, the node and the table slot that lead to it.
const overhead = 376

// entry is a kept answer, or a kept failure, or a signpost to them. It is never changed,
// but for touched, so it may be read by anyone.
type entry struct {
	born   time.Time     // when its origin made it, as far as its age tells
	took   time.Duration // how long the origin took
	stamp  uint64        // of the generations when its load began
	load   uint64        // which of all loads it was
	slots  []uint32      // of what it belongs to, beside its method and the rule's own tags
	method *method
	key    string
	weight uint32
	terms  terms
	// touched is whether it was asked for since the clock of its method has last passed.
	touched atomic.Bool

	failure         *status.Status // nil is OK
	message         protoreflect.MessageType
	body            []byte
	header, trailer metadata.MD
	etag            string

	// vary makes it a signpost: the answers to this request are found by the values of
	// these metadata keys besides.
	vary []string
}

// newEntry is got as an entry, nil if it may not be kept or cannot be written. It shares
// nothing with got, which the caller is free to change.
func (r *rule) newEntry(key string, got answer, since load) *entry {
	terms, may := r.termsOf(got.header)
	if got.message == nil || !may {
		return nil
	}
	body := got.body
	if body == nil {
		var err error
		if body, err = deterministic.Marshal(got.message); err != nil {
			return nil
		}
	}
	e := &entry{
		message: got.message.ProtoReflect().Type(),
		body:    append([]byte(nil), body...), // its cap is what the allocator gives
		etag:    first(got.header.Get("etag")),
		terms:   terms,
		born:    since.born(got.header),
	}
	return r.finished(e, key, got.header, got.trailer, since)
}

// newFailure is a failure to be kept, nil if the rule keeps no such.
func (r *rule) newFailure(key string, err error, got answer, since load) *entry {
	failure := status.Convert(err)
	terms, may := r.termsOf(got.header)
	if r.negative[failure.Code()] == 0 || !may {
		return nil
	}
	return r.finished(&entry{failure: failure, terms: terms, born: since.born(got.header)}, key, got.header, got.trailer, since)
}

// renewed is e after its origin has said by header that it still holds, and whether it may
// be kept as that.
func (r *rule) renewed(e *entry, key string, header metadata.MD, since load) (*entry, bool) {
	all := metadata.Join(e.header) // RFC 9111, 3.2
	for name, values := range endToEnd(header) {
		all[name] = values
	}
	terms, may := r.termsOf(all)
	again := &entry{message: e.message, body: e.body, etag: first(all["etag"]), terms: terms, born: since.born(header)}
	return r.finished(again, key, all, e.trailer, since), may
}

// finished gives e what all entries have.
func (r *rule) finished(e *entry, key string, header, trailer metadata.MD, since load) *entry {
	e.key, e.method, e.stamp, e.load, e.slots, e.took = key, r.method, since.stamp, since.number, since.slots, time.Since(since.began)
	e.header, e.trailer = endToEnd(header), endToEnd(trailer)
	e.weight = weightOf(key, e)
	return e
}

func weightOf(key string, e *entry) uint32 {
	weight := overhead + uint64(len(key)+len(key)/8) + uint64(cap(e.body)) + weigh(e.header) + weigh(e.trailer) + uint64(4*len(e.slots))
	if e.failure != nil {
		weight += uint64(2 * proto.Size(e.failure.Proto())) // parsed it takes more than on the wire
	}
	return uint32(min(weight, math.MaxUint32))
}

// weigh estimates the memory of md: a map of slices of strings.
func weigh(md metadata.MD) uint64 {
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
		if ofHop(key) {
			continue
		}
		if kept == nil {
			kept = metadata.MD{}
		}
		kept[key] = slices.Clone(values)
	}
	return kept
}

func ofHop(key string) bool {
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
