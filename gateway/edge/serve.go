package edge

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/meshlite-go/meshlite/gateway/problem"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
)

// Tracer makes the spans of requests: a *tracing.Tracing of package interceptors/tracing.
type Tracer interface {
	// StartRequest begins the span of r, below the one that its headers name, and returns r's
	// context with it. end is called once with the route and the status of the answer.
	StartRequest(r *http.Request) (ctx context.Context, end func(route string, status int))
	// Exemplar returns the id of the trace of ctx, and whether it is sampled.
	Exemplar(ctx context.Context) (traceID string, sampled bool)
}

// record is what becomes known of a request on its way.
type record struct {
	caller      Caller
	certificate string // its identity, if it is the caller's
	peer        peerAddress
	route       string
	checks      []check  // of its limits
	space       [1]check // of checks
	limit       string   // that decided
	limitResult ratelimit.Result
	refused     string // the reason, "" for a request that next has answered
	panicked    bool
	arm         [2]string // of a chain: the names of its route and arm
}

type recordKey struct{}

func recordOf(ctx context.Context) *record {
	rec, _ := ctx.Value(recordKey{}).(*record)
	return rec
}

// SetRoute names the route of the request of ctx for logs, metrics and traces, such as
// "/v1/{name=shelves/*}". A handler calls it before it returns; a name must be one of a fixed
// set. Without it the Pattern of the request is used, which [http.ServeMux] sets.
func SetRoute(ctx context.Context, route string) {
	if rec := recordOf(ctx); rec != nil {
		rec.route = route
	}
}

// SetArm names the route and the arm of the discovery chain that the request of ctx goes by, for
// logs. The handler of a site calls it, or what it calls, before it returns.
func SetArm(ctx context.Context, route, arm string) {
	if rec := recordOf(ctx); rec != nil {
		rec.arm = [2]string{route, arm}
	}
}

// Standings are how much is left of each limit of the request of ctx, after it was charged.
func Standings(ctx context.Context) []ratelimit.Standing {
	rec := recordOf(ctx)
	if rec == nil {
		return nil
	}
	return standingsOf(rec.checks)
}

// serve is one request, from its first to its last byte.
func (e *Edge) serve(next http.Handler, w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	x := &struct { // one allocation
		record   record
		response response
		body     countedBody
	}{response: response{ResponseWriter: w, edge: e, secure: r.TLS != nil}, body: countedBody{ReadCloser: r.Body}}
	rec, answer, body := &x.record, &x.response, &x.body
	ctx, endSpan := r.Context(), func(string, int) {}
	if e.config.Tracer != nil {
		ctx, endSpan = e.config.Tracer.StartRequest(r)
	}
	ctx = context.WithValue(ctx, recordKey{}, rec)
	r = r.WithContext(ctx)
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = body
	}
	e.metrics.inFlight.Inc()
	defer func() {
		failure := recover()
		if failure != nil {
			rec.panicked = true
			e.recovered(answer, r, failure)
		}
		e.metrics.inFlight.Dec()
		s := served{
			ctx: ctx, record: rec, request: r, route: routeOf(rec, r), status: answer.status,
			start: start, duration: time.Since(start), sent: answer.sent, received: body.n,
		}
		s.traceID = e.traceID(ctx)
		endSpan(s.route, s.status)
		e.metrics.observe(&s)
		e.log.write(&s)
		if failure != nil && answer.aborted {
			panic(http.ErrAbortHandler) // the connection ends, so that nobody takes half an answer for a whole one
		}
	}()
	next.ServeHTTP(answer, r)
	if answer.status == 0 {
		answer.WriteHeader(http.StatusOK)
	}
}

// recovered answers a request whose handler has panicked, if there is no answer yet.
func (e *Edge) recovered(answer *response, r *http.Request, failure any) {
	if failure == http.ErrAbortHandler {
		answer.aborted = true
		return
	}
	e.metrics.panics.Inc()
	e.log.panicked(r, failure, debug.Stack())
	if answer.status != 0 {
		answer.aborted = true
		return
	}
	defer func() {
		if recover() != nil { // the writer is what panics
			answer.aborted = true
		}
	}()
	problem.Write(answer, problem.Problem{Status: http.StatusInternalServerError, Code: "INTERNAL", Detail: "the handler failed"})
}

// routeOf is "" for a request that no route has.
func routeOf(rec *record, r *http.Request) string {
	if rec.route != "" {
		return rec.route
	}
	if _, path, ok := strings.Cut(r.Pattern, " "); ok { // "GET /v1/"
		return path
	}
	return r.Pattern
}

// traceID is that of a sampled request.
func (e *Edge) traceID(ctx context.Context) string {
	if e.config.Tracer == nil {
		return ""
	}
	if id, sampled := e.config.Tracer.Exemplar(ctx); sampled && len(id) <= maxTraceID {
		return id
	}
	return ""
}

// response counts what is sent, and sets the headers that answers lack.
type response struct {
	http.ResponseWriter
	edge    *Edge
	secure  bool
	status  int // 0 before the header
	sent    int64
	aborted bool
}

// Unwrap is for [http.ResponseController].
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader begins the answer.
func (w *response) WriteHeader(status int) {
	if w.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.status = status
		header := w.Header()
		for _, s := range w.edge.set {
			if _, ok := header[s.name]; !ok {
				header[s.name] = s.values
			}
		}
		if age := w.edge.config.HSTS; age > 0 && w.secure && header.Get("Strict-Transport-Security") == "" {
			header.Set("Strict-Transport-Security", "max-age="+secondsText(age))
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write sends a part of the body.
func (w *response) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	n, err := w.ResponseWriter.Write(b)
	w.sent += int64(n)
	return n, err
}

// Flush is for handlers that look for an [http.Flusher].
func (w *response) Flush() { _ = w.FlushError() }

// FlushError is for [http.ResponseController].
func (w *response) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack gives the connection away.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil && w.status == 0 {
		w.status = http.StatusSwitchingProtocols
	}
	return conn, buffered, err
}

// countedBody counts what is read of a body.
type countedBody struct {
	io.ReadCloser
	n int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	return n, err
}
