package explained_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	testgrpc "google.golang.org/grpc/interop/grpc_testing"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/explained"
	"github.com/meshlite-go/meshlite/interceptors/hop"
	"github.com/meshlite-go/meshlite/interceptors/recovery"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const explainedKey = "x-meshlite-explain-bin"

func Example() {
	callers, err := caller.New(caller.WithTrustedIdentities("spiffe://*/ns/default/dc/dc1/svc/ops"))
	if err != nil {
		fmt.Println(err)
		return
	}
	explains, err := explained.New(explained.WithCallers(callers))
	fmt.Println(explains.Stage(), err)

	ctx, asked := explained.Ask(context.Background())
	_ = ctx // for calls of a channel that has the concern, too
	for _, call := range asked.Calls() {
		fmt.Println(call.Method, call.Code, call.Attempts)
	}
	// Output: explained <nil>
}

// service answers as its calls say.
type service struct {
	testgrpc.UnimplementedTestServiceServer
	behind testgrpc.TestServiceClient // that streams call, nil is nobody
}

func (s *service) StreamingOutputCall(req *testgrpc.StreamingOutputCallRequest, stream testgrpc.TestService_StreamingOutputCallServer) error {
	for range req.GetResponseParameters() {
		if err := stream.Send(&testgrpc.StreamingOutputCallResponse{}); err != nil {
			return err
		}
	}
	if s.behind != nil {
		if _, err := s.behind.EmptyCall(stream.Context(), &testgrpc.Empty{}); err != nil {
			return err
		}
	}
	if code := req.GetResponseStatus().GetCode(); code != 0 {
		return status.Error(codes.Code(code), "as ordered")
	}
	return nil
}

func (s *service) StreamingInputCall(stream testgrpc.TestService_StreamingInputCallServer) error {
	for {
		if _, err := stream.Recv(); errors.Is(err, io.EOF) {
			return stream.SendAndClose(&testgrpc.StreamingInputCallResponse{})
		} else if err != nil {
			return err
		}
	}
}

func (s *service) FullDuplexCall(stream testgrpc.TestService_FullDuplexCallServer) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	panic("as ordered")
}

func (s *service) EmptyCall(context.Context, *testgrpc.Empty) (*testgrpc.Empty, error) {
	return &testgrpc.Empty{}, nil
}

