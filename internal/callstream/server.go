package callstream

import (
	"context"
	"io"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/internal/rpc"
	callv1 "github.com/meshlite-go/meshlite/proto/meshlite/call/v1"
)

// Server answers the calls of streams with the handlers and the interceptors of a gRPC server.
type Server struct {
	methods map[string]method // not changed once it serves

	// interceptor is what gRPC gives to every handler of a unary call: all interceptors of the
	// server, those of the user included. It comes with the first call of Ready.
	interceptor atomic.Pointer[grpc.UnaryServerInterceptor]
}

// method is one that a service has registered.
type method struct {
	impl   any
	handle grpc.MethodHandler
}

// Add takes the unary methods of a service. It must not be called once the server serves, as
// RegisterService of gRPC.
func (s *Server) Add(desc *grpc.ServiceDesc, impl any) {
	if s.methods == nil {
		s.methods = map[string]method{}
	}
	for _, m := range desc.Methods {
		s.methods["/"+desc.ServiceName+"/"+m.MethodName] = method{impl, m.Handler}
	}
}

// Register has server answer streams.
func (s *Server) Register(server grpc.ServiceRegistrar) {
	desc := callv1.CallService_ServiceDesc
	desc.HandlerType = (*any)(nil)
	desc.Methods = []grpc.MethodDesc{{MethodName: "Ready", Handler: s.ready}}
	desc.Streams = []grpc.StreamDesc{{StreamName: "Serve", Handler: s.serve, ServerStreams: true, ClientStreams: true}}
	server.RegisterService(&desc, s)
}

// ready is called by gRPC as any unary handler is.
func (s *Server) ready(_ any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
	request := new(callv1.ReadyRequest)
	if err := decode(request); err != nil {
		return nil, err
	}
	s.interceptor.Store(&interceptor)
	handler := func(context.Context, any) (any, error) { return &callv1.ReadyResponse{Serves: true}, nil }
	if interceptor == nil {
		return handler(ctx, request)
	}
	return interceptor(ctx, request, &grpc.UnaryServerInfo{Server: s, FullMethod: callv1.CallService_Ready_FullMethodName}, handler)
}

// serve answers one call after the other until the client ends the stream.
func (s *Server) serve(_ any, stream grpc.ServerStream) error {
	interceptor := s.interceptor.Load()
	if interceptor == nil {
		return status.Error(codes.FailedPrecondition, "call Ready before Serve")
	}
	// Before it reads anything: without this header the client knows that no call was read.
	if err := stream.SendHeader(metadata.Pairs(serves, "1")); err != nil {
		return err
	}
	base, _ := metadata.FromIncomingContext(stream.Context())
	var request callv1.ServeRequest
	for unknown := 0; unknown < maxUnknown; {
		if err := stream.RecvMsg(&request); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		response, err := s.answer(stream.Context(), base, &request, *interceptor)
		if err != nil {
			return err
		}
		if err := stream.SendMsg(response); err != nil {
			return err
		}
		if response.GetUnknownMethod() {
			unknown++
		}
		request.Reset() // it may be large, and the next one may be long in coming
	}
	return status.Errorf(codes.ResourceExhausted, "%d calls of methods that are not for streams", maxUnknown)
}

// answer runs one call. The error is that of the stream.
func (s *Server) answer(ctx context.Context, base metadata.MD, r *callv1.ServeRequest, interceptor grpc.UnaryServerInterceptor) (*callv1.ServeResponse, error) {
	m, ok := s.methods[r.GetMethod()]
	if !ok {
		return &callv1.ServeResponse{UnknownMethod: true}, nil
	}
	md := maps.Clone(base) // decode replaces values, and changes none
	if decode(md, r.GetMetadata()) > maxMetadata {
		return nil, status.Errorf(codes.ResourceExhausted, "the metadata of a call has more than %d bytes", maxMetadata)
	}
	ends := &transport{method: r.GetMethod()}
	ctx = metadata.NewIncomingContext(grpc.NewContextWithServerTransportStream(ctx, ends), md)
	var cancel context.CancelFunc
	if r.GetTimeoutNanos() != 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(r.GetTimeoutNanos()))
	} else {
		ctx, cancel = context.WithCancel(ctx)
	}
	defer cancel()
	body := r.GetMessage()
	reply, err := m.handle(m.impl, ctx, func(into any) error { return unmarshal(body, into) }, interceptor)
	return ends.response(reply, err), nil
}

func unmarshal(body []byte, into any) error {
	m, ok := message(into)
	if !ok {
		return status.Errorf(codes.Internal, "grpc: error unmarshalling request: a %T is not a message of protobuf", into)
	}
	if err := proto.Unmarshal(body, m); err != nil {
		return status.Errorf(codes.Internal, "grpc: error unmarshalling request: %v", err)
	}
	return nil
}

// transport is what grpc.SetHeader and its like find in the context of a call.
type transport struct {
	method string

	mu              sync.Mutex
	sent            bool
	header, trailer metadata.MD
}

func (t *transport) Method() string { return t.method }

func (t *transport) SetHeader(md metadata.MD) error { return t.addHeader(md, false) }

// SendHeader has the header sent with the response: nothing of a unary call is seen before.
func (t *transport) SendHeader(md metadata.MD) error { return t.addHeader(md, true) }

func (t *transport) addHeader(md metadata.MD, send bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sent {
		return status.Error(codes.Internal, "transport: SendHeader called multiple times")
	}
	t.header, t.sent = metadata.Join(t.header, md), send
	return nil
}

func (t *transport) SetTrailer(md metadata.MD) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.trailer = metadata.Join(t.trailer, md)
	return nil
}

// response is what a handler has answered.
func (t *transport) response(reply any, err error) *callv1.ServeResponse {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sent = true
	r := &callv1.ServeResponse{}
	if err == nil {
		message, ok := message(reply)
		if !ok {
			err = status.Errorf(codes.Internal, "grpc: error while marshaling: a %T is not a message of protobuf", reply)
		} else if r.Message, err = proto.Marshal(message); err != nil {
			err = status.Errorf(codes.Internal, "grpc: error while marshaling: %v", err)
		}
	}
	if err != nil {
		s := rpc.Status(err).Proto()
		r.Code, r.Text, r.Details = s.GetCode(), strings.ToValidUTF8(s.GetMessage(), "\ufffd"), s.GetDetails()
	}
	r.Header, r.Trailer = encode(t.header), encode(t.trailer)
	return r
}

// AroundUnary keeps an interceptor from the calls of this package.
func AroundUnary(inner grpc.UnaryServerInterceptor) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if Own(info.FullMethod) {
			return handler(ctx, req)
		}
		return inner(ctx, req, info, handler)
	}
}

// AroundStream keeps an interceptor from the streams of this package, which bound bounds.
func AroundStream(inner grpc.StreamServerInterceptor, bound func(grpc.StreamHandler) grpc.StreamHandler) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if Own(info.FullMethod) {
			return bound(handler)(srv, stream)
		}
		return inner(srv, stream, info, handler)
	}
}
