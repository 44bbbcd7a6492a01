package deadline_test

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	testgrpc "google.golang.org/grpc/interop/grpc_testing"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/deadline"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// ticker sends a message a second until nobody listens.
type ticker struct {
	testgrpc.UnimplementedTestServiceServer
}

func (ticker) StreamingOutputCall(_ *testgrpc.StreamingOutputCallRequest, stream grpc.ServerStreamingServer[testgrpc.StreamingOutputCallResponse]) error {
	for {
		if err := stream.Send(&testgrpc.StreamingOutputCallResponse{}); err != nil {
			return err
		}
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-time.After(time.Second):
		}
	}
}

// policies bound StreamingOutputCall to 2.5 s on one side.
func policies(t *testing.T, where policyv1.Side) *interceptors.Policies {
	t.Helper()
	timeout := "2500ms"
	p, err := interceptors.NewPolicies(&policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{
		"grpc.testing.TestService/StreamingOutputCall": {Timeout: &timeout, TimeoutSide: where},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestTimeoutBoundsTheWholeStream(t *testing.T) {
	for _, side := range []policyv1.Side{policyv1.Side_SIDE_CLIENT, policyv1.Side_SIDE_SERVER} {
		synctest.Test(t, func(t *testing.T) {
			d := build(t)
			p := policies(t, side)
			client, stop := serve(t, ticker{},
				[]grpc.ServerOption{grpc.StreamInterceptor(d.StreamServerInterceptor(p)), grpc.UnaryInterceptor(d.UnaryServerInterceptor(p))},
				[]grpc.DialOption{grpc.WithStreamInterceptor(d.StreamClientInterceptor(p)), grpc.WithUnaryInterceptor(d.UnaryClientInterceptor(p))})
			defer stop()
			start := time.Now()
			stream, err := client.StreamingOutputCall(t.Context(), &testgrpc.StreamingOutputCallRequest{})
			messages := -1
			for ; err == nil; messages++ {
				_, err = stream.Recv()
			}
			if status.Code(err) != codes.DeadlineExceeded || messages != 3 || time.Since(start) != 2500*time.Millisecond {
				t.Errorf("%v: %d messages, then %v after %v", side, messages, err, time.Since(start))
			}
		})
	}
}

// No timer outlives its stream.
func TestStreamThatEndsGivesItsTimerBack(t *testing.T) {
	var inner context.Context
	d := build(t, deadline.WithObserver(interceptors.ObserverFunc(func(context.Context, *interceptors.CallMeta, interceptors.Event) { t.Error("observed") })))
	seen := func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		inner = ctx
		return streamer(ctx, desc, cc, method, opts...)
	}
	ends := map[string]func(context.Context, testgrpc.TestServiceClient){
		"failed": func(ctx context.Context, client testgrpc.TestServiceClient) {
			stream, err := client.StreamingOutputCall(ctx, &testgrpc.StreamingOutputCallRequest{})
			for err == nil {
				_, err = stream.Recv()
			}
		},
		"never opened": func(ctx context.Context, client testgrpc.TestServiceClient) {
			_, err := client.StreamingOutputCall(ctx, &testgrpc.StreamingOutputCallRequest{}, grpc.UseCompressor("none such"))
			if err == nil {
				t.Error("opened")
			}
		},
	}
	for name, end := range ends {
		client, stop := serve(t, testgrpc.UnimplementedTestServiceServer{}, nil,
			[]grpc.DialOption{grpc.WithChainStreamInterceptor(d.StreamClientInterceptor(policies(t, policyv1.Side_SIDE_CLIENT)), seen)})
		end(t.Context(), client)
		if inner.Err() != context.Canceled {
			t.Errorf("%s: the context of the stream has %v, want it cancelled", name, inner.Err())
		}
		stop()
	}
}

// A call that ends gives its timer back, however it ends: also a stream that was refused
// before gRPC made it, as by a limit further inside.
func TestWhatEndsGivesItsTimerBack(t *testing.T) {
	outcomes := map[string]func(){"refused": func() {}, "panic": func() { panic("toffee") }}
	d, refused := build(t), status.Error(codes.ResourceExhausted, "full")
	client, server := meta(interceptors.Client, "1h", policyv1.Side_SIDE_BOTH), meta(interceptors.Server, "1h", policyv1.Side_SIDE_BOTH)
	for name, end := range outcomes {
		for part, run := range map[string]func(seen func(context.Context)) error{
			"unary client": func(seen func(context.Context)) error {
				return call(t.Context(), d, client, func(ctx context.Context) error { seen(ctx); return refused })
			},
			"unary server": func(seen func(context.Context)) error {
				return call(t.Context(), d, server, func(ctx context.Context) error { seen(ctx); return refused })
			},
			"stream client": func(seen func(context.Context)) error {
				_, err := d.StreamClient(client)(t.Context(), &grpc.StreamDesc{}, nil, method, func(ctx context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
					seen(ctx)
					return nil, refused
				})
				return err
			},
			"stream server": func(seen func(context.Context)) error {
				return d.StreamServer(server)(nil, open{ctx: t.Context()}, nil, func(_ any, stream grpc.ServerStream) error {
					seen(stream.Context())
					return refused
				})
			},
		} {
			t.Run(name+" "+part, func(t *testing.T) {
				var inner context.Context
				func() {
					defer func() { _ = recover() }()
					err := run(func(ctx context.Context) {
						if _, timed := ctx.Deadline(); !timed || ctx.Err() != nil {
							t.Errorf("in the call its context has no time left: %v", ctx.Err())
						}
						inner = ctx
						end()
					})
					if status.Code(err) != codes.ResourceExhausted {
						t.Errorf("the call ends with %v", err)
					}
				}()
				if inner.Err() != context.Canceled {
					t.Errorf("the context has %v after the call, want it cancelled", inner.Err())
				}
			})
		}
	}
}

// open is a stream that a server has.
type open struct {
	grpc.ServerStream
	ctx context.Context
}

func (o open) Context() context.Context { return o.ctx }

func serve(t *testing.T, s testgrpc.TestServiceServer, incoming []grpc.ServerOption, outgoing []grpc.DialOption) (testgrpc.TestServiceClient, func()) {
	t.Helper()
	server := grpc.NewServer(incoming...)
	testgrpc.RegisterTestServiceServer(server, s)
	listener := bufconn.Listen(1 << 16)
	go func() { _ = server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///bufconn", append(outgoing,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))...)
	if err != nil {
		t.Fatal(err)
	}
	return testgrpc.NewTestServiceClient(conn), func() {
		_ = conn.Close()
		server.Stop()
	}
}
