package callstream

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meshlite-go/meshlite/internal/racetest"
	callv1 "github.com/meshlite-go/meshlite/proto/meshlite/call/v1"
)

// open is how many streams a client has.
func open(c *Client) (open, free int) {
	c.connections.mu.RLock()
	defer c.connections.mu.RUnlock()
	for _, on := range c.connections.open {
		on.mu.Lock()
		open, free = open+on.open, free+len(on.free)
		on.mu.Unlock()
	}
	return open, free
}

// eventually waits for something that happens in other goroutines.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func TestACallThatEndsEarlyEndsItsHandler(t *testing.T) {
	began, ended := make(chan bool, 1), make(chan error, 1)
	e := serveTest(t, func(ctx context.Context, text string) (string, error) {
		if text == "wait" {
			began <- overStream(ctx)
			<-ctx.Done()
			ended <- ctx.Err()
			return "", status.FromContextError(ctx.Err()).Err()
		}
		return text, nil
	})
	client := &Client{}
	conn := dialTest(t, client, []string{e.address})
	takesStreams(t, client, conn, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		if !<-began {
			t.Error("the call has a stream of its own")
		}
		cancel()
	}()
	if _, err := invoke(ctx, conn, does, "wait"); status.Code(err) != codes.Canceled {
		t.Errorf("a call that is cancelled: %v, want CANCELLED", err)
	}
	if err := <-ended; err != context.Canceled {
		t.Errorf("its handler: %v, want %v", err, context.Canceled)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	go func() { <-began }()
	if _, err := invoke(short, conn, does, "wait"); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a call that takes too long: %v, want DEADLINE_EXCEEDED", err)
	}
	<-ended
	if got, err := invoke(t.Context(), conn, does, "next"); got != "next" {
		t.Errorf("the call after them: %q, %v", got, err)
	}
}

// No call waits for another, and none is refused, however many there are.
func TestCallsBeyondTheStreams(t *testing.T) {
	const calls = 3 * maxStreams
	var over, alone, came atomic.Int64
	all := make(chan struct{})
	e := serveTest(t, func(ctx context.Context, text string) (string, error) {
		if text == "warm" {
			return text, nil
		}
		if overStream(ctx) {
			over.Add(1)
		} else {
			alone.Add(1)
		}
		if came.Add(1) == calls {
			close(all)
		}
		<-all
		return text, nil
	})
	client := &Client{}
	conn := dialTest(t, client, []string{e.address})
	takesStreams(t, client, conn, 1)
	var running sync.WaitGroup
	for range calls {
		running.Go(func() {
			if _, err := invoke(t.Context(), conn, does, ""); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
	if over.Load() != maxStreams || alone.Load() != calls-maxStreams {
		t.Errorf("%d calls at a time: %d over shared streams, %d not, want %d and %d", calls, over.Load(), alone.Load(), maxStreams, calls-maxStreams)
	}
	if open, free := open(client); open != maxStreams || free != maxStreams {
		t.Errorf("after them %d streams are open, %d free, want %d", open, free, maxStreams)
	}
	if n := e.streams.Load(); n != maxStreams {
		t.Errorf("the server has seen %d streams, want %d", n, maxStreams)
	}
}

// A server that drains loses no call: its clients close the streams between two calls.
func TestADrainingServerLosesNoCall(t *testing.T) {
	echo := func(_ context.Context, text string) (string, error) { return text, nil }
	ends := []*end{serveTest(t, echo), serveTest(t, echo), serveTest(t, echo)}
	var addresses []string
	for _, e := range ends {
		addresses = append(addresses, e.address)
	}
	client := &Client{}
	conn := dialTest(t, client, addresses)
	takesStreams(t, client, conn, len(ends))
	stop := make(chan struct{})
	var running sync.WaitGroup
	var calls atomic.Int64
	for i := range 8 {
		running.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				text := fmt.Sprint(i, " ", n)
				if got, err := invoke(t.Context(), conn, does, text); err != nil || got != text {
					t.Errorf("call %s: %q, %v", text, got, err)
					return
				}
				calls.Add(1)
			}
		})
	}
	for _, e := range ends[:2] {
		before := calls.Load()
		eventually(t, "a hundred calls", func() bool { return calls.Load() > before+100 })
		e.GracefulStop() // hangs while a client keeps a stream
	}
	close(stop)
	running.Wait()
}

