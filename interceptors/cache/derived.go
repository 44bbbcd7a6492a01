package cache

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// Derived is a call option that keeps what a caller makes of an answer, such as its JSON, beside
// the cached answer. A later call that is served that answer, fresh, then gets the value
// instead: header and trailer stay as they were, the reply gets the encoded answer as unknown
// fields, which keeps its size right, and [Derived.Value] is not nil.
//
//	derived := cache.Derived{Key: html}
//	err := conn.Invoke(ctx, method, req, reply, &derived)
//	page, ok := derived.Value().(*page)
//	if err == nil && !ok {
//		page = render(reply)
//		derived.Keep(page, len(page.text))
//	}
//
// It is for channels whose interceptors outside of the cache do not change replies, and read no
// more of them than their size.
// Each call needs its own. Without a cache in the channel it has no effect.
type Derived struct {
	grpc.EmptyCallOption
	// Key is compared with that of the value: it identifies what the value depends on beside the
	// answer. It must be comparable, and stays in memory with the value.
	Key any

	entry *entry // that has served the call, nil is none
	value any
}

// derivation is a value beside an entry.
type derivation struct{ key, value any }

// Value is what was kept with the same Key beside the answer that has served the call, nil if
// nothing was.
func (d *Derived) Value() any { return d.value }

// Room is how many bytes Keep takes: two times the message and 512, or 0 if no cached answer has
// served the call, or one that a call without this option has loaded.
func (d *Derived) Room() int {
	if d.entry == nil {
		return 0
	}
	return int(d.entry.room)
}

// Metadata is the header and trailer of the answer of Value, which others use, too, and its age.
func (d *Derived) Metadata() (header, trailer metadata.MD, age time.Duration) {
	return d.entry.header, d.entry.trailer, d.entry.age()
}

// Keep keeps a value of size bytes that was made of the reply, and that nobody changes any more,
// if there is [Derived.Room] for it.
func (d *Derived) Keep(value any, size int) {
	if d.entry != nil && size <= d.Room() {
		d.entry.derived.Store(&derivation{d.Key, value})
	}
}

// find reports whether the value beside e replaces reply.
func (d *Derived) find(e *entry, reply proto.Message) bool {
	known := e.derived.Load()
	if known == nil || known.key != d.Key {
		return false
	}
	d.entry, d.value = e, known.value
	reply.ProtoReflect().SetUnknown(e.body)
	return true
}
