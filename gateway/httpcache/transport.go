package httpcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshlite-go/meshlite/interceptors/cache/cachecontrol"
)

type transport struct {
	cache *Cache
	next  http.RoundTripper
}

// RoundTrip answers r from the cache, or sends it on.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		return t.other(r)
	case t.passes(r):
		t.cache.counts.passed.Add(1)
		return t.pass(r, "fwd=bypass")
	default:
		return t.newQuery(r).do()
	}
}

// passes reports whether a GET or HEAD has nothing to do with the cache: it asks for a part, has
// conditions for one state or a body, or leaves HTTP.
func (t *transport) passes(r *http.Request) bool {
	for _, name := range []string{"Range", "If-Range", "If-Match", "If-Unmodified-Since", "Upgrade"} {
		if len(r.Header.Values(name)) > 0 {
			return true
		}
	}
	return r.Body != nil && r.Body != http.NoBody || t.cache.config.Skip != nil && t.cache.config.Skip(r)
}

func (t *transport) pass(r *http.Request, status string) (*http.Response, error) {
	response, err := t.next.RoundTrip(r)
	if err == nil {
		t.mark(response.Header, status)
	}
	return response, err
}

// mark adds what the cache did (RFC 9211).
func (t *transport) mark(h http.Header, status string) {
	h.Add("Cache-Status", t.cache.config.Name+"; "+status)
}

// other sends a request with another method. One that may change something invalidates its URL,
// and those that its answer names at the same host (section 4.4).
func (t *transport) other(r *http.Request) (*http.Response, error) {
	response, err := t.pass(r, "fwd=method")
	if err != nil || r.Method == http.MethodOptions || r.Method == http.MethodTrace || response.StatusCode >= http.StatusBadRequest {
		return response, err
	}
	t.cache.InvalidateURL(hostOf(r), r.URL.RequestURI())
	for _, name := range []string{"Location", "Content-Location"} {
		text := response.Header.Get(name)
		if text == "" {
			continue
		}
		if u, err := r.URL.Parse(text); err == nil && (u.Host == r.URL.Host || strings.EqualFold(u.Host, hostOf(r))) {
			t.cache.InvalidateURL(hostOf(r), u.RequestURI())
		}
	}
	return response, nil
}

// query is a request that the cache may answer.
type query struct {
	cache     *Cache
	transport *transport
	request   *http.Request
	said      cachecontrol.Directives
	base      string
	personal  bool // the answer may depend on who asks, and no other request waits for it
	trusted   bool
}

func (t *transport) newQuery(r *http.Request) *query {
	q := &query{cache: t.cache, transport: t, request: r, base: t.cache.baseKey(r), said: cachecontrol.Parse(r.Header.Values("Cache-Control"))}
	q.personal = t.cache.identified(r)
	q.trusted = t.cache.config.Trusted != nil && t.cache.config.Trusted(r)
	return q
}

// do answers the request.
func (q *query) do() (*http.Response, error) {
	waited := false
	for {
		key, e, passing := q.find()
		switch age := q.judge(e); {
		case age == fresh:
			count := &q.cache.counts.hits
			if waited {
				count = &q.cache.counts.coalesced
			}
			count.Add(1)
			return q.answer(e, true, "hit"), nil
		case age == usable:
			q.cache.counts.stale.Add(1)
			q.refreshLater(key, e)
			return q.answer(e, true, "hit; detail=stale"), nil
		case age == excused:
			q.cache.counts.stale.Add(1)
			return q.answer(e, true, "hit; detail=error"), nil
		case q.said.Has(cachecontrol.OnlyIfCached):
			return q.nothing(), nil
		case q.request.Method == http.MethodHead, passing && !q.trusted:
			q.cache.counts.passed.Add(1)
			return q.transport.pass(q.request, "fwd=uri-miss")
		case waited || q.personal || q.said.Has(cachecontrol.NoStore):
			return q.fetch(q.request, e)
		}
		f, leads := q.cache.join(key)
		if leads {
			return q.lead(key, f, e)
		}
		select {
		case <-f.done:
		case <-q.request.Context().Done():
			return nil, context.Cause(q.request.Context())
		}
		if f.err != nil {
			return nil, f.err
		}
		waited = !f.abandoned
	}
}

// lead fetches for those that wait, too.
func (q *query) lead(key string, f *flight, e *entry) (response *http.Response, err error) {
	f.abandoned = true // in a panic
	defer q.cache.finish(key, f)
	response, err = q.fetch(q.request, e)
	if f.abandoned = q.request.Context().Err() != nil; !f.abandoned {
		f.err = err
	}
	return response, err
}

// find returns the stored answer that the request selects, or nil, and its key. passing is that
// the URL had an answer lately that was not stored.
func (q *query) find() (key string, e *entry, passing bool) {
	names, ok := q.cache.entries.GetIfPresent(q.base)
	if !ok || !q.cache.valid(names) {
		return q.base, nil, false
	}
	key = selectKey(q.base, names.vary, q.request)
	e, ok = q.cache.entries.GetIfPresent(key)
	if !ok || !q.cache.valid(e) || e.implicit && q.personal {
		return key, nil, time.Now().Before(names.pass)
	}
	return key, e, false
}