// A server that dies fails the calls that it had, once each, and no others.
func TestACallWhoseServerDies(t *testing.T) {
	var handled atomic.Int64
	began, release := make(chan struct{}), make(chan struct{})
	e := serveTest(t, func(_ context.Context, text string) (string, error) {
		if text == "die" {
			handled.Add(1)
			close(began)
			<-release
		}
		return text, nil
	})
	client := &Client{}
	conn := dialTest(t, client, []string{e.address})
	takesStreams(t, client, conn, 1)
	go func() {
		<-began
		go e.Stop() // waits for the handler
		close(release)
	}()
	_, err := invoke(t.Context(), conn, does, "die")
	if code := status.Code(err); err != nil && code != codes.Unavailable {
		t.Errorf("a call whose server has died: %v, want UNAVAILABLE", err)
	}
	if n := handled.Load(); n != 1 {
		t.Errorf("%d handlers ran, want 1", n)
	}
}

// Who does not take part is asked once, and called as ever.
func TestAServerWithoutStreams(t *testing.T) {
	for name, opt := range map[string]grpc.ServerOption{
		"its interceptor refuses streams": grpc.ChainStreamInterceptor(func(any, grpc.ServerStream, *grpc.StreamServerInfo, grpc.StreamHandler) error {
			return status.Error(codes.PermissionDenied, "no streams here")
		}),
		"its interceptor refuses the question": grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			if Own(info.FullMethod) {
				return nil, status.Error(codes.PermissionDenied, "not this")
			}
			return handler(ctx, req)
		}),
	} {
		t.Run(name, func(t *testing.T) {
			e := serveTest(t, func(ctx context.Context, _ string) (string, error) { return fmt.Sprint(overStream(ctx)), nil }, opt)
			client := &Client{}
			conn := dialTest(t, client, []string{e.address})
			for range 200 {
				if over, err := invoke(t.Context(), conn, does, ""); err != nil || over == "true" {
					t.Fatalf("over a stream: %v, %v", over, err)
				}
				time.Sleep(50 * time.Microsecond)
			}
			if n := e.streams.Load(); n > 8 {
				t.Errorf("%d streams were tried", n)
			}
		})
	}
}

// Interceptors of the server run for each call, with its metadata, deadline and name.
func TestInterceptorsSeeEachCall(t *testing.T) {
	var mu sync.Mutex
	var methods []string
	e := serveTest(t, func(_ context.Context, text string) (string, error) { return text, nil },
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			if Own(info.FullMethod) {
				return handler(ctx, req)
			}
			if md, _ := metadata.FromIncomingContext(ctx); !slices.Equal(md["token"], []string{"right"}) && req.(*wrapperspb.StringValue).GetValue() != "warm" {
				return nil, status.Error(codes.Unauthenticated, "who are you?")
			}
			mu.Lock()
			methods = append(methods, info.FullMethod)
			mu.Unlock()
			return handler(ctx, req)
		}))
	client := &Client{}
	conn := dialTest(t, client, []string{e.address})
	takesStreams(t, client, conn, 1)
	mu.Lock()
	methods = nil
	mu.Unlock()
	if _, err := invoke(t.Context(), conn, does, "hello"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("without a token: %v, want UNAUTHENTICATED", err)
	}
	if _, err := invoke(metadata.AppendToOutgoingContext(t.Context(), "token", "right"), conn, does, "hello"); err != nil {
		t.Errorf("with its token: %v", err)
	}
	if _, err := invoke(t.Context(), conn, does, "hello"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("on the same stream without one: %v, want UNAUTHENTICATED", err)
	}
	if !slices.Equal(methods, []string{does}) {
		t.Errorf("the interceptor has let %v pass", methods)
	}
}