// serve runs s with the concern on both sides. The server trusts those of the networks.
func serve(t *testing.T, s *service, networks ...netip.Prefix) testgrpc.TestServiceClient {
	t.Helper()
	callers, err := caller.New(caller.WithTrustedPrefixes(networks...))
	if err != nil {
		t.Fatal(err)
	}
	policies, err := interceptors.NewPolicies(nil)
	if err != nil {
		t.Fatal(err)
	}
	explains, err := explained.New(explained.WithCallers(callers), explained.WithTarget("a target"),
		explained.WithInstance(func() explained.Instance { return explained.Instance{Service: "test", ID: "test-1", Zone: "a"} }))
	if err != nil {
		t.Fatal(err)
	}
	recovered, err := recovery.New()
	if err != nil {
		t.Fatal(err)
	}
	chain := func(side interceptors.Side) *interceptors.Chained {
		chain, err := interceptors.Chain(side, policies, explains, recovered)
		if err != nil {
			t.Fatal(err)
		}
		return chain
	}
	server := grpc.NewServer(chain(interceptors.Server).ServerOptions()...)
	testgrpc.RegisterTestServiceServer(server, s)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient(listener.Addr().String(), append(chain(interceptors.Client).DialOptions(), grpc.WithNoProxy(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return testgrpc.NewTestServiceClient(conn)
}

var loopback = netip.MustParsePrefix("127.0.0.0/8")

// drain reads a stream to its end.
func drain(stream grpc.ClientStream) error {
	for {
		if err := stream.RecvMsg(&testgrpc.StreamingOutputCallResponse{}); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// one is the one call that was explained.
func one(t *testing.T, asked *explained.Asked) *hop.Hop {
	t.Helper()
	calls := asked.Calls()
	if len(calls) != 1 || len(calls[0].Attempts) != 1 {
		t.Fatalf("%d calls: %+v", len(calls), calls)
	}
	return calls[0]
}

// Streams of each kind are explained at their end, and their readers receive no explanation.
func TestStreamsAreExplained(t *testing.T) {
	behind := serve(t, &service{}, loopback)
	client := serve(t, &service{behind: behind}, loopback)
	output := func(ctx context.Context, code codes.Code, trailer *metadata.MD) (metadata.MD, error) {
		stream, err := client.StreamingOutputCall(ctx, &testgrpc.StreamingOutputCallRequest{
			ResponseParameters: make([]*testgrpc.ResponseParameters, 3), ResponseStatus: &testgrpc.EchoStatus{Code: int32(code)}}, grpc.Trailer(trailer))
		if err != nil {
			return nil, err
		}
		err = drain(stream)
		return stream.Trailer(), err
	}
	for name, test := range map[string]struct {
		method string
		code   codes.Code
		calls  int
		call   func(context.Context, *metadata.MD) (metadata.MD, error)
	}{
		"server stream": {"StreamingOutputCall", codes.OK, 1, func(ctx context.Context, trailer *metadata.MD) (metadata.MD, error) {
			return output(ctx, codes.OK, trailer)
		}},
		"server stream that fails": {"StreamingOutputCall", codes.NotFound, 1, func(ctx context.Context, trailer *metadata.MD) (metadata.MD, error) {
			return output(ctx, codes.NotFound, trailer)
		}},
		"client stream": {"StreamingInputCall", codes.OK, 0, func(ctx context.Context, trailer *metadata.MD) (metadata.MD, error) {
			stream, err := client.StreamingInputCall(ctx, grpc.Trailer(trailer))
			if err == nil {
				err = stream.Send(&testgrpc.StreamingInputCallRequest{})
			}
			if err == nil {
				_, err = stream.CloseAndRecv()
			}
			return stream.Trailer(), err
		}},
		"stream that panics": {"FullDuplexCall", codes.Internal, 0, func(ctx context.Context, trailer *metadata.MD) (metadata.MD, error) {
			stream, err := client.FullDuplexCall(ctx, grpc.Trailer(trailer))
			if err == nil {
				err = stream.Send(&testgrpc.StreamingOutputCallRequest{})
			}
			if err == nil {
				err = drain(stream)
			}
			return stream.Trailer(), err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, asked := explained.Ask(t.Context())
			var byOption metadata.MD
			trailer, err := test.call(ctx, &byOption)
			if status.Code(err) != test.code {
				t.Fatal(err)
			}
			if len(trailer[explainedKey])+len(byOption[explainedKey]) > 0 {
				t.Error("the reader receives the explanation")
			}
			call := one(t, asked)
			sent := call.Attempts[0]
			if call.Method != "grpc.testing.TestService/"+test.method || call.Code != test.code.String() || call.Target != "a target" || sent.Code != test.code.String() || sent.Server == nil {
				t.Fatalf("%+v: %+v", call, sent)
			}
			if s := sent.Server; s.Service != "test" || s.Instance != "test-1" || s.Zone != "a" || s.Code != test.code.String() || len(s.Calls) != test.calls || s.Panicked != (test.code == codes.Internal) {
				t.Errorf("the server: %+v", s)
			} else if test.calls > 0 && (s.Calls[0].Method != "grpc.testing.TestService/EmptyCall" || s.Calls[0].Attempts[0].Server == nil) {
				t.Errorf("the call of the handler: %+v", s.Calls[0])
			}
		})
	}
}

// A stream that is left without reading its end is in the record as one that has not ended.
func TestAStreamThatIsLeft(t *testing.T) {
	client := serve(t, &service{}, loopback)
	ctx, cancel := context.WithCancel(t.Context())
	ctx, asked := explained.Ask(ctx)
	stream, err := client.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	call := one(t, asked)
	if call.Code != "" || call.Attempts[0].Code != "" || call.Attempts[0].Server != nil {
		t.Errorf("%+v", call)
	}
	cancel()
	if err := drain(stream); status.Code(err) != codes.Canceled {
		t.Error(err)
	}
}

// Streams of strangers are not explained.
func TestStrangersStreamsAreNotExplained(t *testing.T) {
	client := serve(t, &service{}, netip.MustParsePrefix("192.0.2.0/24"))
	ctx, asked := explained.Ask(t.Context())
	stream, err := client.StreamingOutputCall(ctx, &testgrpc.StreamingOutputCallRequest{})
	if err == nil {
		err = drain(stream)
	}
	if sent := one(t, asked).Attempts[0]; err != nil || sent.Server != nil || !strings.Contains(sent.Silent, "does not trust this caller") {
		t.Errorf("%v: %+v", err, sent)
	}
	// By hand, as a caller that is not of this module.
	stream, err = client.StreamingOutputCall(metadata.AppendToOutgoingContext(t.Context(), "x-meshlite-explain", "8"), &testgrpc.StreamingOutputCallRequest{})
	if err == nil {
		err = drain(stream)
	}
	if err != nil || len(stream.Trailer()[explainedKey]) > 0 {
		t.Errorf("%v: a stranger is answered", err)
	}
}

// A function of the user's that panics is no reason to answer, nor to end the process.
func TestATrustThatPanics(t *testing.T) {
	callers, err := caller.New(caller.WithTrusted(func(context.Context) bool { panic("no") }))
	if err != nil {
		t.Fatal(err)
	}
	explains, err := explained.New(explained.WithCallers(callers))
	if err != nil {
		t.Fatal(err)
	}
	server := explains.UnaryServer(&interceptors.CallMeta{Side: interceptors.Server, Service: "a", FullMethod: "/a/b"})
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("x-meshlite-explain", "8"))
	reply, err := server(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/a/b"}, func(ctx context.Context, _ any) (any, error) {
		if interceptors.Explaining(ctx) != nil {
			t.Error("the call is explained")
		}
		return "reply", nil
	})
	if reply != "reply" || err != nil {
		t.Errorf("%v, %v", reply, err)
	}
}

// A call that nobody asks about allocates nothing in the concern, on either side.
func TestNobodyAsks(t *testing.T) {
	explains, err := explained.New()
	if err != nil {
		t.Fatal(err)
	}
	server := explains.UnaryServer(&interceptors.CallMeta{Side: interceptors.Server, Service: "a", FullMethod: "/a/b"})
	client := explains.UnaryClient(&interceptors.CallMeta{Side: interceptors.Client, Service: "a", FullMethod: "/a/b"})
	attempt := explains.UnaryAttempt(&interceptors.CallMeta{Side: interceptors.Client, Service: "a", FullMethod: "/a/b"})
	incoming := metadata.NewIncomingContext(t.Context(), metadata.Pairs("content-type", "application/grpc", "user-agent", "grpc-go", "customer-id", "ada"))
	info, handle := &grpc.UnaryServerInfo{FullMethod: "/a/b"}, func(context.Context, any) (any, error) { return nil, nil }
	invoke := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil }
	for name, call := range map[string]func(){
		"server":  func() { _, _ = server(incoming, nil, info, handle) },
		"client":  func() { _ = client(incoming, "/a/b", nil, nil, nil, invoke) },
		"attempt": func() { _ = attempt(incoming, "/a/b", nil, nil, nil, invoke) },
	} {
		if n := testing.AllocsPerRun(1000, call); n != 0 {
			t.Errorf("%s: %v allocations, want none", name, n)
		}
	}
}

// BenchmarkNobodyAsks is what a call costs that nobody wants explained.
func BenchmarkNobodyAsks(b *testing.B) {
	explains, err := explained.New()
	if err != nil {
		b.Fatal(err)
	}
	incoming := metadata.NewIncomingContext(b.Context(), metadata.Pairs(":authority", "catalog", "content-type", "application/grpc", "user-agent", "grpc-go", "grpc-accept-encoding", "gzip"))
	b.Run("server", func(b *testing.B) {
		server := explains.UnaryServer(&interceptors.CallMeta{Side: interceptors.Server, Service: "a", FullMethod: "/a/b"})
		info, handle := &grpc.UnaryServerInfo{FullMethod: "/a/b"}, func(context.Context, any) (any, error) { return nil, nil }
		b.ReportAllocs()
		for b.Loop() {
			_, _ = server(incoming, nil, info, handle)
		}
	})
	b.Run("client", func(b *testing.B) {
		client := explains.UnaryClient(&interceptors.CallMeta{Side: interceptors.Client, Service: "a", FullMethod: "/a/b"})
		invoke := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil }
		b.ReportAllocs()
		for b.Loop() {
			_ = client(incoming, "/a/b", nil, nil, nil, invoke)
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	for name, opt := range map[string]explained.Option{"WithInstance": explained.WithInstance(nil), "WithPolicy": explained.WithPolicy(nil)} {
		if _, err := explained.New(opt); err == nil || !strings.Contains(err.Error(), name+"(nil)") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
