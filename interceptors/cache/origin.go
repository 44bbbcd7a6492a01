package cache

import (
	"context"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors/cache/cachecontrol"
)

// The metadata that caches and origins speak, beside that of RFC 9111.
const (
	// ifNoneMatch carries on a request the etag of the answer that is kept already.
	ifNoneMatch = "if-none-match"
	// notModified in the header of an empty answer says that the one of that etag still
	// holds. It is what the status 304 is in HTTP (RFC 9110, 15.4.5).
	notModified = "not-modified"
	// xCache on a request asks for the result of each cache on the way in the header of
	// the answer, the one nearest to the origin first.
	xCache = "x-cache"
)

// origin is where answers come from, for one call: the next interceptor of a channel, or
// the handler of a server.
type origin interface {
	// fetch makes the call and gives the caller its answer. With an etag, the origin may
	// answer that nothing has changed.
	fetch(ctx context.Context, etag string) (answer, error)
	// fill gives the caller the message of e as its answer.
	fill(e *entry) error
	// detached is the same call with a request of its own and nobody waiting for it, and
	// the context for it.
	detached(ctx context.Context, request proto.Message) (context.Context, origin)
}

// answer is what an origin has answered.
type answer struct {
	message         proto.Message // nil if it is none of protobuf's
	body            []byte        // the message as it is written, if that is known
	header, trailer metadata.MD
}

// asked is one call, as the cache sees it.
type asked struct {
	key     string // without what answers vary by of their own
	request proto.Message
	values  metadataValues
	wishes  cachecontrol.Directives
	tell    bool // the caller what the cache has done
	origin  origin
}

// variant is the key by which an answer is found that varies by metadata.
func (a *asked) variant(vary []string) string {
	if len(vary) == 0 {
		return a.key
	}
	return string(appendMetadata([]byte(a.key), vary, a.values))
}

// load is the loading of one answer.
type load struct {
	began    time.Time
	stamp    uint64   // of the generations
	slots    []uint32 // of what the answer belongs to and no policy names
	subjects []string // all that it belongs to, if there is a store
	ticket   string   // of the store
}

// begin is a load that begins now.
func (r *rule) begin(request proto.Message) load {
	l := load{began: time.Now(), stamp: r.generations.now.Load()}
	if r.options.store != nil {
		l.subjects = append(l.subjects, r.subjects...)
	}
	for _, subject := range r.subjectsOf(request) {
		l.slots = append(l.slots, r.generations.slot(subject))
		if r.options.store != nil {
			l.subjects = append(l.subjects, subject)
		}
	}
	return l
}

// subjectsOf names what the answer to one request belongs to.
func (r *rule) subjectsOf(request proto.Message) []string {
	var subjects []string
	if b, err := appendRequest(nil, request.ProtoReflect(), r.fields); err == nil {
		subjects = append(subjects, requestSubject(r.meta.FullMethod, b))
	}
	for _, tag := range r.tags {
		subjects = append(subjects, tagSubject(tag.Of(request.ProtoReflect())))
	}
	return subjects
}

// obtained is what a call has brought.
type obtained struct {
	entry *entry   // nil if it may not be kept
	vary  []string // what it varies by, beside the key of the rule
	given bool     // the caller has its answer already, and not only the entry
}

// obtain finds the answer in the store, or else has the call made and keeps what it
// brings. Old is what is kept by key past its time, if anything is.
func (r *rule) obtain(ctx context.Context, a *asked, key string, old *entry) (obtained, error) {
	since := r.begin(a.request)
	if e := r.fromStore(ctx, a, key, &since); e != nil {
		r.keep(key, e)
		return obtained{entry: e}, nil
	}
	etag := ""
	if old != nil {
		etag = old.etag
	}
	got, err := a.origin.fetch(ctx, etag)
	if err != nil {
		if r.standIn(a, old, err) == nil {
			failure := r.newFailure(ctx, key, err, got, since)
			r.keep(key, failure)
			r.toStore(since, failure)
		}
		return obtained{given: true}, err
	}
	if said := first(got.header[notModified]); etag != "" && said == etag {
		e := r.renewed(old, key, got.header, since)
		r.keep(key, e)
		return obtained{entry: e, given: true}, a.origin.fill(old)
	}
	vary := r.varyOf(got.header)
	if at := a.variant(vary); at != key { // what is kept has told otherwise, or nothing
		key = at
		r.point(a.key, vary, since)
	}
	e := r.newEntry(key, got, since)
	r.keep(key, e)
	if len(vary) == 0 {
		r.toStore(since, e)
	}
	return obtained{entry: e, vary: vary, given: true}, nil
}

// point keeps a signpost: by what the answers to this request vary.
func (r *rule) point(key string, vary []string, since load) {
	if len(vary) == 0 {
		return // the answer itself takes its place
	}
	e := &entry{vary: vary, born: since.began}
	r.keep(key, r.finished(e, key, metadata.MD{"vary": vary}, nil, since))
}

// lookup finds what is kept for a call and no invalidation has reached, fresh or not, and
// the key by which it is kept or would be.
func (r *rule) lookup(a *asked) (*entry, string) {
	e := r.current(a.key)
	if e == nil || len(e.vary) == 0 {
		return e, a.key
	}
	key := a.variant(e.vary)
	return r.current(key), key
}

func (r *rule) current(key string) *entry {
	e, ok := r.entries.GetIfPresent(key)
	if !ok || !r.holds(e) {
		return nil
	}
	if r.maxBytes > 0 && !e.asked.Load() {
		e.asked.Store(true)
	}
	return e
}

// keep stores an answer, unless it is too large.
func (r *rule) keep(key string, e *entry) {
	if e == nil || uint64(e.weight) > r.maxEntry || r.closed.Load() {
		return
	}
	e.method.kept(e)
	if r.maxBytes > 0 {
		r.makeRoom(key, e, r.maxBytes)
	}
	r.entries.Set(key, e)
	e.method.results.stored.Add(1)
	if r.closed.Load() {
		r.entries.InvalidateAll() // it was closed meanwhile
	}
}
