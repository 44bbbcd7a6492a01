package logging_test

import (
	"context"
	"log/slog"
	"testing"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/logging"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

func plainServer(ctx context.Context, l *logging.Logging) error {
	_, err := l.UnaryServerInterceptor()(ctx, nil, info, answer)
	return err
}

var info = &grpc.UnaryServerInfo{FullMethod: method}

func answer(context.Context, any) (any, error) { return nil, nil }

func invoke(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
	return nil
}

// With debug off, calls that succeed cost a server nothing. A client cannot know that a
// call will not fail, and has to have the instance then: that is one allocation, which
// retries and traces use, too.
//
// Case logs
func TestCostOfCallsThatSucceed(t *testing.T) {
	for _, test := range []struct {
		level          slog.Level
		client, server float64
	}{{slog.LevelError, 0, 0}, {slog.LevelWarn, 1, 0}, {slog.LevelInfo, 1, 0}} {
		l, log := build(t, test.level)
		meta := &interceptors.CallMeta{Side: interceptors.Client, FullMethod: method, Policy: &policyv1.MethodPolicy{}}
		serverMeta := &interceptors.CallMeta{Side: interceptors.Server, FullMethod: method, Policy: &policyv1.MethodPolicy{}}
		inClient, inServer := l.UnaryClient(meta), l.UnaryServer(serverMeta)
		ctx := t.Context()
		for name, one := range map[string]struct {
			want float64
			call func()
		}{
			"client in a chain": {test.client, func() { _ = inClient(ctx, method, nil, nil, nil, invoke) }},
			"client alone":      {test.client, func() { _ = plainClient(ctx, l) }},
			"server in a chain": {test.server, func() { _, _ = inServer(ctx, nil, info, answer) }},
			"server alone":      {test.server, func() { _ = plainServer(ctx, l) }},
		} {
			if got := testing.AllocsPerRun(1000, one.call); got != one.want {
				t.Errorf("%v, %s: %v allocations, want %v", test.level, name, got, one.want)
			}
		}
		if all := log.all(t); len(all) != 0 {
			t.Errorf("%v: lines %v", test.level, all)
		}
	}
}

func BenchmarkCallThatSucceeds(b *testing.B) {
	for _, level := range []slog.Level{slog.LevelError, slog.LevelWarn, slog.LevelDebug} {
		logger := slog.New(discard{level})
		l, err := logging.New(logging.WithLogger(logger))
		if err != nil {
			b.Fatal(err)
		}
		b.Run("client/"+level.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = plainClient(b.Context(), l)
			}
		})
		b.Run("server/"+level.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = plainServer(b.Context(), l)
			}
		})
	}
}

// discard writes nothing from a level on.
type discard struct{ level slog.Level }

func (d discard) Enabled(_ context.Context, level slog.Level) bool { return level >= d.level }
func (discard) Handle(context.Context, slog.Record) error          { return nil }
func (d discard) WithAttrs([]slog.Attr) slog.Handler               { return d }
func (d discard) WithGroup(string) slog.Handler                    { return d }
