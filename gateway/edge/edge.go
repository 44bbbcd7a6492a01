package edge

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/internal/httpform"
)

const (
	defaultMaxBody = 4 << 20 // as gRPC's own for messages
	defaultMaxURL  = 8 << 10
	defaultMaxKeys = 1 << 17
)

// Config is what an [Edge] does. The zero Config is valid: nobody is limited, no proxy is
// trusted, no token is read and no origin is allowed.
type Config struct {
	// TrustedProxies are the networks of proxies in front of the gateway.
	TrustedProxies []netip.Prefix
	// ForwardedBy is the header in which all of them write for whom they call: "Forwarded" (RFC
	// 7239) or "X-Forwarded-For", the default. The other is ignored: a proxy passes on what it
	// does not write itself.
	ForwardedBy string

	// Verifier verifies bearer tokens. Nil leaves the Authorization header alone.
	Verifier Verifier
	// RequireSubject answers 401 to requests without a subject, except for CORS preflights.
	RequireSubject bool
	// Public lists paths that RequireSubject does not apply to, such as "/openapi.json", or
	// "/docs/" for all below it.
	Public []string

	Limits []Limit
	// MaxKeys bounds for how many keys counts are kept: 64 to 268,435,456, by default 131,072.
	MaxKeys int
	// Fields sends the RateLimit fields with all answers, not only with refusals.
	Fields bool

	// Headers lists request headers that are passed on to gRPC backends as metadata, in any
	// case. Headers that only the gateway may set, hop-by-hop headers and those that gRPC
	// reserves are an error. A request with more than 12 KiB of them is 431.
	Headers []string

	// CORS allows scripts of other origins. The zero value allows none.
	CORS CORS
	// NoCompression sends answers as they are.
	NoCompression bool
	// ResponseHeaders are set on answers that lack them, beside "X-Content-Type-Options: nosniff"
	// and "X-Frame-Options: SAMEORIGIN". An empty value leaves one of those out.
	ResponseHeaders map[string]string
	// HSTS is the max-age of Strict-Transport-Security on answers over TLS. 0 sends none.
	HSTS time.Duration

	// MaxBody bounds the body of a request, in bytes. Default: 4 MiB. Negative is no bound.
	MaxBody int64
	// MaxURL bounds path and query, in bytes. Default: 8 KiB.
	MaxURL int

	// Logger writes the access log, and panics. Default: slog.Default().
	Logger *slog.Logger
	// LogPath adds the path of requests to the log, without the query. Paths may have personal
	// data in them; the route is logged in any case.
	LogPath bool
	// LogSubject adds the subject of tokens to the log. That of a certificate is in it always.
	LogSubject bool
	// LogLines bounds the lines of the access log in a second, for each level. Default: 100.
	LogLines int
	// Tracer makes a span for each request. Nil is none; the trace of a request is passed on in
	// any case.
	Tracer Tracer
}

// Edge wraps handlers. It is safe for concurrent use, has no goroutines and owns nothing that
// needs closing. It is a prometheus.Collector.
type Edge struct {
	config         Config
	proxies        *proxies
	authentication *authentication
	limits         *limits
	passedOn       passedOn
	origins        *origins
	compressed     func(http.Handler) http.Handler // nil without compression
	set            []setHeader                     // on answers that lack them
	log            *accessLog
	metrics        *metrics
}

// setHeader is a header of answers. Nobody changes the values.
type setHeader struct {
	name   string
	values []string
}

// New checks config. Its errors name the field.
func New(config Config) (*Edge, error) {
	e := &Edge{config: config}
	var errs [7]error
	e.proxies, errs[0] = newProxies(&config)
	e.authentication, errs[1] = newAuthentication(&config)
	e.limits, errs[2] = newLimits(&config)
	e.passedOn, errs[3] = newPassedOn(config.Headers)
	e.origins, errs[4] = newOrigins(config.CORS, e.proxies)
	errs[5] = e.setBounds()
	if !config.NoCompression {
		e.compressed, errs[6] = newCompression()
	}
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("edge: %w", err)
	}
	e.log = newAccessLog(&e.config)
	e.metrics = newMetrics(e.limits.all)
	return e, nil
}

func (e *Edge) setBounds() error {
	c := &e.config
	if c.MaxBody == 0 {
		c.MaxBody = defaultMaxBody
	}
	if c.MaxURL == 0 {
		c.MaxURL = defaultMaxURL
	}
	switch {
	case c.MaxURL < 0:
		return wrong("MaxURL", "%d: write 1 or more, or 0 for %d", c.MaxURL, defaultMaxURL)
	case c.LogLines < 0:
		return wrong("LogLines", "%d: write 1 or more, or 0 for %d", c.LogLines, defaultLines)
	case c.HSTS < 0:
		return wrong("HSTS", "%v: write a duration from 0 on", c.HSTS)
	}
	set := map[string]string{"X-Content-Type-Options": "nosniff", "X-Frame-Options": "SAMEORIGIN"}
	for name, value := range c.ResponseHeaders {
		if !validHeader(name, value) {
			return wrong("ResponseHeaders", "%q: %q is no header", name, value)
		}
		set[http.CanonicalHeaderKey(name)] = value
	}
	for name, value := range set {
		if value != "" {
			e.set = append(e.set, setHeader{name, []string{value}})
		}
	}
	return nil
}

