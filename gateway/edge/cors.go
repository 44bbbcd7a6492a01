package edge

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzhttp"
	"github.com/rs/cors"

	"github.com/meshlite-go/meshlite/caller"
)

// CORS allows scripts of other origins to read answers, and pages of them to send what may
// change something, WebSockets included. Without it a browser's POST from another site is 403,
// readable or not.
type CORS struct {
	// Origins are those that may, such as "https://shop.example", "https://*.shop.example" or
	// "*". None turns CORS off.
	Origins []string
	// Methods are those that they may use. Default: GET, HEAD, POST, PUT, PATCH, DELETE.
	Methods []string
	// Headers are those that they may send. Default: Accept, Authorization, Content-Type,
	// If-None-Match, Prefer, Connect-Protocol-Version, Connect-Timeout-Ms, X-Grpc-Web,
	// X-User-Agent, Grpc-Timeout, Traceparent, Tracestate.
	Headers []string
	// Exposed are those that they may read. Default: ETag, Age, Retry-After, RateLimit,
	// RateLimit-Policy, Grpc-Status, Grpc-Message, Grpc-Status-Details-Bin.
	Exposed []string
	// Credentials lets them use cookies and client certificates. It needs named origins. Without
	// it a request of theirs that has some, and may change something, is 403.
	Credentials bool
	// MaxAge is for how long a browser remembers what is allowed. Default: 2 hours.
	MaxAge time.Duration
}

// origins decides what scripts and pages of other sites may do.
type origins struct {
	cors    func(http.Handler) http.Handler
	allowed func(*http.Request) bool // whether CORS names the origin
	// sameOrigin keeps pages of other sites from changing anything with the client certificate
	// or the cookies of their visitors: a POST without a Content-Type needs no preflight.
	sameOrigin  *http.CrossOriginProtection
	credentials bool // those that CORS names may use them
	proxies     *proxies
}

func newOrigins(c CORS, p *proxies) (*origins, error) {
	o := &origins{sameOrigin: http.NewCrossOriginProtection(), credentials: c.Credentials, proxies: p}
	if len(c.Origins) == 0 {
		if c.Credentials || len(c.Methods)+len(c.Headers)+len(c.Exposed) > 0 {
			return nil, wrong("CORS", "it is off without Origins: name those that are allowed")
		}
		o.cors = func(next http.Handler) http.Handler { return next }
		o.allowed = func(*http.Request) bool { return false }
		return o, nil
	}
	for _, origin := range c.Origins {
		if err := checkOrigin(origin, c.Credentials); err != nil {
			return nil, wrong("CORS.Origins", "%w", err)
		}
	}
	if c.MaxAge < 0 {
		return nil, wrong("CORS.MaxAge", "%v: write a duration from 0 on", c.MaxAge)
	}
	if c.MaxAge == 0 {
		c.MaxAge = 2 * time.Hour
	}
	allowed := cors.New(cors.Options{
		AllowedOrigins:   c.Origins,
		AllowedMethods:   or(c.Methods, "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"),
		AllowedHeaders:   or(c.Headers, "Accept", "Authorization", "Content-Type", "If-None-Match", "Prefer", "Connect-Protocol-Version", "Connect-Timeout-Ms", "X-Grpc-Web", "X-User-Agent", "Grpc-Timeout", "Traceparent", "Tracestate"),
		ExposedHeaders:   or(c.Exposed, "ETag", "Age", "Retry-After", "RateLimit", "RateLimit-Policy", "Grpc-Status", "Grpc-Message", "Grpc-Status-Details-Bin"),
		AllowCredentials: c.Credentials,
		MaxAge:           int(c.MaxAge / time.Second),
	})
	o.cors, o.allowed = allowed.Handler, allowed.OriginAllowed
	return o, nil
}

// refuses reports whether a page of another site sent r, which may change something and whose
// origin is not allowed that. By a WebSocket it may, although that is a GET; browsers say the
// origin of all.
func (o *origins) refuses(r *http.Request) bool {
	if o.allowed(r) && (o.credentials || !o.hasCredentials(r)) {
		return false
	}
	if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		r = &http.Request{Method: http.MethodPost, Host: r.Host, URL: r.URL, Header: http.Header{"Origin": r.Header["Origin"]}}
	}
	return o.sameOrigin.Check(r) != nil
}

// hasCredentials reports whether r has what a browser adds to requests of any page. What CORS
// allows without Credentials has none of it; a form has.
func (o *origins) hasCredentials(r *http.Request) bool {
	_, certified := caller.VerifiedTLS(r.TLS)
	return len(r.Header["Cookie"]) > 0 || certified && !o.proxies.peerOf(r).trusted
}

func or(given []string, otherwise ...string) []string {
	if len(given) > 0 {
		return given
	}
	return otherwise
}

