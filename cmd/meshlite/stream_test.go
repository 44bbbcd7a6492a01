package main

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
)

// At the timeout the server's own word for it may come first.
func TestStream(t *testing.T) {
	openAgent(t)
	openReflectingShop(t, "catalog", 1)
	const watch = "grpc.health.v1.Health/Watch"
	call(t, "consul:///catalog", watch, "--timeout", "300ms").want(t, 1, "{\n  \"status\": \"SERVING\"\n}\n", "meshlite: "+watch+": ")
	r := call(t, "consul:///catalog", watch, "--timeout", "300ms", "-o", "json")
	r.want(t, 1, `{"response":{"status":"SERVING"}}`+"\n"+`{"instance":"catalog-127-0-0-1-`, "; from catalog-127-0-0-1-")
	r.want(t, 1, `"messages":1`, "")

	// Without --timeout it lasts until somebody ends it.
	ctx, stop := context.WithCancel(t.Context())
	defer time.AfterFunc(300*time.Millisecond, stop).Stop()
	meshliteWith(ctx, "", "call", "--plaintext", "consul:///catalog", watch).want(t, 130, "SERVING", "meshlite: interrupted")
}

// A stream that its server ends is a success, and one that breaks is not.
func TestStreamToItsEnd(t *testing.T) {
	openAgent(t)
	target, method := serveCounter(t), "grpc.testing.TestService/StreamingOutputCall"
	two := "{\n  \"payload\": {\n    \"body\": \"AA==\"\n  }\n}\n{\n  \"payload\": {\n    \"body\": \"AQ==\"\n  }\n}\n"
	call(t, target, method, "-d", `{"responseParameters": [{}, {}]}`).want(t, 0, two, ", 2 messages\n")
	call(t, target, method).want(t, 0, "", ", 0 messages\n")
	call(t, target, method, "-d", `{"responseStatus": {"code": 9}}`).want(t, 1, "", "meshlite: "+method+": FailedPrecondition: ")
}

// serveCounter is a server of gRPC alone, with reflection. It returns its address.
func serveCounter(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(server, counter{})
	reflection.Register(server)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

type counter struct {
	testgrpc.UnimplementedTestServiceServer
}

func (counter) StreamingOutputCall(req *testgrpc.StreamingOutputCallRequest, stream testgrpc.TestService_StreamingOutputCallServer) error {
	for i := range req.GetResponseParameters() {
		body := &testgrpc.Payload{Body: []byte{byte(i)}}
		if err := stream.Send(&testgrpc.StreamingOutputCallResponse{Payload: body}); err != nil {
			return err
		}
	}
	return status.Error(codes.Code(req.GetResponseStatus().GetCode()), "as asked")
}