// wrong is the error of a field.
func wrong(field, format string, args ...any) error {
	return fmt.Errorf("%s: %w", field, fmt.Errorf(format, args...))
}

func validHeader(name, value string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`()<>@,;:\"/[]?={}`, r)
	}) && !strings.ContainsAny(value, "\r\n\x00")
}

// Handler stands around next. Its request contexts have the [Caller], and its answers are
// next's or, for what is refused before next, problem details (RFC 9457).
//
// Body limits and timeouts reach next as errors of reading the body: an *http.MaxBytesError
// is to be answered 413, os.ErrDeadlineExceeded 408.
func (e *Edge) Handler(next http.Handler) http.Handler {
	if e.compressed != nil {
		next = e.compressed(next)
	}
	chain := e.origins.cors(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { e.admit(next, w, r) }))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { e.serve(chain, w, r) })
}

// Metadata is what a gRPC backend gets of r, a request below [Edge.Handler]: the subject
// ([caller.SubjectKey]) and the address (x-forwarded-for) of its caller, its trace
// (traceparent, tracestate, baggage) and the headers in [Config.Headers]. Nothing else of what
// comes from outside is in it.
//
// x-forwarded-for has the one address that was found behind trusted proxies, so that backends
// need to trust the gateway only. Bytes of a subject that metadata cannot carry, and %, are
// percent-encoded.
func (e *Edge) Metadata(r *http.Request) metadata.MD {
	md := metadata.MD{}
	who := CallerOf(r.Context())
	if who.Subject != "" {
		md[caller.SubjectKey] = []string{metadataText(who.Subject)}
	}
	if who.Address.IsValid() {
		md["x-forwarded-for"] = []string{who.Address.String()}
	}
	setTrace(md, r.Header, maxForwarded-e.passedOn.size(r.Header))
	e.passedOn.copy(md, r.Header)
	return md
}

// Forward rewrites the headers of out, which are on their way to a plain HTTP backend on
// behalf of in, a request below [Edge.Handler]: X-Forwarded-For, -Proto and -Host are set, and
// X-Meshlite-Subject if the caller has one. What comes from outside under these names, and
// others of their kind, is removed, unless in comes from a trusted proxy: then the gateway
// appends itself to X-Forwarded-For, and -Proto is what the proxy says. -Host is always the Host
// of in: proxies pass it on, and an X-Forwarded-Host that they do not write is the caller's.
// [httputil.ReverseProxy] calls it in Rewrite.
func (e *Edge) Forward(in *http.Request, out http.Header) {
	for name := range out {
		if httpform.IsClaim(name) {
			delete(out, name)
		}
	}
	hops, proto := e.proxies.forwarded(in)
	if len(hops) > 0 {
		out.Set(forwardedFor, strings.Join(hops, ", "))
	}
	out.Set("X-Forwarded-Proto", proto)
	out.Set("X-Forwarded-Host", in.Host)
	if subject := CallerOf(in.Context()).Subject; subject != "" {
		out.Set(caller.SubjectKey, metadataText(subject))
	}
}

// Standing returns what the key value, such as an address or a subject, has left of the limit
// called name, and charges nothing. "" is that of all requests without the key, where they
// count together. A function in Rate is not asked.
func (e *Edge) Standing(name, value string) (ratelimit.Standing, error) {
	l, key, err := e.limits.keyOf(name, value)
	if err != nil {
		return ratelimit.Standing{}, err
	}
	s := e.limits.table.Standing(key, l.rate)
	s.Name = l.Name
	return s, nil
}

// Reset gives the key value its whole burst of the limit called name again.
func (e *Edge) Reset(name, value string) error {
	_, key, err := e.limits.keyOf(name, value)
	if err == nil {
		e.limits.table.Reset(key)
	}
	return err
}

// Describe is for Prometheus.
func (e *Edge) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range e.metrics.collectors() {
		c.Describe(ch)
	}
}

// Collect is for Prometheus.
func (e *Edge) Collect(ch chan<- prometheus.Metric) {
	for _, c := range e.metrics.collectors() {
		c.Collect(ch)
	}
}

// matches reports whether path is one of paths, or below one that ends in a slash.
func matches(paths []string, path string) bool {
	return slices.ContainsFunc(paths, func(p string) bool {
		return p == path || strings.HasSuffix(p, "/") && strings.HasPrefix(path, p)
	})
}
