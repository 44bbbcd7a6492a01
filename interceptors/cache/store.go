package cache

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
	"maps"
	"slices"
	"time"

	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meshlite-go/meshlite/interceptors/cache/cachecontrol"
	"github.com/meshlite-go/meshlite/internal/guard"
	cachev1 "github.com/meshlite-go/meshlite/proto/meshlite/cache/v1"
)

// Store is a second level, such as Redis, that several processes share. Its methods are
// called concurrently, must return when their context ends, and must fail at once while the
// store is unreachable: a call waits for Load.
//
// A call waits for a store that does not return for 1 s, or half of the time that it has
// left, and goes on as if nothing was there. Load and Invalidate run 256 times at once at
// most, and when 16 of them have not returned in time, the store counts as down until they
// do. A panic is an error of the store. Both are counted, and logged once a minute. A
// store with a method Bounded() bounds itself by what it says: it is called in the
// goroutine of the call, and only panics are caught.
//
// Values belong to subjects: everything, a method, a tag, a request. Invalidating a subject
// makes all values that belong to it unreachable, including those that are being loaded.
type Store interface {
	// Load returns the value of key, nil if there is none, the rest of its ttl, and the
	// ticket by which Save stores a value that is loaded from now on.
	Load(ctx context.Context, key string, subjects []string) (value []byte, left time.Duration, ticket string, err error)
	// Save stores a value for ttl where Load finds it, unless one of the subjects of that
	// Load has been invalidated since.
	Save(ctx context.Context, ticket string, value []byte, ttl time.Duration) error
	// Invalidate makes the values of all these subjects unreachable, now or as soon as the
	// store is back, and notifies the processes that have subscribed.
	Invalidate(ctx context.Context, subjects []string) error
	// Subscribe calls invalidated with the subjects that any process invalidates, and with
	// nil when some may have been missed. It returns at once. Cancel ends that and waits for
	// the last call.
	Subscribe(invalidated func(subjects []string)) (cancel func())
}

// encodingVersion is the first byte of a value. A value with another one is a miss.
const encodingVersion = 1

// saveTimeout bounds a save, which runs in the background.
const saveTimeout = 5 * time.Second

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// usesStore reports whether the answer may be in the store, if there is one. An answer that
// varies by metadata of its own has no single place there.
func (l *load) usesStore() bool {
	r := l.rule
	return r.schema != "" && !r.shadow && l.found.key == l.key
}

// fromStore returns a fresh answer from the store, and sets the ticket by which one may be
// saved. Errors of the store, and values that cannot be decoded, are misses.
func (l *load) fromStore(ctx context.Context) *entry {
	r := l.rule
	got, err := l.loadStored(ctx)
	if err != nil {
		if ctx.Err() == nil {
			r.cache.storeErrors.Add(1)
		}
		return nil
	}
	l.ticket = got.ticket
	if got.value == nil || l.directives.Has(cachecontrol.NoCache) {
		return nil
	}
	e := l.decode(got.value, got.left)
	if e == nil {
		r.cache.storeErrors.Add(1)
	}
	// A refresh must not find the very answer that it is to replace. The age of one from the
	// store is not exact, hence the second.
	if old := l.found.entry; l.freshness(e) != fresh || old != nil && !e.bornAt.After(old.bornAt.Add(time.Second)) {
		return nil
	}
	r.cache.storeHits.Add(1)
	return e
}

// stored is what the store has of a key.
type stored struct {
	value  []byte
	left   time.Duration
	ticket string
}

func (l *load) loadStored(ctx context.Context) (stored, error) {
	c := l.rule.cache
	key, subjects := l.rule.schema+l.key, l.subjects
	return guard.Call(ctx, c.guard, l.rule.meta.FullMethod, func(ctx context.Context) (got stored, err error) {
		got.value, got.left, got.ticket, err = c.options.store.Load(ctx, key, subjects)
		return got, err
	})
}

