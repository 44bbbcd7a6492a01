package tracing_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/meshlite-go/meshlite/gateway/edge"
	"github.com/meshlite-go/meshlite/interceptors/tracing"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

var _ edge.Tracer = (*tracing.Tracing)(nil)

// A request that is served over HTTP is a span below the one that its headers name, and the
// calls that it makes are below it.
//
// Case traces
func TestTheTraceOfAnHTTPRequest(t *testing.T) {
	const traceID, parentID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	w := newWorld(t, setup{})
	e, err := edge.New(edge.Config{Tracer: w.traced})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/sweets/{id}", func(rw http.ResponseWriter, r *http.Request) {
		if _, err := w.catalog.GetSweet(r.Context(), &catalogv1.GetSweetRequest{Id: r.PathValue("id")}); err != nil {
			t.Error(err)
		}
	})
	request := httptest.NewRequest("GET", "/v1/sweets/x", nil)
	request.Header.Set("Traceparent", "00-"+traceID+"-"+parentID+"-01")
	e.Handler(mux).ServeHTTP(httptest.NewRecorder(), request)
	named := map[string]sdktrace.ReadOnlySpan{}
	for _, span := range w.spans.Ended() {
		if got := span.SpanContext().TraceID().String(); got != traceID {
			t.Errorf("%s is in trace %s", span.Name(), got)
		}
		named[fmt.Sprint(span.SpanKind(), " ", span.Name())] = span
	}
	served, called := named["server GET /v1/sweets/{id}"], named["client "+getSweet]
	if served == nil || called == nil || named["server "+getSweet] == nil {
		t.Fatalf("the spans are %v", named)
	}
	if got := served.Parent().SpanID().String(); got != parentID {
		t.Errorf("it is below %s", got)
	}
	if called.Parent().SpanID() != served.SpanContext().SpanID() {
		t.Error("the call is not below the request")
	}
}

// Spans name no method or path that a client has made up, and are errors where the server is
// to blame.
func TestSpansOfHTTPRequests(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	traced := newTracing(t, tracing.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))))
	for _, test := range []struct {
		method, route string
		status        int
		want          string
	}{
		{"GET", "", 404, "GET Unset [http.request.method=GET http.response.status_code=404]"},
		{"POST", "/v1/{name}", 200, "POST /v1/{name} Unset [http.request.method=POST http.route=/v1/{name} http.response.status_code=200]"},
		{"POST", "/v1/{name}", 502, "POST /v1/{name} Error [http.request.method=POST http.route=/v1/{name} http.response.status_code=502 error.type=502]"},
		{"GET", "", 0, "GET Error [http.request.method=GET error.type=aborted]"},
		{"BREW", "/pot", 418, "HTTP /pot Unset [http.request.method=_OTHER http.request.method_original=BREW http.route=/pot http.response.status_code=418]"},
	} {
		spans.Reset()
		_, end := traced.StartRequest(httptest.NewRequest(test.method, "/secret", nil))
		end(test.route, test.status)
		for _, span := range spans.Ended() {
			var attributes []string
			for _, a := range span.Attributes() {
				attributes = append(attributes, fmt.Sprintf("%s=%s", a.Key, a.Value.String()))
			}
			if got := fmt.Sprint(span.Name(), " ", span.Status().Code, " ", attributes); got != test.want || span.SpanKind() != trace.SpanKindServer {
				t.Errorf("%s, want %s", got, test.want)
			}
		}
		if n := len(spans.Ended()); n != 1 {
			t.Errorf("%d spans", n)
		}
	}
	unset := newTracing(t)
	request := httptest.NewRequest("GET", "/", nil)
	if ctx, end := unset.StartRequest(request); ctx != request.Context() {
		t.Error("without a provider there is a span")
	} else {
		end("", 200)
	}
}
