package cache

import (
	"context"
	"time"

	"github.com/maypok86/otter/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
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
	// contradicts reports whether the caller has been told already what is not so of e.
	contradicts(e *entry) bool
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
	manner  string
	origin  origin
}

// variant is the key by which an answer is found that varies by metadata. No other key
// begins like it.
func (a *asked) variant(vary []string) string {
	if len(vary) == 0 {
		return a.key
	}
	return string(append(appendMetadata([]byte{'v'}, vary, a.values), a.key...))
}

// load is the loading of one answer.
type load struct {
	number   uint64 // which of all loads it is
	began    time.Time
	stamp    uint64   // of the generations
	slots    []uint32 // of what the answer belongs to and no policy names
	subjects []string // all that it belongs to, if there is a store
	ticket   string   // of the store
}

// begin is a load that begins now.
func (r *rule) begin(request proto.Message) load {
	l := load{number: r.loads.Add(1), began: time.Now(), stamp: r.generations.now.Load()}
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
	entry  *entry   // nil if it may not be kept
	vary   []string // what it varies by, beside the key of the rule
	given  bool     // the caller has its answer already, and not only the entry
	own    bool     // the entry is for this caller alone
	result Result   // Miss, or Hit if the store had it
}

// obtain finds the answer in the store, or else has the call made and keeps what it
// brings. Old is what is kept by key past its time, if anything is.
func (r *rule) obtain(ctx context.Context, a *asked, key string, old *entry) (obtained, error) {
	since := r.begin(a.request)
	if e := r.fromStore(ctx, a, key, old, &since); e != nil {
		r.keep(e)
		return obtained{entry: e, result: Hit}, nil
	}
	etag := ""
	if old != nil && old.failure == nil && len(a.values.get(ifNoneMatch)) == 0 {
		etag = old.etag
	}
	got, err := a.origin.fetch(ctx, etag)
	if err == nil && etag != "" && len(got.header[notModified]) > 0 {
		if matches(got.header[notModified], etag) {
			return r.revalidated(a, old, got.header, since), nil
		}
		got, err = a.origin.fetch(ctx, "") // it holds what we have not got
	}
	if err != nil {
		r.failed(ctx, a, key, old, err, got, since)
		return obtained{given: true, result: Miss}, err
	}
	vary := r.varyOf(got.header)
	e := r.newEntry(a.variant(vary), got, since)
	r.settle(a, key, old, e, vary, since)
	return obtained{entry: e, vary: vary, given: true, result: Miss}, nil
}

// revalidated keeps old for another time, and gives it to the caller: what the origin has
// sent was empty.
func (r *rule) revalidated(a *asked, old *entry, header metadata.MD, since load) obtained {
	e, may := r.renewed(old, old.key, header, since)
	vary := r.varyOf(e.header)
	e.key = a.variant(vary)
	kept := e
	if !may {
		kept = nil
	}
	r.settle(a, old.key, old, kept, vary, since)
	return obtained{entry: e, vary: vary, own: !may, result: Miss}
}

// settle keeps e, which was asked for by key, where it is found from now on. Old is given
// up if there is no new one: its origin does not want it kept any more.
func (r *rule) settle(a *asked, key string, old, e *entry, vary []string, since load) {
	switch {
	case e == nil:
		r.drop(old)
		return
	case e.key != key && len(vary) > 0: // what is kept has told otherwise, or nothing
		r.keep(r.signpost(a.key, vary, since))
	}
	r.keep(e)
	if len(vary) == 0 {
		r.toStore(since, e)
	}
}

// failed keeps a failure that the rule keeps, and gives up what it shows to be gone. One
// that came when the caller had given up is the caller's own, whatever it says.
func (r *rule) failed(ctx context.Context, a *asked, key string, old *entry, err error, got answer, since load) {
	if ctx.Err() != nil || r.standIn(a, old, err) != nil {
		return
	}
	if e := r.newFailure(key, err, got, since); e != nil {
		r.keep(e)
		if key == a.key {
			r.toStore(since, e)
		}
		return
	}
	switch status.Code(err) {
	case codes.NotFound, codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange, codes.Unimplemented:
		r.drop(old)
	case codes.PermissionDenied, codes.Unauthenticated:
		if !r.public { // what one may not, another may
			r.drop(old)
		}
	}
}

// signpost says by what the answers to this request vary.
func (r *rule) signpost(key string, vary []string, since load) *entry {
	return r.finished(&entry{vary: vary, born: since.began}, key, metadata.MD{"vary": vary}, nil, since)
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
	if r.maxBytes > 0 && !e.touched.Load() {
		e.touched.Store(true)
	}
	return e
}

// keep stores an answer, unless it is too large.
func (r *rule) keep(e *entry) {
	if e == nil || uint64(e.weight) > r.maxEntry || r.maxBytes > 0 && int64(e.weight) > r.maxBytes || r.closed.Load() {
		return
	}
	if r.maxBytes > 0 {
		r.makeRoom(e, r.maxBytes)
	} else {
		r.put(e)
	}
	if r.closed.Load() {
		r.entries.InvalidateAll() // it was closed meanwhile
	}
}

// put stores e, unless what is there was loaded later.
func (c *Cache) put(e *entry) {
	stored := false
	e.method.kept(e)
	c.entries.Compute(e.key, func(held *entry, found bool) (*entry, otter.ComputeOp) {
		if found && held.load > e.load {
			return nil, otter.CancelOp
		}
		stored = true
		return e, otter.WriteOp
	})
	switch {
	case !stored:
		e.method.gone(e)
	case len(e.vary) == 0:
		e.method.results.stored.Add(1)
	}
}

// drop gives e up, unless something else has taken its place.
func (c *Cache) drop(e *entry) {
	if e == nil {
		return
	}
	c.entries.ComputeIfPresent(e.key, func(held *entry) (*entry, otter.ComputeOp) {
		if held == e {
			return nil, otter.InvalidateOp
		}
		return nil, otter.CancelOp
	})
}
