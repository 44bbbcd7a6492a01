// Package connecttest calls the gateway with Connect's own client. It is a module of its own,
// so that the client never reaches users of meshlite.
package connecttest

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http/httptest"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/meshlite-go/meshlite/gateway/contract"
	"github.com/meshlite-go/meshlite/gateway/transcode"
	"github.com/meshlite-go/meshlite/gateway/transcode/testdata/forms"
)

type backend struct {
	forms.UnimplementedFormsServiceServer
	deadline time.Duration
}

func (b *backend) Literal(ctx context.Context, in *forms.Thing) (*forms.Thing, error) {
	if deadline, ok := ctx.Deadline(); ok {
		b.deadline = time.Until(deadline)
	}
	_ = grpc.SetHeader(ctx, metadata.Pairs("x-lead", "a"))
	_ = grpc.SetTrailer(ctx, metadata.Pairs("x-trail", "b"))
	if in.GetName() == "" {
		s, _ := status.New(codes.NotFound, "no name").WithDetails(&errdetails.ErrorInfo{Reason: "WHY"})
		return nil, s.Err()
	}
	return in, nil
}

// client is Connect's for the method, through a gateway.
func client(t *testing.T, b *backend, options ...connect.ClientOption) *connect.Client[forms.Thing, forms.Thing] {
	t.Helper()
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	forms.RegisterFormsServiceServer(server, b)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///backend", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	mux, err := transcode.New(transcode.Config{
		Services: []transcode.Service{{
			Name: "forms", Conn: conn, Offers: func(protoreflect.MethodDescriptor) bool { return true },
			Contract: &contract.Contract{
				Files: protoregistry.GlobalFiles, Types: dynamicpb.NewTypes(protoregistry.GlobalFiles),
				Services: []protoreflect.ServiceDescriptor{forms.File_forms_v1_forms_proto.Services().Get(0)},
			},
		}},
		Headers: []string{"x-lead", "x-trail"},
		Logger:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(mux)
	t.Cleanup(web.Close)
	return connect.NewClient[forms.Thing, forms.Thing](web.Client(), web.URL+"/forms.v1.FormsService/Literal", options...)
}

func TestConnectsClientCallsThroughTheGateway(t *testing.T) {
	for name, options := range map[string][]connect.ClientOption{
		"proto":      nil,
		"JSON":       {connect.WithProtoJSON()},
		"GET, proto": {connect.WithHTTPGet(), connect.WithIdempotency(connect.IdempotencyNoSideEffects)},
		"GET, JSON":  {connect.WithHTTPGet(), connect.WithProtoJSON(), connect.WithIdempotency(connect.IdempotencyNoSideEffects)},
	} {
		t.Run(name, func(t *testing.T) {
			b := new(backend)
			calls := client(t, b, options...)
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			sent := &forms.Thing{Name: "fudge", Int64: 9007199254740993, Texts: []string{"a&b=c"}, Bytes: []byte{0, 255}}
			answer, err := calls.CallUnary(ctx, connect.NewRequest(sent))
			if err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(answer.Msg, sent) || answer.Header().Get("X-Lead") != "a" || answer.Trailer().Get("X-Trail") != "b" {
				t.Errorf("answer %v, header %v, trailer %v", answer.Msg, answer.Header(), answer.Trailer())
			}
			if b.deadline < 30*time.Second {
				t.Errorf("the deadline is in %v, want that of the caller", b.deadline)
			}
			_, err = calls.CallUnary(ctx, connect.NewRequest(&forms.Thing{}))
			var failure *connect.Error
			if !errors.As(err, &failure) || failure.Code() != connect.CodeNotFound || failure.Message() != "no name" || len(failure.Details()) != 1 || failure.Meta().Get("X-Trail") != "b" {
				t.Fatalf("error %v, want not_found with a detail and metadata", err)
			}
			detail, err := failure.Details()[0].Value()
			if info, ok := detail.(*errdetails.ErrorInfo); err != nil || !ok || info.GetReason() != "WHY" {
				t.Errorf("detail %v, %v", detail, err)
			}
		})
	}
}
