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

// form is the first byte of a value in the store: another one is another program's.
const form = 1

// savingTimeout is the longest that an answer waits to be left in the store.
const savingTimeout = 5 * time.Second

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// fromStore finds a fresh answer in the store, and tells since where one can be left.
// What is wrong with the store, or with what is there, is a miss.
func (r *rule) fromStore(ctx context.Context, a *asked, key string, old *entry, since *load) *entry {
	if r.options.store == nil || r.schema == "" || r.shadow || key != a.key {
		return nil // what varies by what the origin says has no one place
	}
	got, err := r.load(ctx, r.schema+key, since.subjects)
	if err != nil {
		if ctx.Err() == nil {
			r.storeErrors.Add(1)
		}
		return nil
	}
	since.ticket = got.ticket
	if got.value == nil || a.wishes.Has(cachecontrol.NoCache) {
		return nil
	}
	e := r.decode(got.value, got.left, key, *since)
	if e == nil {
		r.storeErrors.Add(1)
	}
	// A refresh is not to find the very answer that it is for.
	if r.judge(e, a.wishes, time.Now()) != fresh || old != nil && !e.born.After(old.born.Add(time.Second)) {
		return nil
	}
	r.storeHits.Add(1)
	return e
}

// loaded is what the store has of a key.
type loaded struct {
	value  []byte
	left   time.Duration
	ticket string
}

func (r *rule) load(ctx context.Context, key string, subjects []string) (loaded, error) {
	return guard.Call(ctx, r.store, r.meta.FullMethod, func(ctx context.Context) (got loaded, err error) {
		got.value, got.left, got.ticket, err = r.options.store.Load(ctx, key, subjects)
		return got, err
	})
}

// toStore leaves e for other processes, with nobody waiting.
func (r *rule) toStore(since load, e *entry) {
	if since.ticket == "" || e == nil {
		return
	}
	age := time.Since(e.born)
	ttl := r.ttlOf(e) - age
	if ttl <= 0 {
		return
	}
	saving := r.saves.start(context.Background(), r.meta.FullMethod, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, savingTimeout)
		defer cancel()
		_, err := guard.Run(ctx, r.store, r.meta.FullMethod, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, r.options.store.Save(ctx, since.ticket, encode(e, age, ttl), ttl)
		})
		if err != nil {
			r.storeErrors.Add(1)
		}
	})
	if !saving {
		r.storeErrors.Add(1)
	}
}

// encode writes e as it is at an age: the form, the checksum of the rest, and the rest.
func encode(e *entry, age, ttl time.Duration) []byte {
	told := &cachev1.Entry{
		Age: durationpb.New(age), Ttl: durationpb.New(ttl), Took: durationpb.New(e.took), Body: e.body,
		Header: pairs(e.header), Trailer: pairs(e.trailer),
	}
	if e.failure != nil {
		told.Status, _ = proto.Marshal(e.failure.Proto()) // it came off the wire, or will go onto it
	}
	b, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, 5), told)
	if err != nil {
		return nil // no form: nobody takes it for a value
	}
	b[0] = form
	binary.BigEndian.PutUint32(b[1:], crc32.Checksum(b[5:], castagnoli))
	return b
}

// decode reads what encode has written and the store will keep for what is left, nil if it
// is anything else.
func (r *rule) decode(b []byte, left time.Duration, key string, since load) *entry {
	told := &cachev1.Entry{}
	if len(b) < 5 || b[0] != form || binary.BigEndian.Uint32(b[1:]) != crc32.Checksum(b[5:], castagnoli) || proto.Unmarshal(b[5:], told) != nil {
		return nil
	}
	header, trailer := mapped(told.GetHeader()), mapped(told.GetTrailer())
	terms, may := r.termsOf(header)
	if !may {
		return nil
	}
	lain := max(told.GetTtl().AsDuration()-left, 0)
	e := &entry{terms: terms, born: time.Now().Add(-told.GetAge().AsDuration() - lain)}
	if len(told.GetStatus()) > 0 {
		failure := &rpcstatus.Status{}
		if proto.Unmarshal(told.GetStatus(), failure) != nil {
			return nil
		}
		e.failure = status.FromProto(failure)
	} else {
		e.message, e.body, e.etag = r.output, told.GetBody(), first(header["etag"])
	}
	e = r.finished(e, key, header, trailer, since)
	e.took = told.GetTook().AsDuration()
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

// schemaOf is a fingerprint of what a message may hold. A program that knows a field more
// than another must not be given the other's answers, in which it is missing.
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