// What a hostile client writes on a stream harms nothing but its stream.
func TestHostileStreams(t *testing.T) {
	e := serveTest(t, answer)
	conn := dialTest(t, nil, []string{e.address})
	calls := callv1.NewCallServiceClient(conn)
	open := func() grpc.BidiStreamingClient[callv1.ServeRequest, callv1.ServeResponse] {
		t.Helper()
		stream, err := calls.Serve(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	unasked := open()
	_ = unasked.Send(&callv1.ServeRequest{Method: does})
	if _, err := unasked.Recv(); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a stream before Ready: %v, want FAILED_PRECONDITION", err)
	}
	if _, err := calls.Ready(t.Context(), &callv1.ReadyRequest{}); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		request *callv1.ServeRequest
		code    codes.Code // of the stream
		answer  codes.Code
		unknown bool
	}{
		"nothing":           {request: &callv1.ServeRequest{}, unknown: true},
		"no such method":    {request: &callv1.ServeRequest{Method: "/a/b"}, unknown: true},
		"itself":            {request: &callv1.ServeRequest{Method: callv1.CallService_Ready_FullMethodName}, unknown: true},
		"no message":        {request: &callv1.ServeRequest{Method: does, Message: []byte{0xff}}, answer: codes.Internal},
		"a time long ago":   {request: &callv1.ServeRequest{Method: does, TimeoutNanos: -1}},
		"too much metadata": {request: &callv1.ServeRequest{Method: does, Metadata: []*callv1.Metadata{{Key: "a", Values: [][]byte{make([]byte, maxMetadata+1)}}}}, code: codes.ResourceExhausted},
		"empty metadata":    {request: &callv1.ServeRequest{Method: does, Metadata: make([]*callv1.Metadata, maxMetadata+1)}, code: codes.ResourceExhausted},
		"reserved metadata": {request: &callv1.ServeRequest{Method: does, Metadata: []*callv1.Metadata{{Key: ":authority", Values: [][]byte{[]byte("evil")}}, {}, nil}}},
	} {
		stream := open()
		if err := stream.Send(test.request); err != nil {
			t.Fatal(err)
		}
		got, err := stream.Recv()
		if status.Code(err) != test.code || codes.Code(got.GetCode()) != test.answer || got.GetUnknownMethod() != test.unknown {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		_ = stream.CloseSend()
	}
	asking := open()
	for range maxUnknown {
		_ = asking.Send(&callv1.ServeRequest{})
		if _, err := asking.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := asking.Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a stream of unknown methods: %v, want that it ends", err)
	}
}

// A call over a shared stream allocates less than half of what one on its own does: both ends
// are in this process.
func TestACallAllocatesLess(t *testing.T) {
	if racetest.Enabled {
		t.Skip("the race detector allocates")
	}
	e := serveTest(t, func(_ context.Context, text string) (string, error) { return text, nil })
	client := &Client{}
	plain, streams := dialTest(t, nil, []string{e.address}), dialTest(t, client, []string{e.address})
	takesStreams(t, client, streams, 1)
	allocations := func(conn *grpc.ClientConn) float64 {
		return testing.AllocsPerRun(500, func() {
			if _, err := invoke(t.Context(), conn, does, "hello"); err != nil {
				t.Fatal(err)
			}
		})
	}
	own, shared := allocations(plain), allocations(streams)
	t.Logf("%.0f allocations on a stream of its own, %.0f on a shared one", own, shared)
	if shared > own/2 {
		t.Errorf("a call over a shared stream allocates %.0f times, on its own %.0f times, want at most half", shared, own)
	}
}
