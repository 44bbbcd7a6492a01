package benchkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// BackendCount is how many backends a path has.
const BackendCount = 3

// Backend answers with what it was asked, and with who it is. It takes no time, or
// sleeps: one that burns CPU would slow down whoever shares the machine.
type Backend struct {
	catalogv1.UnimplementedCatalogServiceServer
	Name  string
	Delay *atomic.Int64 // nanoseconds
}

// GetSweet implements the contract.
func (e Backend) GetSweet(_ context.Context, request *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
	if d := e.Delay.Load(); d > 0 {
		time.Sleep(time.Duration(d))
	}
	return &catalogv1.GetSweetResponse{Sweet: &catalogv1.Sweet{Id: e.Name, Description: request.GetId()}}, nil
}

// StreamBackend answers each message of a stream with its payload.
type StreamBackend struct {
	testpb.UnimplementedBenchmarkServiceServer
}

// StreamingCall implements the contract.
func (StreamBackend) StreamingCall(stream testpb.BenchmarkService_StreamingCallServer) error {
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&testpb.SimpleResponse{Payload: request.GetPayload()}); err != nil {
			return err
		}
	}
}

// Channels are clients over gRPC.
type Channels struct {
	Conns []*grpc.ClientConn
	Proxy int    // its process group, 0 is none
	Then  func() // after they are closed, or nil
}

// Group implements [Clients].
func (c *Channels) Group() int { return c.Proxy }

// Close implements [Clients].
func (c *Channels) Close() {
	for _, conn := range c.Conns {
		conn.Close()
	}
	if c.Then != nil {
		c.Then()
	}
}

// Call implements [Clients].
func (c *Channels) Call(i int) func() (string, error) {
	client := catalogv1.NewCatalogServiceClient(c.Conns[i%len(c.Conns)])
	request := &catalogv1.GetSweetRequest{Id: Text}
	return func() (backend string, err error) {
		response, err := client.GetSweet(context.Background(), request)
		if err == nil && len(response.GetSweet().GetDescription()) != len(Text) {
			err = fmt.Errorf("the answer is %v, want what was asked", response)
		}
		return response.GetSweet().GetId(), err
	}
}

// contractTimeout is the timeout that the contract gives calls over meshlite.
const contractTimeout = 2 * time.Second

// WithDeadline gives each call of a bare channel the timeout of the contract, as meshlite does.
func WithDeadline() grpc.DialOption {
	return grpc.WithUnaryInterceptor(func(ctx context.Context, method string, request, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		ctx, cancel := context.WithTimeout(ctx, contractTimeout)
		defer cancel()
		return invoker(ctx, method, request, reply, cc, opts...)
	})
}

// Bare is a channel of grpc-go to fixed addresses with a policy, and options of its own.
func Bare(addresses []string, policy string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	var state resolver.State
	for _, address := range addresses {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: address}}})
	}
	r := manual.NewBuilderWithScheme("bench")
	r.InitialState(state)
	return Connect("bench:///catalog", append([]grpc.DialOption{grpc.WithResolvers(r),
		grpc.WithDefaultServiceConfig(fmt.Sprintf(`{"loadBalancingConfig": [{%q: {}}]}`, policy))}, options...)...)
}
