package httpcache

import (
	"cmp"
	"hash/maphash"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/meshlite-go/meshlite/interceptors/cache/cachecontrol"
)

// entry is what is stored under a key. Under the key of a URL it is the names of the headers that
// select an answer, under the key of such a selection the answer. It is immutable but for
// failedUntil.
type entry struct {
	response bool
	host     string
	uri      string // path and query

	// Without an answer:
	vary []string  // canonical names, sorted
	pass time.Time // requests are not coalesced until then, since an answer was not stored

	// With one:
	status     int
	header     http.Header
	body       []byte
	initialAge time.Duration // when it was received
	receivedAt time.Time
	freshFor   time.Duration
	staleFor   time.Duration // after that, while it is validated
	errorFor   time.Duration // after that, if the site fails
	validate   bool          // before each use
	implicit   bool          // the answer did not say that it may be stored
	groups     []string
	marks      []mark
	all        uint64

	failedUntil atomic.Int64 // Unix nanoseconds: the site is not asked until then
}

// mark is a count of invalidations at the time when a request was sent.
type mark struct {
	slot  int
	count uint64
}

// overhead is what an entry takes beside its texts, in bytes.
const overhead = 512

func (e *entry) weight(key string) uint32 {
	n := overhead + len(key) + len(e.host) + len(e.uri) + len(e.body)
	for name, values := range e.header {
		n += len(name) + 32
		for _, v := range values {
			n += len(v) + 16
		}
	}
	for _, text := range slices.Concat(e.vary, e.groups) {
		n += len(text) + 16
	}
	return uint32(min(n, 1<<32-1))
}

// age is the current age (RFC 9111, section 4.2.3).
func (e *entry) age(now time.Time) time.Duration { return e.initialAge + now.Sub(e.receivedAt) }

var seed = maphash.MakeSeed()

func slotOf(name string) int { return int(maphash.String(seed, name) % invalidateSlots) }

// marksOf returns the counts of invalidations now.
func (c *Cache) marksOf(names ...string) []mark {
	marks := make([]mark, len(names))
	for i, name := range names {
		at := slotOf(name)
		s := &c.slots[at]
		if !s.used.Load() {
			s.used.Store(true) // before the count is read
		}
		marks[i] = mark{at, s.count.Load()}
	}
	return marks
}

// valid reports whether e was not invalidated since its request was sent.
func (c *Cache) valid(e *entry) bool {
	return e.all == c.all.Load() && !slices.ContainsFunc(e.marks, func(m mark) bool { return c.slots[m.slot].count.Load() != m.count })
}

// urlKey is the name under which all answers of a URL are invalidated.
func urlKey(host, uri string) string { return "url " + strings.ToLower(host) + " " + uri }

// baseKey is the key of a request without the headers that Vary names. The scheme that clients
// use is a part of it, since sites make links of it, and so is the site, which is the host of the
// URL.
func (c *Cache) baseKey(r *http.Request) string {
	key := urlKey(hostOf(r), r.URL.RequestURI()) + " " + r.URL.Host + " " + r.Header.Get("X-Forwarded-Proto")
	if c.config.Key != nil {
		key += " " + strconv.Quote(c.config.Key(r))
	}
	return key
}

// hostOf is the host that the client has asked for.
func hostOf(r *http.Request) string { return cmp.Or(r.Host, r.URL.Host) }

// selectKey is the key of the answer that the headers of r select (section 4.1).
func selectKey(base string, vary []string, r *http.Request) string {
	var b strings.Builder
	b.WriteString("select ")
	b.WriteString(base)
	for _, name := range vary {
		b.WriteByte(' ')
		b.WriteString(name)
		values := r.Header.Values(name)
		if len(values) > 0 { // absent is not empty
			b.WriteString(strconv.Quote(normalize(values)))
		}
	}
	return b.String()
}

// normalize joins the values of a header, without the white space around its elements.
func normalize(values []string) string {
	parts := strings.Split(strings.Join(values, ","), ",")
	for i := range parts {
		parts[i] = textproto.TrimString(parts[i])
	}
	return strings.Join(parts, ",")
}