// freshnessOf a stored answer for one request.
type freshnessOf uint8

const (
	unusable freshnessOf = iota // without validation
	usable                      // while it is validated
	excused                     // the site has just failed to validate it
	fresh
)

// judge decides how e may be used (section 4.2).
func (q *query) judge(e *entry) freshnessOf {
	if e == nil || e.validate {
		return unusable
	}
	age := e.age(time.Now())
	if q.trusted {
		oldest, limited := q.said.Seconds(cachecontrol.MaxAge)
		left, asked := q.said.Seconds(cachecontrol.MinFresh)
		pragma := len(q.request.Header.Values("Cache-Control")) == 0 && strings.EqualFold(q.request.Header.Get("Pragma"), "no-cache")
		if q.said.Has(cachecontrol.NoCache) || pragma || limited && age > oldest || asked && e.freshFor-age < left {
			return unusable
		}
	}
	switch {
	case age < e.freshFor:
		return fresh
	case age < e.freshFor+e.staleFor:
		return usable
	case age < e.freshFor+e.errorFor && time.Now().UnixNano() < e.failedUntil.Load():
		return excused
	default:
		return unusable
	}
}

// flight is a request that others wait for.
type flight struct {
	done      chan struct{}
	err       error // of the site, for all
	abandoned bool  // its caller went away: another one leads the next
}

// join returns the flight for key, and whether it is new: then the caller leads it.
func (c *Cache) join(key string) (f *flight, leads bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f = c.flights[key]; f != nil {
		return f, false
	}
	f = &flight{done: make(chan struct{})}
	c.flights[key] = f
	return f, true
}

func (c *Cache) finish(key string, f *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.flights, key)
	close(f.done)
}

// refreshLater validates e in the background, once at a time. Too many at once are left to later
// requests.
func (q *query) refreshLater(key string, e *entry) {
	c := q.cache
	select {
	case c.refresh <- struct{}{}:
	default:
		return
	}
	f, leads := c.join(key)
	if !leads || !c.begin() {
		if leads {
			c.finish(key, f)
		}
		<-c.refresh
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(q.request.Context()), refreshTimeout)
	stop := context.AfterFunc(c.ctx, cancel)
	request := q.request.Clone(ctx)
	request.Method = http.MethodGet
	go func() {
		defer c.refreshes.Done()
		defer func() { <-c.refresh }()
		defer c.finish(key, f)
		defer cancel()
		defer stop()
		background := *q
		background.request = request
		if response, err := background.fetch(request, e); err == nil {
			_ = response.Body.Close()
		}
	}()
}

// begin counts a refresh unless the cache is closed.
func (c *Cache) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.refreshes.Add(1)
	return true
}

// fetch asks the site, to validate e if that is not nil, and stores its answer if it may.
func (q *query) fetch(r *http.Request, e *entry) (*http.Response, error) {
	out := r.Clone(r.Context())
	validates := e != nil && hasValidator(e.header)
	if validates || !q.personal && !q.said.Has(cachecontrol.NoStore) { // else nothing of the answer is kept, most of the time
		out.Header.Del("If-None-Match")
		out.Header.Del("If-Modified-Since")
	}
	if validates {
		e.conditional(out.Header)
	}
	x := &exchange{
		request: r, sentAt: time.Now(), marks: q.cache.marksOf(urlKey(hostOf(r), r.URL.RequestURI())), all: q.cache.all.Load(), groups: q.cache.groups.Load(),
		noStore: q.said.Has(cachecontrol.NoStore),
	}
	response, err := q.transport.next.RoundTrip(out)
	x.response, x.receivedAt = response, time.Now()
	if q.cache.config.Key != nil && q.cache.baseKey(r) != q.base {
		x.noStore = true // another destination has answered
	}
	if failed := err != nil || isError(response.StatusCode); failed && q.excuses(e, r, err) {
		if err == nil {
			_ = response.Body.Close()
		}
		q.cache.counts.stale.Add(1)
		e.failedUntil.Store(time.Now().Add(failureRest).UnixNano())
		return q.answer(e, true, "hit; fwd=stale; detail=error"), nil
	}
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusNotModified && validates {
		_ = response.Body.Close()
		updated := q.cache.freshened(e, x)
		if updated == nil {
			return q.fetch(r, nil) // it is about another answer
		}
		q.cache.counts.validated.Add(1)
		q.store(updated)
		return q.answer(updated, true, "hit; fwd=stale; fwd-status=304"), nil
	}
	q.cache.counts.misses.Add(1)
	return q.keep(x), nil
}

// isError reports whether an answer is an error that a stale one may replace (RFC 5861, section
// 4).
func isError(status int) bool {
	return slices.Contains([]int{http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout}, status)
}