// save saves e in the store for other processes, in the background.
func (l *load) save(e *entry) {
	c, ticket, age := l.rule.cache, l.ticket, time.Since(e.bornAt)
	ttl := l.rule.ttlOf(e) - age
	if ttl <= 0 {
		return
	}
	started := c.saves.start(context.Background(), l.rule.meta.FullMethod, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, saveTimeout)
		defer cancel()
		_, err := guard.Run(ctx, c.guard, l.rule.meta.FullMethod, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, c.options.store.Save(ctx, ticket, encode(e, age, ttl), ttl)
		})
		if err != nil {
			c.storeErrors.Add(1)
		}
	})
	if !started {
		c.storeErrors.Add(1)
	}
}

// encode writes e as of an age: the version, the checksum of the rest, and the rest.
func encode(e *entry, age, ttl time.Duration) []byte {
	stored := &cachev1.Entry{
		Age: durationpb.New(age), Ttl: durationpb.New(ttl), Took: durationpb.New(e.loadTime), Body: e.body,
		Header: pairs(e.header), Trailer: pairs(e.trailer),
	}
	if e.failure != nil {
		stored.Status, _ = proto.Marshal(e.failure.Proto()) // it came off the wire, or will go onto it
	}
	b, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, 5), stored)
	if err != nil {
		return nil // without a version it is a miss
	}
	b[0] = encodingVersion
	binary.BigEndian.PutUint32(b[1:], crc32.Checksum(b[5:], castagnoli))
	return b
}

// decode reads what encode has written; left is the rest of its ttl in the store. It returns
// nil for anything else.
func (l *load) decode(b []byte, left time.Duration) *entry {
	stored := &cachev1.Entry{}
	if len(b) < 5 || b[0] != encodingVersion || binary.BigEndian.Uint32(b[1:]) != crc32.Checksum(b[5:], castagnoli) || proto.Unmarshal(b[5:], stored) != nil {
		return nil
	}
	header, trailer := mapped(stored.GetHeader()), mapped(stored.GetTrailer())
	lifetime, ok := l.rule.lifetimeOf(header)
	if !ok {
		return nil
	}
	storedFor := max(stored.GetTtl().AsDuration()-left, 0)
	e := &entry{lifetime: lifetime, bornAt: time.Now().Add(-stored.GetAge().AsDuration() - storedFor)}
	if len(stored.GetStatus()) > 0 {
		failure := &rpcstatus.Status{}
		if proto.Unmarshal(stored.GetStatus(), failure) != nil {
			return nil
		}
		e.failure = status.FromProto(failure)
	} else {
		e.message, e.body, e.etag = l.rule.output, stored.GetBody(), first(header["etag"])
	}
	e = l.complete(e, l.key, header, trailer)
	e.loadTime = stored.GetTook().AsDuration()
	return e
}

func pairs(md metadata.MD) []*cachev1.Metadata {
	var all []*cachev1.Metadata
	for _, key := range slices.Sorted(maps.Keys(md)) {
		pair := &cachev1.Metadata{Key: key}
		for _, value := range md[key] {
			pair.Values = append(pair.Values, []byte(value))
		}
		all = append(all, pair)
	}
	return all
}

func mapped(pairs []*cachev1.Metadata) metadata.MD {
	md := metadata.MD{}
	for _, pair := range pairs {
		for _, value := range pair.GetValues() {
			md.Append(pair.GetKey(), string(value))
		}
	}
	return md
}

// schemaOf is a fingerprint of a message type. A program whose contract has a field more
// must not load the answers of one without it, in which that field is missing.
func schemaOf(message protoreflect.MessageDescriptor) string {
	hash := sha256.New()
	seen := map[protoreflect.FullName]bool{}
	var visit func(protoreflect.MessageDescriptor)
	visit = func(m protoreflect.MessageDescriptor) {
		if seen[m.FullName()] {
			return
		}
		seen[m.FullName()] = true
		b, err := deterministic.Marshal(protodesc.ToDescriptorProto(m))
		if err != nil {
			return // a descriptor that this program is linked with can be written
		}
		hash.Write(binary.AppendUvarint(nil, uint64(len(b))))
		hash.Write(b)
		for i := range m.Fields().Len() {
			if of := m.Fields().Get(i).Message(); of != nil {
				visit(of)
			}
		}
	}
	visit(message)
	return string(message.FullName()) + "\x00" + string(hash.Sum(nil))
}