// varyOf returns the names in Vary, and whether it is "*", which nothing matches.
func varyOf(h http.Header) (names []string, any bool) {
	for _, name := range strings.Split(normalize(h.Values("Vary")), ",") {
		switch name = http.CanonicalHeaderKey(name); name {
		case "":
		case "*":
			return nil, true
		default:
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), false
}

// understood are the final statuses that are stored if they have explicit freshness, and those
// of them that are cacheable without (RFC 9110, section 15.1), except for partial content.
var understood = map[int]bool{
	http.StatusOK: true, http.StatusNonAuthoritativeInfo: true, http.StatusNoContent: true, http.StatusMultipleChoices: true,
	http.StatusMovedPermanently: true, http.StatusPermanentRedirect: true, http.StatusNotFound: true,
	http.StatusMethodNotAllowed: true, http.StatusGone: true, http.StatusRequestURITooLong: true, http.StatusNotImplemented: true,
	http.StatusFound: false, http.StatusSeeOther: false, http.StatusTemporaryRedirect: false,
}

// exchange is a request that is sent to the site, and its answer.
type exchange struct {
	request    *http.Request
	response   *http.Response
	sentAt     time.Time
	receivedAt time.Time
	marks      []mark // before it was sent, as the others
	all        uint64
	groups     uint64
	noStore    bool // of the request
}

// entryOf makes the entry of an answer without its body, or nil if it must not be stored (RFC
// 9111, section 3).
func (c *Cache) entryOf(x *exchange) *entry {
	r := x.response
	said := cachecontrol.Parse(r.Header.Values("Cache-Control"))
	byDefault, known := understood[r.StatusCode]
	_, any := varyOf(r.Header)
	switch {
	case x.noStore || said.Any(cachecontrol.NoStore|cachecontrol.Private) || !known || any,
		slices.Contains(c.config.Exclude, r.StatusCode),
		len(c.config.Include) > 0 && !slices.Contains(c.config.Include, r.StatusCode),
		len(r.Trailer) > 0 || r.Header.Get("Content-Range") != "" || r.Header.Get("Set-Cookie") != "" && !c.drops("Set-Cookie"),
		r.ContentLength > c.config.MaxBody,
		strings.HasPrefix(r.Header.Get("Content-Type"), "text/event-stream"), // its end may never come
		c.config.Store != nil && !c.config.Store(x.request, r):
		return nil
	}
	identified := c.identified(x.request)
	shared := said.Any(cachecontrol.Public|cachecontrol.SharedMaxAge) || said.Has(cachecontrol.MustRevalidate) && !said.Has(cachecontrol.ProxyRevalidate)
	if identified && !shared {
		return nil
	}
	e := &entry{
		response: true, host: hostOf(x.request), uri: x.request.URL.RequestURI(),
		status: r.StatusCode, receivedAt: x.receivedAt, initialAge: initialAge(x), marks: x.marks, all: x.all,
		validate: said.Has(cachecontrol.NoCache), staleFor: c.config.StaleWhileRevalidate, errorFor: c.config.StaleIfError,
	}
	explicit := false
	if e.freshFor, explicit = freshness(r.Header, said, x.receivedAt); !explicit && !e.validate && !said.Has(cachecontrol.Public) {
		if c.config.Duration == 0 || !byDefault || identified {
			return nil
		}
		e.freshFor, e.implicit = c.config.Duration, true
	}
	if said.Has(cachecontrol.SharedMaxAge) { // it must not be used stale (5.2.2.10), unless it says so itself
		e.staleFor, e.errorFor = 0, 0
	}
	if d, ok := said.Seconds(cachecontrol.StaleWhileRevalidate); ok {
		e.staleFor = d
	}
	if d, ok := said.Seconds(cachecontrol.StaleIfError); ok {
		e.errorFor = d
	}
	if said.Has(cachecontrol.MustRevalidate) || e.validate {
		e.staleFor, e.errorFor = 0, 0
	}
	if e.freshFor == 0 && e.staleFor == 0 && e.errorFor == 0 && !hasValidator(r.Header) {
		return nil // it could never be used
	}
	e.header = c.storedHeader(r.Header)
	if c.config.Groups != nil && !c.addGroups(e, x) {
		return nil
	}
	return e
}

// addGroups reports whether no group was invalidated since the request was sent: its groups
// were not known then.
func (c *Cache) addGroups(e *entry, x *exchange) bool {
	e.groups = c.config.Groups(x.request, x.response)
	for _, group := range e.groups {
		e.marks = append(slices.Clip(e.marks), c.marksOf("group "+group)...)
	}
	return len(e.groups) == 0 || c.groups.Load() == x.groups
}

// freshness is how long an answer is fresh, and whether it says so (section 4.2.1).
func freshness(h http.Header, said cachecontrol.Directives, receivedAt time.Time) (d time.Duration, explicit bool) {
	if d, ok := said.Seconds(cachecontrol.SharedMaxAge); ok {
		return d, true
	}
	if d, ok := said.Seconds(cachecontrol.MaxAge); ok {
		return d, true
	}
	values := h.Values("Expires")
	if len(values) == 0 {
		return 0, false
	}
	expires, err := http.ParseTime(values[0])
	if err != nil || len(values) > 1 {
		return 0, true // an invalid date is in the past (section 5.3)
	}
	return max(0, expires.Sub(dateOf(h, receivedAt))), true
}

func dateOf(h http.Header, receivedAt time.Time) time.Time {
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		return date
	}
	return receivedAt
}