func checkOrigin(origin string, credentials bool) error {
	if origin == "*" {
		if credentials {
			return errors.New(`"*" with Credentials would let any site act for its visitors: name the origins`)
		}
		return nil
	}
	u, err := url.Parse(strings.Replace(origin, "*", "any", 1))
	if err != nil || u.Scheme == "" || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil || strings.Contains(u.Host, "*") {
		return fmt.Errorf("%q is no origin: write one such as https://shop.example", origin)
	}
	// "https://*" and "https://shop*" are open to whoever registers a name.
	if i := strings.IndexByte(origin, '*'); i >= 0 && (!strings.HasPrefix(origin[i:], "*.") || !strings.HasSuffix(origin[:i], "://") || strings.Count(origin[i:], ".") < 2) {
		return fmt.Errorf("%q: write * only for all subdomains of a site, as in https://*.shop.example", origin)
	}
	return nil
}

// compressible are types that get shorter. A stream of events or lines is none: each must be
// sent at once.
func compressible(contentType string) bool {
	media, _, _ := strings.Cut(strings.ToLower(contentType), ";")
	media = strings.TrimSpace(media)
	switch media {
	case "text/event-stream":
		return false
	case "application/json", "application/javascript", "application/xml", "application/wasm", "application/yaml", "application/manifest+json", "image/svg+xml", "font/ttf", "font/otf":
		return true
	default:
		return strings.HasPrefix(media, "text/") || strings.HasSuffix(media, "+json") || strings.HasSuffix(media, "+xml")
	}
}

// minCompressed is the fewest bytes that get shorter by enough.
const minCompressed = 1 << 10

// newCompression wraps handlers, so that their answers are compressed. HEAD has no body, and an
// upgraded connection is left alone.
func newCompression() (func(http.Handler) http.Handler, error) {
	pack, err := gzhttp.NewWrapper(gzhttp.MinSize(minCompressed), gzhttp.ContentTypeFilter(compressible), gzhttp.SetContentType(false))
	if err != nil {
		return nil, err
	}
	return func(next http.Handler) http.Handler {
		packed := pack(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			plain := innerResponse(w)
			next.ServeHTTP(&choosing{ResponseWriter: w, packed: w, plain: plain}, r)
		}))
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead || r.Header.Get("Upgrade") != "" {
				next.ServeHTTP(w, r)
				return
			}
			packed(&weakened{w}, r)
		})
	}, nil
}

// innerResponse is what a writer of gzhttp wraps.
func innerResponse(w http.ResponseWriter) http.ResponseWriter {
	for {
		if plain, ok := w.(*weakened); ok {
			return plain.ResponseWriter
		}
		wrapped, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = wrapped.Unwrap()
	}
}

// choosing writes an answer compressed, or plain if its header says that it should be.
type choosing struct {
	http.ResponseWriter // packed or plain, after the header
	packed, plain       http.ResponseWriter
	chosen              bool
}

// Unwrap is for [http.ResponseController].
func (w *choosing) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *choosing) choose(status int) {
	if w.chosen || status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
		return
	}
	w.chosen = true
	header := w.plain.Header()
	if lengths := header["Content-Length"]; len(lengths) == 1 {
		if n, err := strconv.Atoi(lengths[0]); err == nil && n < minCompressed {
			w.ResponseWriter = w.plain
			return
		}
	}
	if status == http.StatusPartialContent || status == http.StatusSwitchingProtocols || header.Get("Content-Encoding") != "" ||
		!compressible(header.Get("Content-Type")) || strings.Contains(strings.ToLower(header.Get("Cache-Control")), "no-transform") {
		w.ResponseWriter = w.plain
	}
}

func (w *choosing) begin() {
	if !w.chosen {
		w.WriteHeader(http.StatusOK)
	}
}

// WriteHeader begins the answer.
func (w *choosing) WriteHeader(status int) {
	w.choose(status)
	w.ResponseWriter.WriteHeader(status)
}

// Write sends a part of the body.
func (w *choosing) Write(b []byte) (int, error) {
	w.begin()
	return w.ResponseWriter.Write(b)
}

// Flush is for handlers that look for an [http.Flusher].
func (w *choosing) Flush() { _ = w.FlushError() }

// FlushError is for [http.ResponseController].
func (w *choosing) FlushError() error {
	w.begin()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// weakened is below gzhttp's writer. A compressed answer is another representation, so a
// strong ETag of the plain one would be wrong for it (RFC 9110, 8.8.1).
type weakened struct{ http.ResponseWriter }

// Unwrap is for [http.ResponseController].
func (w *weakened) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader begins an answer that was left to gzhttp, so what is encoded was encoded by it.
func (w *weakened) WriteHeader(status int) {
	header := w.Header()
	if tag := header.Get("Etag"); tag != "" && header.Get("Content-Encoding") != "" && !strings.HasPrefix(tag, "W/") {
		header.Set("Etag", "W/"+tag)
	}
	w.ResponseWriter.WriteHeader(status)
}
