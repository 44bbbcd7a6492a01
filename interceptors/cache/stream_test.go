package cache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// turns answers each stream with three messages of its own.
type turns struct {
	testgrpc.UnimplementedTestServiceServer
	streams, unary int
}

func (s *turns) StreamingOutputCall(_ *testgrpc.StreamingOutputCallRequest, stream grpc.ServerStreamingServer[testgrpc.StreamingOutputCallResponse]) error {
	s.streams++
	stream.SetTrailer(metadata.Pairs("stream", fmt.Sprint(s.streams)))
	for i := range 3 {
		body := fmt.Append(nil, s.streams, ".", i)
		if err := stream.Send(&testgrpc.StreamingOutputCallResponse{Payload: &testgrpc.Payload{Body: body}}); err != nil {
			return err
		}
	}
	return nil
}

func (s *turns) UnaryCall(context.Context, *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	s.unary++
	return &testgrpc.SimpleResponse{}, nil
}

// C16, with a cache on both ends under a rule that keeps everything: equal streams reach
// the server each by itself, with all of their messages, and a unary call does not.
//
// Case C16
func TestStreamsPassACacheThatKeepsEverything(t *testing.T) {
	c := newCache(t)
	rule := &policyv1.CacheRule{Ttl: proto.String("1h"), Scope: policyv1.CacheScope_CACHE_SCOPE_PUBLIC,
		AllowSideEffects: proto.Bool(true), Side: policyv1.Side_SIDE_BOTH}
	rules, err := interceptors.NewPolicies(&policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{
		"grpc.testing.TestService/StreamingOutputCall": {Cache: rule},
		"grpc.testing.TestService/UnaryCall":           {Cache: rule},
	}})
	if err != nil {
		t.Fatal(err)
	}
	near, err := interceptors.Chain(interceptors.Client, rules, c)
	if err != nil {
		t.Fatal(err)
	}
	far, err := interceptors.Chain(interceptors.Server, rules, newCache(t))
	if err != nil {
		t.Fatal(err)
	}
	service := &turns{}
	server := grpc.NewServer(far.ServerOptions()...)
	testgrpc.RegisterTestServiceServer(server, service)
	listener := bufconn.Listen(1 << 16)
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()
	conn, err := grpc.NewClient("passthrough:///streams", append(near.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := testgrpc.NewTestServiceClient(conn)
	for n := range 3 {
		if _, err := client.UnaryCall(t.Context(), &testgrpc.SimpleRequest{}); err != nil {
			t.Fatal(err)
		}
		stream, err := client.StreamingOutputCall(t.Context(), &testgrpc.StreamingOutputCallRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			message, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			want(t, "message", string(message.GetPayload().GetBody()), fmt.Sprint(n+1, ".", i))
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("after its last message the stream ends with %v", err)
		}
		want(t, "trailer", fmt.Sprint(stream.Trailer().Get("stream")), fmt.Sprint([]int{n + 1}))
	}
	want(t, "streams", service.streams, 3)
	want(t, "unary calls, which are kept", service.unary, 1)
	want(t, "entries on the client", c.Stats().Entries, 1)
}
