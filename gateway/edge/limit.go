package edge

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/gateway/problem"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
)

// What a [Limit] counts by, beside "header NAME".
const (
	ByAddress = "address" // of the caller, an IPv6 address by its /64
	BySubject = "subject" // of the caller
)

// Missing says how requests without the key of a limit count.
type Missing string

const (
	// MissingByAddress counts them by the caller's address. It is the default.
	MissingByAddress Missing = ""
	// MissingShared counts them together.
	MissingShared Missing = "shared"
	// MissingRefused answers them 400.
	MissingRefused Missing = "refuse"
)

// Refund says which requests a limit does not count.
type Refund uint8

const (
	// RefundNone counts all requests. It is the default.
	RefundNone Refund = iota
	// RefundFailed counts requests that succeeded.
	RefundFailed
	// RefundSucceeded counts requests that failed.
	RefundSucceeded
)

// Limit admits so many requests a period for each key. A refusal is 429. Functions are called
// once a request, concurrently, and may panic like a handler.
//
// Limits by address or header count before a token is verified, and so what tokens that are
// not valid cost. Those by subject, or with functions, which may ask [CallerOf], count after.
type Limit struct {
	Name   string        // in metrics, logs and RateLimit fields; unique
	Limit  uint64        // requests each Period; 0 admits none
	Period time.Duration // default: 1 s
	Burst  uint64        // requests at once; default: Limit
	// Rate replaces the three above for a request, such as by the plan of its subject. It
	// should return the same for the same key. Nil keeps them.
	Rate func(r *http.Request, limit ratelimit.Limit) ratelimit.Limit

	// Key is [ByAddress], the default, [BySubject] or "header NAME", such as "header X-Api-Key".
	Key string
	// KeyOf replaces Key by a function; false is a request without the key.
	KeyOf func(r *http.Request) (string, bool)
	// Missing is for requests without the key.
	Missing Missing
	// IPv6Prefix is how many bits of an IPv6 address count, 32 to 128. Default: 64.
	IPv6Prefix int

	// Paths are those that the limit is for: "/v1/sweets", or "/v1/" for all below it. None is
	// all. They are compared with the decoded path, in which slashes are merged. A gRPC method has
	// a path of its own beside those of its rule: see package transcode.
	Paths []string
	// Methods are those that the limit is for, such as POST; GET is for HEAD, too. None is all.
	Methods []string
	// Skip exempts the requests for which it returns true.
	Skip func(r *http.Request) bool
	// Cost is how many requests a request counts as. Nil is 1 each; one of 0 is admitted.
	Cost func(r *http.Request) uint64

	// Refund gives back what failed, or what succeeded, as far as time has not.
	Refund Refund
	// Success reports by the status of the answer whether a request has succeeded. Default:
	// below 400.
	Success func(status int) bool

	// Shadow counts and reports what it would refuse, and refuses nothing.
	Shadow bool
	// Status is that of a refusal, 400 to 599. Default: 429.
	Status int
	// Message is the detail of a refusal. Default: the limit, and when to try again.
	Message string
	// Handler answers refusals instead, after the header is set: Retry-After and the RateLimit
	// fields.
	Handler http.Handler
}

// limit is one that was checked.
type limit struct {
	Limit
	rate   ratelimit.Limit
	header string // that it counts by, or ""
	late   bool   // it can be counted when the subject is known only
	// results are its counters. A limit belongs to one edge.
	results [ratelimit.Shadowed + 1]prometheus.Counter
}

// limits are those of one edge.
type limits struct {
	all   []*limit
	table *ratelimit.Table
}

func newLimits(c *Config) (*limits, error) {
	var errs []error
	set := &limits{}
	named := map[string]bool{}
	for i, given := range c.Limits {
		l, err := newLimit(given)
		switch {
		case given.Name == "":
			err = wrong("Name", "give one")
		case named[given.Name]:
			err = wrong("Name", "two limits have it")
		}
		if err != nil {
			errs = append(errs, wrong(fmt.Sprintf("Limits[%d] %q", i, given.Name), "%w", err))
			continue
		}
		named[given.Name] = true
		set.all = append(set.all, l)
	}
	var err error
	if set.table, err = ratelimit.NewTable(cmp.Or(c.MaxKeys, defaultMaxKeys)); err != nil {
		errs = append(errs, wrong("MaxKeys", "%w", err))
	}
	return set, errors.Join(errs...)
}

