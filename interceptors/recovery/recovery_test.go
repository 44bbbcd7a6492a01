package recovery_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	testgrpc "google.golang.org/grpc/interop/grpc_testing"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/recovery"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "the password is sherbet"

// service panics with a value until it is stopped.
type service struct {
	testgrpc.UnimplementedTestServiceServer
	value any
	sound atomic.Bool
}

func (s *service) answer() {
	if !s.sound.Load() {
		panic(s.value)
	}
}

func (s *service) UnaryCall(context.Context, *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	s.answer()
	return &testgrpc.SimpleResponse{}, nil
}

func (s *service) FullDuplexCall(grpc.BidiStreamingServer[testgrpc.StreamingOutputCallRequest, testgrpc.StreamingOutputCallResponse]) error {
	s.answer()
	return nil
}

// X4: a panic in a handler: the process lives, INTERNAL without the stack on the
// wire, one counter +1.
//
// Case X4: A panic is INTERNAL, counted, without its stack on the wire.
func TestPanicInAHandler(t *testing.T) {
	calls := map[string]func(context.Context, testgrpc.TestServiceClient) error{
		"UnaryCall": func(ctx context.Context, client testgrpc.TestServiceClient) error {
			_, err := client.UnaryCall(ctx, &testgrpc.SimpleRequest{})
			return err
		},
		"FullDuplexCall": func(ctx context.Context, client testgrpc.TestServiceClient) error {
			stream, err := client.FullDuplexCall(ctx)
			if err != nil {
				return err
			}
			if _, err = stream.Recv(); err == io.EOF {
				return nil
			}
			return err
		},
	}
	values := map[string]any{
		"text": secret, "error": errors.New(secret), "status": status.Error(codes.NotFound, secret),
		"nil": nil, "abort": http.ErrAbortHandler,
	}
	for method, call := range calls {
		for name, value := range values {
			for _, alone := range []bool{false, true} {
				t.Run(method+" "+name, func(t *testing.T) {
					s := &service{value: value}
					var log bytes.Buffer
					var counted atomic.Int32
					client := serve(t, s, alone,
						recovery.WithLogger(slog.New(slog.NewTextHandler(&log, nil))),
						recovery.WithObserver(interceptors.ObserverFunc(func(_ context.Context, meta *interceptors.CallMeta, e interceptors.Event) {
							counted.Add(1)
							p := e.(*recovery.Panic)
							if meta.Method != method || meta.Service != "grpc.testing.TestService" || p.Value == nil || !bytes.Contains(p.Stack, []byte("answer")) {
								t.Errorf("observed %v, %v, %s", meta, p.Value, p.Stack)
							}
						})))
					err := call(t.Context(), client)
					if status.Code(err) != codes.Internal {
						t.Errorf("code %v, want Internal", status.Code(err))
					}
					if text := err.Error(); strings.Contains(text, "sherbet") || strings.Contains(text, ".go") {
						t.Errorf("the wire carries %q", text)
					}
					if lines := strings.Count(log.String(), "\n"); lines != 1 || !strings.Contains(log.String(), "recovery_test.go") {
						t.Errorf("%d lines in the log, want one with the stack: %s", lines, &log)
					}
					if counted.Load() != 1 {
						t.Errorf("counted %d, want 1", counted.Load())
					}
					s.sound.Store(true)
					if err := call(t.Context(), client); err != nil {
						t.Errorf("the next call: %v", err)
					}
				})
			}
		}
	}
}

// A panic is a log line with the user's frame first, the stack as an attribute of
// bounded size.
//
// Case X4
func TestTheLineOfAPanicBeginsWhereItHappened(t *testing.T) {
	var nobody *service
	for name, fault := range map[string]func(){
		"answer": func() { (&service{value: secret}).answer() },
		"nil":    func() { nobody.answer() },
		"index":  func() { _ = []int{}[len(name(nil))] },
		"again": func() {
			defer func() { panic(recover()) }()
			panic(secret)
		},
		"deep": func() { deep(10_000) },
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			r := build(t, recovery.WithLogger(slog.New(slog.NewJSONHandler(&log, nil))))
			_, _ = r.UnaryServerInterceptor()(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/shop.Catalog/GetSweet"},
				func(context.Context, any) (any, error) { fault(); return nil, nil })
			var line struct{ At, Stack string }
			if err := json.Unmarshal(log.Bytes(), &line); err != nil {
				t.Fatalf("%v: %s", err, &log)
			}
			if !strings.Contains(line.At, "recovery_test.") || !strings.Contains(line.At, "recovery_test.go:") {
				t.Errorf("at is %q, want a function of this test and its line", line.At)
			}
			function, _, _ := strings.Cut(line.At, " (")
			if !strings.HasPrefix(line.Stack, function) || len(line.Stack) > 8<<10 {
				t.Errorf("%d bytes of stack that begin with %.100q, want 8 KiB at most from %s on", len(line.Stack), line.Stack, function)
			}
			if _, attributes, _ := strings.Cut(log.String(), `"msg":"panic",`); !strings.HasPrefix(attributes, `"at":`) {
				t.Errorf("the frame is not the first attribute: %.200s", &log)
			}
		})
	}
}