// excuses reports whether e is used instead of an error of the site.
func (q *query) excuses(e *entry, r *http.Request, err error) bool {
	return e != nil && !e.validate && !errors.Is(err, context.Canceled) && r.Context().Err() == nil && q.cache.valid(e) && e.age(time.Now()) < e.freshFor+e.errorFor
}

// keep reads the answer of x and stores it if it may. Otherwise it passes as it comes.
func (q *query) keep(x *exchange) *http.Response {
	response := x.response
	e := q.cache.entryOf(x)
	if e != nil {
		body, rest := q.read(response.Body)
		if rest == nil {
			e.body = body
			if e.header.Get("Content-Length") != "" || len(body) > 0 {
				e.header.Set("Content-Length", strconv.Itoa(len(body)))
			}
			stored := "fwd=uri-miss"
			if q.store(e) {
				stored += "; stored"
			}
			return q.answer(e, false, stored)
		}
		response.Body = rest
	}
	if !q.personal && !x.noStore && !isError(response.StatusCode) {
		q.rememberPass(x)
	}
	q.transport.mark(response.Header, "fwd=uri-miss")
	return response
}

// read reads a body to its end. rest is not nil if it is too large or breaks off: it is the whole
// body then.
func (q *query) read(from io.ReadCloser) (body []byte, rest io.ReadCloser) {
	body, err := io.ReadAll(io.LimitReader(from, q.cache.config.MaxBody+1))
	if err == nil && int64(len(body)) <= q.cache.config.MaxBody {
		_ = from.Close()
		return body, nil
	}
	tail := io.Reader(from)
	if err != nil {
		tail = broken{err}
	}
	return nil, struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), tail), from}
}

// broken is the rest of a body that has broken off.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

// store puts e where its request finds it, unless it was invalidated meanwhile.
func (q *query) store(e *entry) bool {
	if !q.cache.valid(e) || q.cache.ctx.Err() != nil {
		return false
	}
	vary, _ := varyOf(e.header)
	if names, ok := q.cache.entries.GetIfPresent(q.base); !ok || !q.cache.valid(names) || !slices.Equal(names.vary, vary) || !names.pass.IsZero() {
		q.cache.entries.Set(q.base, &entry{vary: vary, host: e.host, uri: e.uri, marks: e.marks[:1], all: e.all})
	}
	q.cache.entries.Set(selectKey(q.base, vary, q.request), e)
	q.cache.counts.stored.Add(1)
	return true
}

// rememberPass has requests for the URL pass for a time: to wait for each other would bring them
// nothing. The stored answer that x replaces is dropped.
func (q *query) rememberPass(x *exchange) {
	names := &entry{host: hostOf(q.request), uri: q.request.URL.RequestURI(), marks: x.marks, all: x.all, pass: x.receivedAt.Add(passTime)}
	if known, ok := q.cache.entries.GetIfPresent(q.base); ok && q.cache.valid(known) {
		names.vary = known.vary
		q.cache.entries.Invalidate(selectKey(q.base, names.vary, q.request))
	}
	q.cache.entries.Set(q.base, names)
}

// answer makes a response of e: 304 if the request's condition holds. stored is that it was
// stored before.
func (q *query) answer(e *entry, stored bool, status string) *http.Response {
	now := time.Now()
	header := e.header.Clone()
	age := e.age(now)
	if stored || age >= time.Second {
		header.Set("Age", strconv.FormatInt(int64(age/time.Second), 10))
	}
	for name, values := range q.cache.config.SetHeaders {
		header[http.CanonicalHeaderKey(name)] = values
	}
	q.transport.mark(header, fmt.Sprintf("%s; ttl=%d", status, int64((e.freshFor-age).Round(time.Second)/time.Second)))
	response := &http.Response{
		Status: strconv.Itoa(e.status) + " " + http.StatusText(e.status), StatusCode: e.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, ContentLength: int64(len(e.body)), Body: io.NopCloser(bytes.NewReader(e.body)), Request: q.request,
	}
	switch {
	case e.unmodified(q.request.Header):
		response.StatusCode, response.Status = http.StatusNotModified, "304 Not Modified"
		for _, name := range []string{"Content-Length", "Content-Type", "Content-Encoding", "Content-Language"} {
			header.Del(name)
		}
		response.Body, response.ContentLength = http.NoBody, 0
	case q.request.Method == http.MethodHead:
		response.Body = http.NoBody
	}
	return response
}

// nothing is the answer to only-if-cached without a stored answer (section 5.2.1.7).
func (q *query) nothing() *http.Response {
	const body = `{"title":"Gateway Timeout","status":504,"detail":"the request is only-if-cached, and no usable answer is stored"}`
	header := http.Header{"Content-Type": {"application/problem+json"}, "Cache-Control": {"no-store"}}
	q.transport.mark(header, "fwd=request; detail=only-if-cached")
	return &http.Response{
		Status: "504 Gateway Timeout", StatusCode: http.StatusGatewayTimeout, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body)), Request: q.request,
	}
}
