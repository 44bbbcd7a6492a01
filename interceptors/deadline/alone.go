package deadline

import (
	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
)

// UnaryClientInterceptor is for use without a chain. It panics without policies.
func (d *Deadline) UnaryClientInterceptor(policies *interceptors.Policies) grpc.UnaryClientInterceptor {
	return interceptors.Alone(interceptors.Client, policies, d).UnaryClient()
}

// StreamClientInterceptor is for use without a chain. It panics without policies.
func (d *Deadline) StreamClientInterceptor(policies *interceptors.Policies) grpc.StreamClientInterceptor {
	return interceptors.Alone(interceptors.Client, policies, d).StreamClient()
}

// UnaryServerInterceptor is for use without a chain. It panics without policies.
func (d *Deadline) UnaryServerInterceptor(policies *interceptors.Policies) grpc.UnaryServerInterceptor {
	return interceptors.Alone(interceptors.Server, policies, d).UnaryServer()
}

// StreamServerInterceptor is for use without a chain. It panics without policies.
func (d *Deadline) StreamServerInterceptor(policies *interceptors.Policies) grpc.StreamServerInterceptor {
	return interceptors.Alone(interceptors.Server, policies, d).StreamServer()
}
