package logging_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	testgrpc "google.golang.org/grpc/interop/grpc_testing"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/logging"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const method = "/grpc.testing.TestService/UnaryCall"

// lines is a log that tests can read. It is safe for concurrent use.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) all(t *testing.T) []map[string]any {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []map[string]any
	for decoder := json.NewDecoder(&l.text); ; {
		var one map[string]any
		if err := decoder.Decode(&one); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, one)
	}
}

func build(t testing.TB, level slog.Level, opts ...logging.Option) (*logging.Logging, *lines) {
	t.Helper()
	log := &lines{}
	logger := slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: level}))
	l, err := logging.New(append([]logging.Option{logging.WithLogger(logger)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return l, log
}

// Case logs: A line per call: its level by whose affair it is, what cache and limits decided,
// instance, trace, messages of a stream; a panic once; of a flood the first of each second and
// the number of the others; nothing allocated on a server with debug off.
func TestLevelDependsOnWhoIsResponsible(t *testing.T) {
	want := map[codes.Code]string{
		codes.OK: "DEBUG", codes.Canceled: "DEBUG", codes.InvalidArgument: "DEBUG", codes.NotFound: "DEBUG",
		codes.AlreadyExists: "DEBUG", codes.PermissionDenied: "DEBUG", codes.ResourceExhausted: "DEBUG",
		codes.FailedPrecondition: "DEBUG", codes.Aborted: "DEBUG", codes.OutOfRange: "DEBUG", codes.Unauthenticated: "DEBUG",
		codes.Unknown: "WARN", codes.DeadlineExceeded: "WARN", codes.Unimplemented: "WARN", codes.Internal: "WARN",
		codes.Unavailable: "WARN", codes.DataLoss: "WARN",
	}
	for code, level := range want {
		l, log := build(t, slog.LevelDebug)
		_ = client(t.Context(), l, status.Error(code, "why"))
		_, _ = server(t.Context(), l, status.Error(code, "why"))
		all := log.all(t)
		if len(all) != 2 || all[0]["level"] != level || all[1]["level"] != level || all[0]["code"] != code.String() {
			t.Errorf("%v: %v, want two lines at %s", code, all, level)
		}
	}
}

func TestFailuresAreLoggedWithDebugOff(t *testing.T) {
	l, log := build(t, slog.LevelWarn)
	_ = client(t.Context(), l, nil)
	_ = client(t.Context(), l, status.Error(codes.NotFound, "no such sweet"))
	_ = client(t.Context(), l, context.DeadlineExceeded)
	all := log.all(t)
	if len(all) != 1 || all[0]["code"] != "DeadlineExceeded" || all[0]["instance"] != "catalog-2" || all[0]["attempts"] != 2.0 {
		t.Errorf("%v, want one line of the instance and both attempts", all)
	}
}

func TestLevelsCanBeChanged(t *testing.T) {
	l, log := build(t, slog.LevelWarn, logging.WithLevel(func(codes.Code) slog.Level { return slog.LevelError }))
	_ = client(t.Context(), l, nil)
	if all := log.all(t); len(all) != 1 || all[0]["level"] != "ERROR" {
		t.Errorf("%v, want one error", all)
	}
}

// Case X12 (logs)
func TestLongMessagesAreCut(t *testing.T) {
	l, log := build(t, slog.LevelWarn)
	_ = client(t.Context(), l, status.Error(codes.Internal, strings.Repeat("é", 1<<20)))
	if text, _ := log.all(t)[0]["error"].(string); len(text) > 600 {
		t.Errorf("%d bytes are logged", len(text))
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, opt := range map[string]logging.Option{
		"WithLevel(nil)":     logging.WithLevel(nil),
		"WithErrorText(nil)": logging.WithErrorText(nil), "WithLimit(0)": logging.WithLimit(0),
	} {
		if _, err := logging.New(opt); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// One line per call, with method, peer or instance, code, duration; never
// payloads or metadata.
//
// Case logs
// Case X12 (logs)
func TestLinesOfRealCalls(t *testing.T) {
	l, log := build(t, slog.LevelDebug)
	stub := serve(t, l)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "sherbet")
	if _, err := stub.UnaryCall(ctx, &testgrpc.SimpleRequest{Payload: &testgrpc.Payload{Body: []byte("sherbet")}}); err != nil {
		t.Fatal(err)
	}
	stream, err := stub.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := stream.Recv(); status.Code(err) != codes.Unimplemented {
			t.Fatal(err)
		}
	}
	log.mu.Lock()
	if strings.Contains(log.text.String(), "sherbet") {
		t.Errorf("secrets in %s", &log.text)
	}
	log.mu.Unlock()
	all := log.all(t)
	if len(all) != 4 {
		t.Fatalf("%d lines, want one for each side of two calls: %v", len(all), all)
	}
	for _, one := range all {
		if one["duration"] == nil || one["side"] == "server" && one["peer"] != "bufconn" || one["side"] == "client" && one["attempts"] != 1.0 {
			t.Errorf("line %v", one)
		}
		if _, counted := one["sent"]; counted != (one["method"] != method) {
			t.Errorf("line %v: messages are those of streams", one)
		}
	}
}

type service struct {
	testgrpc.UnimplementedTestServiceServer
}

func (service) UnaryCall(context.Context, *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	return &testgrpc.SimpleResponse{Payload: &testgrpc.Payload{Body: []byte("sherbet")}}, nil
}

func serve(t *testing.T, l *logging.Logging) testgrpc.TestServiceClient {
	t.Helper()
	policies, err := interceptors.NewPolicies(nil)
	if err != nil {
		t.Fatal(err)
	}
	outgoing, err := interceptors.Chain(interceptors.Client, policies, l)
	if err != nil {
		t.Fatal(err)
	}
	incoming, err := interceptors.Chain(interceptors.Server, policies, l)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(incoming.ServerOptions()...)
	testgrpc.RegisterTestServiceServer(server, service{})
	listener := bufconn.Listen(1 << 16)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///bufconn", append(outgoing.DialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return testgrpc.NewTestServiceClient(conn)
}

// client makes a call whose second attempt goes to catalog-2 and ends with err.
func client(ctx context.Context, l *logging.Logging, err error) error {
	return l.UnaryClientInterceptor()(ctx, method, nil, nil, nil,
		func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
			first := attempt.FromContext(ctx)
			first.SetPicked(&attempt.Instance{ID: "catalog-1", Address: "192.0.2.1:80"})
			first.Next().SetPicked(&attempt.Instance{ID: "catalog-2", Address: "192.0.2.2:80"})
			return err
		})
}

func plainClient(ctx context.Context, l *logging.Logging) error {
	return l.UnaryClientInterceptor()(ctx, method, nil, nil, nil,
		func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil })
}

func server(ctx context.Context, l *logging.Logging, err error) (any, error) {
	return l.UnaryServerInterceptor()(ctx, nil, &grpc.UnaryServerInfo{FullMethod: method},
		func(context.Context, any) (any, error) { return nil, err })
}

// Whoever asks for methods that nobody here serves fills no log.
//
// Case M1
func TestUnknownMethodsAreTheCallersAffair(t *testing.T) {
	l, log := build(t, slog.LevelDebug)
	for _, srv := range []any{nil, l} {
		_ = l.StreamServerInterceptor()(srv, stream{t.Context()}, &grpc.StreamServerInfo{FullMethod: "/made.Up/Method"},
			func(any, grpc.ServerStream) error { return status.Error(codes.Unimplemented, "no") })
	}
	if all := log.all(t); len(all) != 2 || all[0]["level"] != "DEBUG" || all[1]["level"] != "WARN" {
		t.Errorf("%v, want one line at debug and, for what is served, one at warn", all)
	}
}

// stream is one that only has a context.
type stream struct{ ctx context.Context }

func (s stream) Context() context.Context   { return s.ctx }
func (stream) SetHeader(metadata.MD) error  { return nil }
func (stream) SendHeader(metadata.MD) error { return nil }
func (stream) SetTrailer(metadata.MD)       {}
func (stream) SendMsg(any) error            { return nil }
func (stream) RecvMsg(any) error            { return io.EOF }