func newLimit(given Limit) (*limit, error) {
	l := &limit{Limit: given, rate: ratelimit.Limit{Calls: given.Limit, Period: given.Period, Burst: given.Burst}}
	l.Key = cmp.Or(l.Key, ByAddress)
	l.IPv6Prefix = cmp.Or(l.IPv6Prefix, 64)
	l.Status = cmp.Or(l.Status, http.StatusTooManyRequests)
	name, byHeader := strings.CutPrefix(l.Key, "header ")
	if byHeader {
		l.header = http.CanonicalHeaderKey(name)
	}
	l.late = l.Key == BySubject || l.KeyOf != nil || l.Rate != nil || l.Skip != nil || l.Cost != nil
	switch {
	case given.Period < 0:
		return nil, wrong("Period", "%v: write a duration above 0", given.Period)
	case given.Key != "" && given.KeyOf != nil:
		return nil, wrong("Key", "KeyOf is given too: choose one")
	case byHeader && !validHeader(name, ""):
		return nil, wrong("Key", "%q: %q is no header's name", l.Key, name)
	case !byHeader && l.Key != ByAddress && l.Key != BySubject:
		return nil, wrong("Key", `%q: write "address", "subject" or "header NAME"`, l.Key)
	case l.Missing != MissingByAddress && l.Missing != MissingShared && l.Missing != MissingRefused:
		return nil, wrong("Missing", `%q: write "", "shared" or "refuse"`, l.Missing)
	case l.IPv6Prefix < 32 || l.IPv6Prefix > 128:
		return nil, fmt.Errorf("IPv6Prefix: %d: write 32 to 128", l.IPv6Prefix)
	case l.Refund > RefundSucceeded:
		return nil, wrong("Refund", "%d: write RefundNone, RefundFailed or RefundSucceeded", l.Refund)
	case l.Success != nil && l.Refund == RefundNone:
		return nil, wrong("Success", "it is given without Refund: leave it out, or say which requests are refunded")
	case l.Status < 400 || l.Status > 599:
		return nil, wrong("Status", "%d: write 400 to 599", l.Status)
	}
	for _, path := range l.Paths {
		if !strings.HasPrefix(path, "/") {
			return nil, wrong("Paths", "%q: write a path that begins with /", path)
		}
	}
	if l.Success == nil {
		l.Success = func(status int) bool { return status < 400 }
	}
	return l, nil
}

// applies reports whether the limit is for r.
func (l *limit) applies(r *http.Request) bool {
	if len(l.Paths) > 0 && !matches(l.Paths, withoutDoubleSlashes(r.URL.Path)) || len(l.Methods) > 0 && !l.isFor(r.Method) {
		return false
	}
	return l.Skip == nil || !l.Skip(r)
}

// isFor reports whether the limit is for method. HEAD costs what GET does.
func (l *limit) isFor(method string) bool {
	return slices.Contains(l.Methods, method) || method == http.MethodHead && slices.Contains(l.Methods, http.MethodGet)
}

// withoutDoubleSlashes is path as servers read it that merge slashes.
func withoutDoubleSlashes(path string) string {
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	return path
}

// check is one limit of one request.
type check struct {
	limit   *limit
	table   *ratelimit.Table
	key     string
	rate    ratelimit.Limit
	cost    uint64
	charge  ratelimit.TableCharge
	charged bool
}

// key is that of r. The first byte says what kind of value it is, so that no value passes for
// one of another kind.
func (l *limit) key(rec *record, r *http.Request) (string, bool) {
	value, ok := "", false
	switch {
	case l.KeyOf != nil:
		value, ok = l.KeyOf(r)
	case l.header != "":
		values := r.Header[l.header]
		value, ok = strings.Join(values, ", "), len(values) > 0 && values[0] != ""
	case l.Key == BySubject:
		value, ok = rec.caller.Subject, rec.caller.Subject != ""
	default:
		return l.addressKey(rec.caller.Address), true
	}
	switch {
	case ok:
		return l.valueKey(value), true
	case l.Missing == MissingByAddress:
		return l.addressKey(rec.caller.Address), true
	default:
		return l.Name + "\x00", l.Missing != MissingRefused
	}
}

func (l *limit) valueKey(value string) string { return l.Name + "\x00v" + value }

func (l *limit) addressKey(addr netip.Addr) string {
	if addr.Is6() {
		prefix, _ := addr.Prefix(l.IPv6Prefix)
		addr = prefix.Addr()
	}
	var space [16]byte
	bytes := space[:0]
	switch {
	case addr.Is4():
		four := addr.As4()
		bytes = append(bytes, four[:]...)
	case addr.Is6():
		space = addr.As16()
		bytes = space[:]
	}
	return l.Name + "\x00a" + string(bytes)
}

