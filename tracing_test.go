package meshlite_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/tracing"
)

// A call that is refused by one instance and answered by another is one trace: a call,
// an attempt at each instance, and the span of each server below its attempt.
//
// Case traces: A call, its attempts with their instances and the handlers are one trace; a
// span ends with its call or stream, however that ends; what is off has no part.
func TestATraceHasEachAttemptAndItsInstance(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	traced, err := tracing.New(tracing.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))))
	if err != nil {
		t.Fatal(err)
	}
	first := make(chan struct{}, 1)
	failing := interceptors.Interceptors{UnaryServerInterceptor: func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		select {
		case <-first:
			return nil, status.Error(codes.Unavailable, "not now")
		default:
			return handler(ctx, req)
		}
	}}
	m := newMesh(t)
	for _, name := range []string{"a", "b"} {
		m.serve(&shop{name: name}, meshlite.WithRuntime(m.runtime), meshlite.WithTracing(traced), meshlite.WithInterceptors(failing))
	}
	client, _ := m.client("consul:///catalog", meshlite.WithTracing(traced), meshlite.WithBalancer("round_robin"))
	for n, answered := 0, map[string]bool{}; len(answered) < 2 && n < 4000; n++ { // connections are made one after the other
		answered[get(t, client, fmt.Sprint(n))] = true
	}
	before := map[trace.TraceID]bool{}
	for _, span := range spans.Started() {
		before[span.SpanContext().TraceID()] = true
	}
	first <- struct{}{}
	get(t, client, "x") // refused once
	for _, span := range spans.Started() {
		if id := span.SpanContext().TraceID(); !before[id] {
			leadTo(t, m.runtime, id.String())
			break
		}
	}
	get(t, client, "x") // from the cache

	var calls, attempts, served []sdktrace.ReadOnlySpan
	for deadline := time.Now().Add(5 * time.Second); len(served) < 2 && time.Now().Before(deadline); {
		calls, attempts, served = nil, nil, nil
		for _, span := range spans.Ended() {
			switch {
			case before[span.SpanContext().TraceID()]:
			case span.SpanKind() == trace.SpanKindServer:
				served = append(served, span)
			case strings.HasPrefix(span.Name(), "attempt "):
				attempts = append(attempts, span)
			default:
				calls = append(calls, span)
			}
		}
	}
	if len(calls) != 2 || len(attempts) != 2 || len(served) != 2 {
		t.Fatalf("%d calls, %d attempts and %d served, want 2 of each", len(calls), len(attempts), len(served))
	}
	for i, code := range []string{"UNAVAILABLE", "OK"} {
		if attempts[i].Parent().SpanID() != calls[0].SpanContext().SpanID() || served[i].Parent().SpanID() != attempts[i].SpanContext().SpanID() {
			t.Errorf("attempt %d is not between its call and its server", i+1)
		}
		if got := told(attempts[i], "rpc.response.status_code"); got != code {
			t.Errorf("attempt %d: %q, want %q", i+1, got, code)
		}
		if told(attempts[i], "network.peer.address") != "127.0.0.1" || told(attempts[i], "network.peer.port") == "" {
			t.Errorf("attempt %d does not tell its address: %v", i+1, attempts[i].Attributes())
		}
	}
	if one, other := told(attempts[0], "meshlite.instance.id"), told(attempts[1], "meshlite.instance.id"); one == "" || other == "" || one == other {
		t.Errorf("the attempts went to %q and %q, want two instances", one, other)
	}
	if told(calls[0], "meshlite.cache.result") != "miss" || told(calls[1], "meshlite.cache.result") != "hit" || told(calls[0], "server.address") != "catalog" {
		t.Errorf("the calls tell %v and %v", calls[0].Attributes(), calls[1].Attributes())
	}
}

func told(span sdktrace.ReadOnlySpan, key attribute.Key) string {
	for _, a := range span.Attributes() {
		if a.Key == key {
			return a.Value.String()
		}
	}
	return ""
}

// misplaced is a tracer at the place of the user's own.
type misplaced struct{ interceptors.Interceptors }

func (misplaced) Exemplar(context.Context) (traceID string, sampled bool) { return "", false }

func TestWithTracingTakesTracingOnly(t *testing.T) {
	_, err := meshlite.NewClient("dns:///localhost:1", meshlite.WithPlaintext(), meshlite.WithTracing(misplaced{}))
	if err == nil || !strings.Contains(err.Error(), `WithTracing "user"`) {
		t.Errorf("error is %v", err)
	}
	conn, err := meshlite.NewClient("dns:///localhost:1", meshlite.WithPlaintext(), meshlite.WithTracing(nil))
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}
