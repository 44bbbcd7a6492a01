package meshlite_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/tracing"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// journal is a log that tests can read. It is safe for concurrent use.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

// named are the lines so far that are called msg, all of them for "".
func (j *journal) named(t *testing.T, msg string) (found []map[string]any) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	for decoder := json.NewDecoder(bytes.NewReader(j.text.Bytes())); ; {
		var one map[string]any
		if err := decoder.Decode(&one); errors.Is(err, io.EOF) {
			return found
		} else if err != nil {
			t.Fatal(err)
		}
		if msg == "" || one["msg"] == msg {
			found = append(found, one)
		}
	}
}

// all is what was written so far.
func (j *journal) all() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// await is named once there are n of them.
func (j *journal) await(t *testing.T, n int, msg string) []map[string]any {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		found := j.named(t, msg)
		if len(found) >= n {
			return found
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d lines %q after 10s, want %d", len(found), msg, n)
		}
	}
}

// Both ends of a call have a line with its trace, and that of the client its instance.
//
// Case logs
func TestLinesOfACallLeadToItsTrace(t *testing.T) {
	log := &journal{}
	logger := slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	traced, err := tracing.New(tracing.WithTracerProvider(sdktrace.NewTracerProvider()))
	if err != nil {
		t.Fatal(err)
	}
	m := newMesh(t)
	m.serve(&shop{name: "a"}, meshlite.WithTracing(traced), meshlite.WithLogger(logger))
	client, _ := m.client("consul:///catalog", meshlite.WithTracing(traced), meshlite.WithLogger(logger))
	get(t, client, "x")
	get(t, client, "x") // from the cache
	var sides [2][]map[string]any
	for deadline := time.Now().Add(5 * time.Second); len(sides[0])+len(sides[1]) < 3 && time.Now().Before(deadline); {
		sides = [2][]map[string]any{}
		for _, one := range log.named(t, "call") {
			if one["method"] == catalogv1.CatalogService_GetSweet_FullMethodName {
				i := map[any]int{"client": 0, "server": 1}[one["side"]]
				sides[i] = append(sides[i], one)
			}
		}
	}
	if len(sides[0]) != 2 || len(sides[1]) != 1 {
		t.Fatalf("lines %v, want two of the client and one of the server", sides)
	}
	miss, hit, served := sides[0][0], sides[0][1], sides[1][0]
	if id, _ := miss["trace_id"].(string); len(id) != 32 || served["trace_id"] != id || hit["trace_id"] == id {
		t.Errorf("traces of %v, %v and %v", miss, hit, served)
	}
	if miss["cache"] != "miss" || miss["instance"] == nil || miss["address"] == nil || miss["attempts"] != 1.0 ||
		hit["cache"] != "hit" || hit["instance"] != nil || served["peer"] == nil {
		t.Errorf("lines %v, %v and %v", miss, hit, served)
	}
}

// Ejections are logged by the logger of the channel.
//
// Case logs
func TestEjectionsAreLoggedWhereTheChannelLogs(t *testing.T) {
	log := &journal{}
	m := newMesh(t)
	var failing atomic.Bool
	broken := interceptors.Interceptors{UnaryServerInterceptor: func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if failing.Load() && info.FullMethod == catalogv1.CatalogService_GetSweet_FullMethodName {
			return nil, status.Error(codes.Internal, "broken")
		}
		return handler(ctx, req) // its health is asked for
	}}
	m.serve(&shop{name: "a"})
	m.serve(&shop{name: "b"}, meshlite.WithInterceptors(broken))
	client, _ := m.client("consul:///catalog", uncached(), meshlite.WithBalancer("round_robin"), meshlite.WithLogger(slog.New(slog.NewJSONHandler(log, nil))))
	for n, answered := 0, map[string]bool{}; len(answered) < 2 && n < 4000; n++ { // connections are made one after the other
		answered[get(t, client, "x")] = true
	}
	failing.Store(true)
	for range 30 {
		_, _ = client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "x"})
	}
	one := log.await(t, 1, "endpoint ejected")[0]
	failed := log.await(t, 1, "call")
	if one["service"] != "catalog" || one["instance"] != failed[0]["instance"] || one["address"] != failed[0]["address"] ||
		one["reason"] != "consecutive_failures" || failed[0]["error"] != "broken" || failed[0]["code"] != "Internal" {
		t.Errorf("%v after %v", one, failed)
	}
}
