package meshlite_test

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/grpc"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/stats"

	"github.com/meshlite-go/meshlite"
)

// stuck is a stats handler that does not return when a call of EmptyCall begins.
type stuck struct{ entered, release chan struct{} }

type stuckKey struct{}

func (s stuck) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, stuckKey{}, info.FullMethodName)
}

func (s stuck) HandleRPC(ctx context.Context, event stats.RPCStats) {
	if _, begins := event.(*stats.Begin); begins && ctx.Value(stuckKey{}) == testgrpc.TestService_EmptyCall_FullMethodName {
		s.entered <- struct{}{}
		<-s.release
	}
}

func (stuck) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (stuck) HandleConn(context.Context, stats.ConnStats) {}

// What hangs outside all handlers is no call that could be named: the log says where to
// look for it.
func TestAStatsHandlerThatHangsIsLookedForInTheOptions(t *testing.T) {
	s := stuck{make(chan struct{}), make(chan struct{})}
	t.Cleanup(func() { close(s.release) })
	r := newMesh(t).run(newDeaf(t), meshlite.WithDrain(0, 0), meshlite.WithServerOptions(grpc.StatsHandler(s)))
	go func() {
		_, _ = testgrpc.NewTestServiceClient(r.conn).EmptyCall(context.Background(), &testgrpc.Empty{})
	}()
	<-s.entered
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	const line = "the gRPC server does not end: an interceptor or a stats handler of WithServerOptions does not return"
	if n := len(r.lines.named(t, line)); n != 1 {
		t.Errorf("%d lines say where to look, want 1", n)
	}
}

// Of very many methods whose handlers do not end ten are named, and the others counted.
func TestTheLinesOfHandlersThatHangAreBounded(t *testing.T) {
	const methods = 13
	entered, release := make(chan struct{}, methods), make(chan struct{})
	t.Cleanup(func() { close(release) })
	hang := grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error {
		entered <- struct{}{}
		<-release
		return nil
	})
	r := newMesh(t).run(newDeaf(t), meshlite.WithDrain(0, 0), meshlite.WithServerOptions(hang))
	for i := range methods {
		go func() {
			_ = r.conn.Invoke(context.Background(), fmt.Sprintf("/made.up.Service/M%d", i), &testgrpc.Empty{}, &testgrpc.Empty{})
		}()
	}
	for range methods {
		<-entered
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	named := r.lines.named(t, "a handler does not end although its call was cut off: it is left running")
	more := r.lines.named(t, "handlers of further methods do not end")
	if len(named) != 10 || len(more) != 1 || more[0]["methods"] != 3.0 {
		t.Errorf("%d methods are named, and of the others the log says %v: want 10, and 3 others", len(named), more)
	}
}
