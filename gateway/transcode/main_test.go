package transcode_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/meshlite-go/meshlite/gateway/contract"
	"github.com/meshlite-go/meshlite/gateway/transcode"
	"github.com/meshlite-go/meshlite/gateway/transcode/testdata/forms"
	"github.com/meshlite-go/meshlite/internal/prototest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// call is what a backend has received.
type call struct {
	method  string
	request proto.Message
	md      metadata.MD
}

// backend answers each call with handle, or with the request itself.
type backend struct {
	forms.UnimplementedFormsServiceServer
	mu     sync.Mutex
	calls  []call
	handle func(context.Context, *forms.Thing) (*forms.Thing, error)
	stream func(*forms.Thing, grpc.ServerStreamingServer[forms.Thing]) error
	chat   func(grpc.BidiStreamingServer[forms.Thing, forms.Thing]) error
	upload func(grpc.ClientStreamingServer[forms.Thing, forms.Thing]) error
}

// taken are the calls since the last time.
func (b *backend) taken() []call {
	b.mu.Lock()
	defer b.mu.Unlock()
	calls := b.calls
	b.calls = nil
	return calls
}

func (b *backend) record(ctx context.Context, method string, request proto.Message) {
	md, _ := metadata.FromIncomingContext(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls = append(b.calls, call{method, request, md})
}

func (b *backend) Download(in *forms.Thing, stream grpc.ServerStreamingServer[forms.Thing]) error {
	b.record(stream.Context(), "Download", in)
	return b.stream(in, stream)
}

func (b *backend) Chat(stream grpc.BidiStreamingServer[forms.Thing, forms.Thing]) error {
	b.record(stream.Context(), "Chat", nil)
	return b.chat(stream)
}

func (b *backend) Upload(stream grpc.ClientStreamingServer[forms.Thing, forms.Thing]) error {
	b.record(stream.Context(), "Upload", nil)
	return b.upload(stream)
}

// serve starts b, and returns a channel to it.
func (b *backend) serve(t testing.TB, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	server.RegisterService(b.desc(), b)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///backend", append(options,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// desc is the service with each unary method handled by b.
func (b *backend) desc() *grpc.ServiceDesc {
	desc := forms.FormsService_ServiceDesc
	desc.Methods = nil
	for _, m := range forms.FormsService_ServiceDesc.Methods {
		name := m.MethodName
		m.Handler = func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var in proto.Message = new(forms.Thing)
			if name == "Patch" {
				in = new(forms.PatchRequest)
			}
			if err := decode(in); err != nil {
				return nil, err
			}
			b.record(ctx, name, in)
			thing, ok := in.(*forms.Thing)
			if !ok {
				return new(forms.Thing), nil
			}
			if b.handle == nil {
				return thing, nil
			}
			return b.handle(ctx, thing)
		}
		desc.Methods = append(desc.Methods, m)
	}
	return &desc
}

// formsContract is built from bytes, as a gateway gets it.
func formsContract(t testing.TB) *contract.Contract {
	t.Helper()
	return contractOf(t, prototest.SetOf(forms.File_forms_v1_forms_proto), "forms.v1.FormsService")
}

func contractOf(t testing.TB, set *descriptorpb.FileDescriptorSet, services ...protoreflect.FullName) *contract.Contract {
	t.Helper()
	files, err := protodesc.NewFiles(set)
	if err != nil {
		t.Fatal(err)
	}
	c := &contract.Contract{Files: files, Types: dynamicpb.NewTypes(files)}
	for _, name := range services {
		service, err := files.FindDescriptorByName(name)
		if err != nil {
			t.Fatal(err)
		}
		c.Services = append(c.Services, service.(protoreflect.ServiceDescriptor))
	}
	return c
}

func everyMethod(protoreflect.MethodDescriptor) bool { return true }

// newMux serves b over HTTP. change may alter the configuration.
func newMux(t testing.TB, b *backend, change func(*transcode.Config)) *transcode.Mux {
	t.Helper()
	return newMuxOver(t, b.serve(t), change)
}

func newMuxOver(t testing.TB, conn grpc.ClientConnInterface, change func(*transcode.Config)) *transcode.Mux {
	t.Helper()
	config := transcode.Config{
		Services: []transcode.Service{{Name: "forms", Conn: conn, Contract: formsContract(t), Offers: everyMethod}},
		Logger:   slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&config)
	}
	mux, err := transcode.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return mux
}

// do sends a request to h. headers are name, value, name, value.
func do(h http.Handler, method, target, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	if body != "" {
		r = httptest.NewRequest(method, target, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// capture is a channel that keeps the request of a call.
type capture struct {
	invoker
	request proto.Message
}

func (c *capture) Invoke(_ context.Context, _ string, request, _ any, _ ...grpc.CallOption) error {
	c.request = request.(proto.Message)
	return nil
}

func captureMux(t testing.TB, c *contract.Contract, b *capture) *transcode.Mux {
	t.Helper()
	mux, err := transcode.New(transcode.Config{Services: []transcode.Service{{Name: "forms", Conn: b, Contract: c, Offers: func(m protoreflect.MethodDescriptor) bool {
		return m.Name() == "Literal" || m.Name() == "BodyAll"
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	return mux
}

type (
	filesOf           = protoregistry.Files
	serviceDescriptor = protoreflect.ServiceDescriptor
)

var noFilter = utilities.NewDoubleArray(nil)
