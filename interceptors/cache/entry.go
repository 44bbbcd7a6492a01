package cache

import (
	"context"
	"math"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// overhead is what an entry takes beside its key, body and metadata: the entry
// itself, the node and the table slot that lead to it.
const overhead = 256

// entry is a kept answer, or a kept failure. It is never changed, so it may be read by
// anyone.
type entry struct {
	stored          time.Time
	weight          uint32
	failure         *status.Status // nil is OK
	message         protoreflect.MessageType
	body            []byte
	header, trailer metadata.MD
}

// load finds the answer for key if the rule, which may have changed since it was
// stored, still calls it fresh.
func (r *rule) load(key string) *entry {
	e, ok := r.entries.GetIfPresent(key)
	if !ok || time.Since(e.stored) >= r.ttlOf(e) {
		return nil
	}
	return e
}

// ttlOf is how long the rule calls e fresh: not at all if it keeps no such failure any
// more.
func (r *rule) ttlOf(e *entry) time.Duration {
	if e.failure != nil {
		return r.negative[e.failure.Code()]
	}
	return r.ttl
}

// newEntry is an answer to be kept, nil if it cannot be written. What it keeps shares
// nothing with reply, which the caller is free to change.
func newEntry(key string, reply proto.Message, header, trailer metadata.MD) *entry {
	body, err := proto.Marshal(reply)
	if err != nil {
		return nil
	}
	body = append([]byte(nil), body...) // its cap is what the allocator gives
	e := &entry{message: reply.ProtoReflect().Type(), body: body}
	return e.of(key, header, trailer)
}

// newFailure is a failure to be kept, nil if the rule keeps no such. One that came when
// the caller had given up is the caller's own, whatever it says.
func (r *rule) newFailure(ctx context.Context, key string, err error, header, trailer metadata.MD) *entry {
	failure := status.Convert(err)
	if r.negative[failure.Code()] == 0 || ctx.Err() != nil || r.standIn(key, err) != nil {
		return nil
	}
	return (&entry{failure: failure}).of(key, header, trailer)
}

// of is e as it is found by key, from now on.
func (e *entry) of(key string, header, trailer metadata.MD) *entry {
	e.stored = time.Now()
	e.header, e.trailer = endToEnd(header), endToEnd(trailer)
	weight := overhead + uint64(len(key)+len(key)/8) + uint64(cap(e.body)) + weigh(e.header) + weigh(e.trailer)
	if e.failure != nil {
		weight += uint64(2 * proto.Size(e.failure.Proto())) // parsed it takes more than on the wire
	}
	e.weight = uint32(min(weight, math.MaxUint32))
	return e
}

// store keeps an answer, unless it is too large.
func (r *rule) store(key string, e *entry) {
	if e == nil || uint64(e.weight) > r.maxEntry || r.closed.Load() {
		return
	}
	r.entries.Set(key, e)
	r.counters.stored.Add(1)
	if r.closed.Load() {
		r.entries.InvalidateAll() // it was closed meanwhile
	}
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
		kept[key] = append([]string(nil), values...)
	}
	return kept
}

func ofHop(key string) bool {
	switch key {
	case "content-type", "user-agent", "date", "server", "via",
		"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade",
		"set-cookie", "traceparent", "tracestate", "x-request-id", "retry-after":
		return true
	}
	return strings.HasPrefix(key, ":") || strings.HasPrefix(key, "grpc-") || strings.HasPrefix(key, "proxy-")
}
