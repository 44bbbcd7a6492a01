package logging_test

import (
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/interceptors/logging"
)

func named(all []map[string]any, msg string) (found []map[string]any) {
	for _, one := range all {
		if one["msg"] == msg {
			found = append(found, one)
		}
	}
	return found
}

// What is left out is reported with the next call of the method, though that has no line.
//
// Case logs
func TestTooManyLinesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, log := build(t, slog.LevelWarn, logging.WithLimit(10))
		for range 50 {
			_, _ = server(t.Context(), l, status.Error(codes.Internal, "broken"))
		}
		_ = client(t.Context(), l, status.Error(codes.Internal, "broken")) // the other side has its own limit
		time.Sleep(999 * time.Millisecond)
		_, _ = server(t.Context(), l, nil)
		if all := log.all(t); len(all) != 11 || len(named(all, "call")) != 11 {
			t.Errorf("%d lines, want the 10 first and that of the client: %v", len(all), all)
		}
		time.Sleep(time.Millisecond)
		for range 2 {
			_, _ = server(t.Context(), l, nil)
		}
		all := log.all(t)
		if len(all) != 1 || all[0]["msg"] != "calls left out of the log" || all[0]["count"] != 40.0 ||
			all[0]["level"] != "WARN" || all[0]["method"] != method || all[0]["side"] != "server" {
			t.Errorf("%v, want one line that reports 40", all)
		}
	})
}

// A flood at debug costs no failure its line, nor does that of one method another's.
//
// Case logs
func TestAFloodHidesNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, log := build(t, slog.LevelDebug, logging.WithLimit(10))
		for range 50 {
			_, _ = server(t.Context(), l, nil)
		}
		_, _ = server(t.Context(), l, status.Error(codes.Internal, "broken"))
		_, _ = l.UnaryServerInterceptor()(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/other.Service/Method"}, answer)
		all := log.all(t)
		if len(all) != 12 || all[10]["level"] != "WARN" || all[11]["method"] != "/other.Service/Method" {
			t.Errorf("%d lines, want 10 and the two others: %v", len(all), all)
		}
	})
}

// A proxy may be asked for any number of methods, and a peer may make them up.
//
// Case logs
func TestManyMethodsHaveOneLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, log := build(t, slog.LevelDebug, logging.WithLimit(10))
		for i := range 5000 {
			_, _ = l.UnaryServerInterceptor()(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: fmt.Sprintf("/proxied/%d", i)}, answer)
		}
		if n := len(log.all(t)); n != 1024+10 {
			t.Errorf("%d lines, want those of the first 1024 methods and 10", n)
		}
		l, log = build(t, slog.LevelDebug, logging.WithLimit(10))
		for i := range 100 {
			_ = l.StreamServerInterceptor()(nil, stream{t.Context()}, &grpc.StreamServerInfo{FullMethod: fmt.Sprintf("/made.Up/%d", i)},
				func(any, grpc.ServerStream) error { return status.Error(codes.Unimplemented, "no") })
		}
		if n := len(log.all(t)); n != 10 {
			t.Errorf("%d lines of methods that were made up, want 10", n)
		}
	})
}
