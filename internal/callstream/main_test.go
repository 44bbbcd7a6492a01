package callstream

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	does     = "/test.Service/Do"
	roundDef = `{"loadBalancingConfig":[{"meshlite_round_robin":{}}]}`
)

// handler answers the calls of a test.
type handler func(ctx context.Context, text string) (string, error)

// service is one unary method that calls a handler.
func service(name string) *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: name, HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Do", Handler: func(impl any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			request := new(wrapperspb.StringValue)
			if err := decode(request); err != nil {
				return nil, err
			}
			do := func(ctx context.Context, request any) (any, error) {
				text, err := impl.(handler)(ctx, request.(*wrapperspb.StringValue).GetValue())
				if err != nil {
					return nil, err
				}
				return wrapperspb.String(text), nil
			}
			if interceptor == nil {
				return do(ctx, request)
			}
			return interceptor(ctx, request, &grpc.UnaryServerInfo{Server: impl, FullMethod: "/" + name + "/Do"}, do)
		}}},
	}
}

// end is a server that takes part, until the test ends.
type end struct {
	*grpc.Server
	address string
	streams atomic.Int64 // of Serve, that were opened
}

func serveTest(t testing.TB, do handler, opts ...grpc.ServerOption) *end {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &end{address: listener.Addr().String()}
	e.Server = grpc.NewServer(append(opts, grpc.ChainStreamInterceptor(
		func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			if Own(info.FullMethod) {
				e.streams.Add(1)
			}
			return handler(srv, stream)
		}))...)
	part := &Server{}
	part.Register(e.Server)
	part.Add(service("test.Service"), do)
	e.RegisterService(service("test.Service"), do)
	e.RegisterService(service("test.Other"), do) // not for streams
	var served sync.WaitGroup
	served.Go(func() { _ = e.Serve(listener) })
	t.Cleanup(func() {
		e.Stop()
		served.Wait()
	})
	return e
}

// dialTest is a channel to the ends, with a client or without.
func dialTest(t testing.TB, client *Client, addresses []string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	found := manual.NewBuilderWithScheme("test")
	state := resolver.State{}
	for _, a := range addresses {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: a}}})
	}
	found.InitialState(state)
	opts = append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))
	opts = append(opts, client.Inside(passing{})...)
	conn, err := grpc.NewClient("test:///service", append(opts, grpc.WithResolvers(client.Resolvers(found)),
		grpc.WithDefaultServiceConfig(client.ServiceConfig(roundDef)))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func invoke(ctx context.Context, conn *grpc.ClientConn, method, text string, opts ...grpc.CallOption) (string, error) {
	response := new(wrapperspb.StringValue)
	err := conn.Invoke(ctx, method, wrapperspb.String(text), response, opts...)
	return response.GetValue(), err
}

// overStream reports whether a handler's call came over a shared stream.
func overStream(ctx context.Context) bool {
	_, ok := grpc.ServerTransportStreamFromContext(ctx).(*transport)
	return ok
}

// takesStreams returns when calls of conn go over streams to each of n ends.
func takesStreams(t testing.TB, client *Client, conn *grpc.ClientConn, n int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if _, err := invoke(t.Context(), conn, does, "warm", grpc.WaitForReady(true)); err != nil {
			t.Fatal(err)
		}
		ready := 0
		client.connections.mu.RLock()
		for _, c := range client.connections.open {
			c.mu.Lock()
			if c.takes {
				ready++
			}
			c.mu.Unlock()
		}
		client.connections.mu.RUnlock()
		if ready == n {
			return
		}
	}
	t.Fatal("no streams after 20 s")
}

// passing is a chain without interceptors.
type passing struct{}

func (passing) UnaryClient() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return invoker(ctx, method, req, reply, cc, opts...)
	}
}

func (passing) StreamClient() grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		return streamer(ctx, desc, cc, method, opts...)
	}
}