func name([]int) string { return "none" }

func deep(n int) {
	if n == 0 {
		panic(secret)
	}
	deep(n - 1)
}

// X14: An observer that panics ends neither the process nor the call.
//
// Case X14 (observers)
func TestAnObserverThatPanics(t *testing.T) {
	var log bytes.Buffer
	r := build(t, recovery.WithLogger(slog.New(slog.NewTextHandler(&log, nil))),
		recovery.WithObserver(interceptors.ObserverFunc(func(context.Context, *interceptors.CallMeta, interceptors.Event) { panic("observer") })))
	_, err := r.UnaryServerInterceptor()(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/shop.Catalog/GetSweet"},
		func(context.Context, any) (any, error) { panic(secret) })
	if status.Code(err) != codes.Internal {
		t.Errorf("the call ends with %v, want INTERNAL", err)
	}
	if lines := strings.Count(log.String(), "\n"); lines != 1 {
		t.Errorf("logged %s, want the handler's panic", &log)
	}
}

func TestPanicInTheChainOfAClient(t *testing.T) {
	var counted int
	r := build(t, recovery.WithLogger(slog.New(slog.DiscardHandler)),
		recovery.WithObserver(interceptors.ObserverFunc(func(context.Context, *interceptors.CallMeta, interceptors.Event) { counted++ })))
	const method = "/shop.Catalog/GetSweet"
	err := r.UnaryClientInterceptor()(t.Context(), method, nil, nil, nil,
		func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { panic(secret) })
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), secret) {
		t.Errorf("unary: %v", err)
	}
	_, err = r.StreamClientInterceptor()(t.Context(), &grpc.StreamDesc{}, nil, method,
		func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
			panic(secret)
		})
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), secret) {
		t.Errorf("stream: %v", err)
	}
	if counted != 2 {
		t.Errorf("counted %d, want 2", counted)
	}
}

func TestGoexitIsNoPanic(t *testing.T) {
	r := build(t, recovery.WithObserver(interceptors.ObserverFunc(func(context.Context, *interceptors.CallMeta, interceptors.Event) { t.Error("counted") })))
	done, returned := make(chan struct{}), false
	go func() {
		defer close(done)
		_, _ = r.UnaryServerInterceptor()(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/shop.Catalog/GetSweet"},
			func(context.Context, any) (any, error) { runtime.Goexit(); return nil, nil })
		returned = true
	}()
	<-done
	if returned {
		t.Error("the goroutine went on")
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, opt := range map[string]recovery.Option{
		"WithObserver(nil)": recovery.WithObserver(nil),
	} {
		if _, err := recovery.New(opt); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func build(t *testing.T, opts ...recovery.Option) *recovery.Recovery {
	t.Helper()
	r, err := recovery.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func serve(t *testing.T, s *service, alone bool, opts ...recovery.Option) testgrpc.TestServiceClient {
	t.Helper()
	r := build(t, opts...)
	policies, err := interceptors.NewPolicies(nil)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := interceptors.Chain(interceptors.Server, policies, r)
	if err != nil {
		t.Fatal(err)
	}
	options := chain.ServerOptions()
	if alone {
		options = []grpc.ServerOption{grpc.UnaryInterceptor(r.UnaryServerInterceptor()), grpc.StreamInterceptor(r.StreamServerInterceptor())}
	}
	server := grpc.NewServer(options...)
	testgrpc.RegisterTestServiceServer(server, s)
	listener := bufconn.Listen(1 << 16)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///bufconn", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return testgrpc.NewTestServiceClient(conn)
}
