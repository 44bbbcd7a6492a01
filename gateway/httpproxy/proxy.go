package httpproxy

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"

	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/gateway/problem"
	"github.com/meshlite-go/meshlite/internal/httpform"
	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// Proxy is the handler of one site. It is safe for concurrent use.
type Proxy struct {
	config    Config
	transport *transport
	reverse   *httputil.ReverseProxy
	stop      func() // of Follow
}

// New makes the proxy of a site and begins to follow its instances. Close it.
func New(config Config) (*Proxy, error) {
	config.set()
	if err := config.check(); err != nil {
		return nil, err
	}
	t, err := newTransport(&config)
	if err != nil {
		return nil, err
	}
	p := &Proxy{config: config, transport: t, stop: func() {}}
	var wrapped http.RoundTripper = t
	if config.Wrap != nil {
		wrapped = config.Wrap(t)
	}
	p.reverse = &httputil.ReverseProxy{
		Rewrite: p.rewrite, Transport: &router{t, wrapped}, ErrorHandler: p.fail, BufferPool: &buffers{},
		ErrorLog: log.New(quiet{config.Log, config.Name}, "", 0),
	}
	switch {
	case len(config.URLs) > 0:
	case config.FollowRoutes != nil:
		p.stop = config.FollowRoutes(config.Service, t.update)
	case config.Follow != nil:
		p.stop = config.Follow(config.Service, func(list []catalog.Instance) { t.update(listOf(list)) })
	}
	return p, nil
}

// Close ends what runs in the background and closes idle connections. Requests in flight go on.
func (p *Proxy) Close() {
	p.stop()
	p.transport.close()
}

// ServeHTTP forwards a request whose path has the prefix of the site. Errors that it makes are
// problem details: 502 if instances fail, 503 with Retry-After if none can be reached or too
// many requests are in flight, 504 if an answer takes too long.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	form := httpform.Check(r)
	switch {
	case r.Method == http.MethodConnect || r.Method == http.MethodTrace:
		problem.Write(w, problem.Problem{Status: http.StatusMethodNotAllowed, Detail: r.Method + " is not forwarded"})
	case form != nil:
		problem.Write(w, problem.Problem{Status: http.StatusBadRequest, Detail: form.Error()})
	case !strings.HasPrefix(r.URL.Path, p.config.Prefix):
		problem.Write(w, problem.Problem{Status: http.StatusNotFound, Detail: "no such site"})
	default:
		p.reverse.ServeHTTP(w, r)
	}
}

// rewrite makes the forwarded request. The transport replaces the host of its URL by an
// instance.
func (p *Proxy) rewrite(r *httputil.ProxyRequest) {
	out := r.Out
	out.URL.Scheme, out.URL.Host = "http", p.config.Name
	for name := range out.Header {
		if httpform.IsClaim(name) {
			delete(out.Header, name)
		}
	}
	if client := p.config.Client(r.In); client.IsValid() {
		out.Header.Set("X-Forwarded-For", client.String())
	}
	// Another protocol than WebSocket may carry requests that nobody has checked: HTTP/2 does.
	if upgrade := out.Header.Get("Upgrade"); upgrade != "" && !strings.EqualFold(upgrade, "websocket") {
		out.Header.Del("Upgrade")
		out.Header.Del("Connection")
	}
	out.Header.Set("X-Forwarded-Host", r.In.Host)
	out.Header.Set("X-Forwarded-Proto", "http")
	if r.In.TLS != nil {
		out.Header.Set("X-Forwarded-Proto", "https")
	}
	if !p.config.KeepPrefix {
		stripPrefix(out.URL, p.config.Prefix)
		if prefix := strings.TrimSuffix(p.config.Prefix, "/"); prefix != "" {
			out.Header.Set("X-Forwarded-Prefix", prefix)
		}
	}
	if p.config.Header == nil {
		return
	}
	for name, values := range p.config.Header(r.In) {
		out.Header[http.CanonicalHeaderKey(name)] = values
	}
}

// stripPrefix removes a prefix of the decoded path. Where the encoded one spells the prefix in
// another way, the path is encoded anew.
func stripPrefix(u *url.URL, prefix string) {
	n := len(prefix) - 1 // its last slash stays
	if u.RawPath != "" {
		if strings.HasPrefix(u.RawPath, prefix) {
			u.RawPath = u.RawPath[n:]
		} else {
			u.RawPath = ""
		}
	}
	u.Path = u.Path[n:]
}

// statusClientGone is for the log: the client has closed the request.
const statusClientGone = 499

// fail answers a request that has no response.
func (p *Proxy) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, detail := http.StatusBadGateway, "the site "+p.config.Name+" has failed"
	var tooLarge *http.MaxBytesError
	var body *bodyError
	switch {
	case errors.Is(r.Context().Err(), context.Canceled):
		w.WriteHeader(statusClientGone)
		return
	case errors.As(err, &tooLarge):
		status, detail = http.StatusRequestEntityTooLarge, "the body is too large"
	case errors.As(err, &body):
		status, detail = http.StatusBadRequest, "the body cannot be read"
	case errors.Is(err, errPath):
		status, detail = http.StatusBadRequest, errPath.Error()
	case errors.Is(err, errNoRoute):
		status, detail = http.StatusServiceUnavailable, "the site "+p.config.Name+" has no route for the request"
	case errors.Is(err, errBusy):
		status, detail = http.StatusServiceUnavailable, "the site "+p.config.Name+" has too many requests in flight"
	case errors.Is(err, errNoInstance):
		status, detail = http.StatusServiceUnavailable, "no instance of the site "+p.config.Name+" can be reached"
	case isTimeout(err):
		status, detail = http.StatusGatewayTimeout, "the site "+p.config.Name+" does not answer in time"
	}
	if status >= http.StatusInternalServerError {
		w.Header().Set("Retry-After", "1")
	}
	problem.Write(w, problem.Problem{Status: status, Detail: detail})
}

// Stats returns the counters of the site and the state of its instances.
func (p *Proxy) Stats() Stats { return p.transport.stats() }

// Routes returns what the site does with the discovery chain of its service. Without a chain it
// has no routes.
func (p *Proxy) Routes() *routes.Set { return p.transport.set }

// Picks are the instances of the site as those of a gRPC target, for package balancermetrics.
func (p *Proxy) Picks() resolver.Picks {
	picks := resolver.Picks{Directory: "list", Service: p.config.Name, Channels: 1, TableStats: p.transport.set.Endpoints()}
	if len(p.config.URLs) == 0 {
		picks.Directory, picks.Service, picks.Queries = "directory", p.config.Service.Service, []catalog.Query{p.config.Service}
	}
	return picks
}

// quiet logs what httputil reports, of single requests, at level debug.
type quiet struct {
	log  *slog.Logger
	site string
}

func (q quiet) Write(text []byte) (int, error) {
	q.log.Debug("forwarding failed", "site", q.site, "error", strings.TrimSpace(string(text)))
	return len(text), nil
}

// buffers are free ones for copying bodies.
type buffers struct{ pool sync.Pool }

const bufferSize = 32 << 10

// Get returns a free buffer.
func (b *buffers) Get() []byte {
	if buffer, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return buffer[:]
	}
	return new([bufferSize]byte)[:]
}

// Put takes one back.
func (b *buffers) Put(buffer []byte) {
	if len(buffer) == bufferSize {
		b.pool.Put((*[bufferSize]byte)(buffer))
	}
}