// initialAge is the corrected initial age (section 4.2.3).
func initialAge(x *exchange) time.Duration {
	apparent := max(0, x.receivedAt.Truncate(time.Second).Sub(dateOf(x.response.Header, x.receivedAt))) // a Date has whole seconds
	age, _ := cachecontrol.ParseSeconds(x.response.Header.Get("Age"))
	return max(apparent, age+x.receivedAt.Sub(x.sentAt))
}

// identified reports whether r says who asks.
func (c *Cache) identified(r *http.Request) bool {
	return slices.ContainsFunc(c.config.IdentityHeaders, func(name string) bool { return len(r.Header.Values(name)) > 0 })
}

func (c *Cache) drops(name string) bool {
	return slices.ContainsFunc(c.config.DropHeaders, func(drop string) bool { return strings.EqualFold(drop, name) })
}

// storedHeader is the header as it is stored (section 3.1).
func (c *Cache) storedHeader(h http.Header) http.Header {
	stored := h.Clone()
	for _, name := range strings.Split(normalize(h.Values("Connection")), ",") {
		stored.Del(name)
	}
	for _, name := range slices.Concat(perHop, c.config.DropHeaders) {
		stored.Del(name)
	}
	return stored
}

// perHop are of one connection, or made anew for each answer.
var perHop = []string{
	"Age", "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Authorization", "Proxy-Connection",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// hasValidator reports whether an answer can be validated.
func hasValidator(h http.Header) bool { return h.Get("Etag") != "" || h.Get("Last-Modified") != "" }

// conditional adds the validators of e to a request (section 4.3.1).
func (e *entry) conditional(h http.Header) {
	if tag := e.header.Get("Etag"); tag != "" {
		h.Set("If-None-Match", tag)
	}
	if modified := e.header.Get("Last-Modified"); modified != "" {
		h.Set("If-Modified-Since", modified)
	}
}

// unmodified reports whether the condition of a request says that it has e (section 4.3.2).
func (e *entry) unmodified(h http.Header) bool {
	if e.status != http.StatusOK {
		return false
	}
	if tags := h.Values("If-None-Match"); len(tags) > 0 {
		return matches(strings.Join(tags, ","), e.header.Get("Etag"))
	}
	since, err := http.ParseTime(h.Get("If-Modified-Since"))
	modified, wrong := http.ParseTime(e.header.Get("Last-Modified"))
	return err == nil && wrong == nil && !modified.After(since)
}

// matches compares tag with a list by weak comparison (RFC 9110, section 8.8.3.2).
func matches(list, tag string) bool {
	for list = strings.TrimLeft(list, " \t,"); list != ""; list = strings.TrimLeft(list, " \t,") {
		if list[0] == '*' {
			return true
		}
		one := strings.TrimPrefix(list, "W/")
		if one == "" || one[0] != '"' {
			return false
		}
		end := strings.IndexByte(one[1:], '"')
		if end < 0 {
			return false
		}
		if tag != "" && one[:end+2] == strings.TrimPrefix(tag, "W/") {
			return true
		}
		list = one[end+2:]
	}
	return false
}

// freshened is e with the header of a 304 to its validation (sections 3.2 and 4.3.4), or nil if
// that is about another answer or forbids storing.
func (c *Cache) freshened(e *entry, x *exchange) *entry {
	if tag := x.response.Header.Get("Etag"); tag != "" && e.header.Get("Etag") != "" && !matches(tag, e.header.Get("Etag")) {
		return nil
	}
	header := e.header.Clone()
	for name, values := range c.storedHeader(x.response.Header) {
		switch name {
		case "Content-Length", "Content-Encoding", "Content-Type", "Content-Range":
		default:
			header[name] = values
		}
	}
	merged := *x
	response := *x.response
	response.StatusCode, response.Header, response.ContentLength, response.Trailer = e.status, header, int64(len(e.body)), nil
	if age := x.response.Header.Get("Age"); age != "" {
		response.Header.Set("Age", age)
	}
	merged.response = &response
	updated := c.entryOf(&merged)
	if updated == nil {
		return nil
	}
	updated.body = e.body
	return updated
}
