package openapitest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/meshlite-go/meshlite/gateway/contract"
	"github.com/meshlite-go/meshlite/gateway/transcode"
)

// Mux serves all services of files from a gRPC server that has no code for them. It answers
// with the request if the types are equal, with the name of the request if there is one in
// both, and three times where a stream is due: without end if the name says so.
func Mux(t testing.TB, files *protoregistry.Files) *transcode.Mux {
	t.Helper()
	server := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error { return answer(files, stream) }))
	listener := bufconn.Listen(1 << 16)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///backend", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	c := &contract.Contract{Files: files, Types: dynamicpb.NewTypes(files)}
	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			c.Services = append(c.Services, file.Services().Get(i))
		}
		return true
	})
	mux, err := transcode.New(transcode.Config{Services: []transcode.Service{{
		Name: "backend", Conn: conn, Contract: c, Offers: func(protoreflect.MethodDescriptor) bool { return true },
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return mux
}

func answer(files *protoregistry.Files, stream grpc.ServerStream) error {
	name, _ := grpc.MethodFromServerStream(stream)
	d, err := files.FindDescriptorByName(protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(name, "/"), "/", ".")))
	if err != nil {
		return status.Error(codes.Unimplemented, err.Error())
	}
	method := d.(protoreflect.MethodDescriptor)
	for {
		in := dynamicpb.NewMessage(method.Input())
		if err := stream.RecvMsg(in); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		out := dynamicpb.NewMessage(method.Output())
		asked := nameIn(in)
		if method.Input() == method.Output() {
			proto.Merge(out, in)
		} else if f := stringField(out); f != nil {
			out.Set(f, protoreflect.ValueOfString(asked))
		}
		switch {
		case strings.Contains(asked, "missing"):
			return status.Errorf(codes.NotFound, "no %q here", asked)
		case method.IsStreamingServer() && !method.IsStreamingClient():
			return repeat(stream, out, strings.Contains(asked, "endless"))
		}
		if err := stream.SendMsg(out); err != nil || !method.IsStreamingClient() {
			return err
		}
	}
}

// repeat sends out three times, or until the caller leaves.
func repeat(stream grpc.ServerStream, out *dynamicpb.Message, endless bool) error {
	base := nameIn(out)
	for i := 1; endless || i <= 3; i++ {
		if f := stringField(out); f != nil {
			out.Set(f, protoreflect.ValueOfString(fmt.Sprintf("%s/%d", base, i)))
		}
		if err := stream.SendMsg(out); err != nil {
			return err
		}
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

func stringField(m *dynamicpb.Message) protoreflect.FieldDescriptor {
	f := m.Descriptor().Fields().ByName("name")
	if f == nil || f.Kind() != protoreflect.StringKind || f.Cardinality() == protoreflect.Repeated {
		return nil
	}
	return f
}

func nameIn(m *dynamicpb.Message) string {
	f := stringField(m)
	if f == nil {
		return ""
	}
	return m.Get(f).String()
}