// charge charges the limits of r that can be counted before (late is false) or only after its
// subject is known. It answers, and returns false, if one refuses.
func (set *limits) charge(late bool, rec *record, w http.ResponseWriter, r *http.Request) bool {
	if rec.checks == nil {
		rec.checks = rec.space[:0]
	}
	from := len(rec.checks)
	for _, l := range set.all {
		if l.late != late || !l.applies(r) {
			continue
		}
		key, ok := l.key(rec, r)
		if !ok && !l.Shadow {
			rec.refused = refusedKey
			rec.refund(0)
			problem.Write(w, problem.Problem{
				Status: http.StatusBadRequest, Code: "INVALID_ARGUMENT",
				Detail: fmt.Sprintf("the request has no %s, by which limit %q counts: send it", l.by(), l.Name),
			})
			return false
		}
		c := check{limit: l, table: set.table, key: key, rate: l.rate, cost: 1}
		if l.Rate != nil {
			c.rate = l.Rate(r, l.rate)
		}
		if l.Cost != nil {
			c.cost = l.Cost(r)
		}
		rec.checks = append(rec.checks, c)
	}
	checks := rec.checks[from:]
	for i := range checks { // a request that one limit refuses costs nothing on the others
		c := &checks[i]
		if len(checks) == 1 {
			break // there are no others
		}
		if decision := set.table.Peek(c.key, c.rate, c.cost); !decision.Admitted && !c.limit.Shadow {
			return c.refuse(decision, rec, w, r)
		}
	}
	for i := range checks {
		c := &checks[i]
		decision, charge := set.table.Take(c.key, c.rate, c.cost)
		switch {
		case decision.Admitted:
			c.charge, c.charged = charge, true
			c.limit.results[ratelimit.Admitted].Inc()
		case c.limit.Shadow:
			rec.decide(c.limit, ratelimit.Shadowed)
			c.limit.results[ratelimit.Shadowed].Inc()
		default: // another request has taken the last place
			return c.refuse(decision, rec, w, r)
		}
	}
	return true
}

// decide names the limit that the log has: one that refuses, or else one that would.
func (rec *record) decide(l *limit, result ratelimit.Result) {
	rec.limit, rec.limitResult = l.Name, result
}

// refund gives back what was charged: all, if next has not seen the request (status 0), else
// by the status of its answer.
func (rec *record) refund(status int) {
	for i := range rec.checks {
		c := &rec.checks[i]
		if !c.charged {
			continue
		}
		failed := status == 0 || !c.limit.Success(status)
		if status == 0 || c.limit.Refund == RefundFailed && failed || c.limit.Refund == RefundSucceeded && !failed {
			c.charge.Refund()
			c.charged = false
		}
	}
}

// refuse answers for the limit of c. It returns false.
func (c *check) refuse(decision ratelimit.Decision, rec *record, w http.ResponseWriter, r *http.Request) bool {
	l := c.limit
	rec.refund(0)
	rec.refused = refusedLimit
	rec.decide(l, ratelimit.Refused)
	l.results[ratelimit.Refused].Inc()
	header := w.Header()
	setFields(header, rec.checks)
	detail := fmt.Sprintf("limit %q reached (%s by %s)", l.Name, c.rate, l.by())
	var details []json.RawMessage
	switch {
	case c.rate.Calls == 0:
		detail = fmt.Sprintf("limit %q admits nothing", l.Name)
	case decision.RetryAfter == ratelimit.Never:
		detail = fmt.Sprintf("limit %q: one request costs more than its burst (%s)", l.Name, c.rate)
	default:
		seconds := formatUint(max(ceilSeconds(decision.RetryAfter), 1))
		header.Set("Retry-After", seconds)
		detail += ": try again in " + seconds + " s"
		details = append(details, json.RawMessage(`{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"`+seconds+`s"}`))
	}
	if l.Handler != nil {
		l.Handler.ServeHTTP(w, r)
		return false
	}
	problem.Write(w, problem.Problem{
		Status: l.Status, Code: "RESOURCE_EXHAUSTED", Detail: cmp.Or(l.Message, detail), Details: details,
	})
	return false
}

// by is what the limit counts by, for people.
func (l *limit) by() string {
	if l.KeyOf != nil {
		return "function"
	}
	return l.Key
}

// standingsOf are those of limits that are in force.
func standingsOf(checks []check) []ratelimit.Standing {
	var all []ratelimit.Standing
	for i := range checks {
		if c := &checks[i]; !c.limit.Shadow {
			s := c.table.Standing(c.key, c.rate)
			s.Name = c.limit.Name
			all = append(all, s)
		}
	}
	return all
}

func setFields(header http.Header, checks []check) {
	if policy, state := ratelimit.Fields(standingsOf(checks)); policy != "" {
		header.Set("Ratelimit-Policy", policy)
		header.Set("Ratelimit", state)
	}
}

// keyOf is the key of a limit for a value that somebody has written down.
func (set *limits) keyOf(name, value string) (*limit, string, error) {
	i := slices.IndexFunc(set.all, func(l *limit) bool { return l.Name == name })
	if i < 0 {
		return nil, "", fmt.Errorf("edge: no limit is called %q", name)
	}
	l := set.all[i]
	switch {
	case value == "":
		return l, l.Name + "\x00", nil
	case l.KeyOf != nil || l.Key != ByAddress:
		return l, l.valueKey(value), nil
	}
	addr, err := caller.ParseAddress(value)
	if err != nil {
		return nil, "", fmt.Errorf("edge: limit %q counts by address, and %q is none", name, value)
	}
	return l, l.addressKey(addr), nil
}

func ceilSeconds(d time.Duration) uint64 {
	if d <= 0 {
		return 0
	}
	return uint64(d-1)/uint64(time.Second) + 1
}

func formatUint(n uint64) string { return strconv.FormatUint(n, 10) }
