package deadline

import (
	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
)

// UnaryClientInterceptor is for use without a chain. It panics without policies.
func (d *Deadline) UnaryClientInterceptor(policies *interceptors.Policies) grpc.UnaryClientInterceptor {
	return d.alone(interceptors.Client, policies).UnaryClient()
}

// StreamClientInterceptor is for use without a chain. It panics without policies.
func (d *Deadline) StreamClientInterceptor(policies *interceptors.Policies) grpc.StreamClientInterceptor {
	return d.alone(interceptors.Client, policies).StreamClient()
}

// UnaryServerInterceptor is for use without a chain. It panics without policies.
func (d *Deadline) UnaryServerInterceptor(policies *interceptors.Policies) grpc.UnaryServerInterceptor {
	return d.alone(interceptors.Server, policies).UnaryServer()
}

// StreamServerInterceptor is for use without a chain. It panics without policies.
func (d *Deadline) StreamServerInterceptor(policies *interceptors.Policies) grpc.StreamServerInterceptor {
	return d.alone(interceptors.Server, policies).StreamServer()
}

// alone is a chain of one, so that a new policy is followed here too.
func (d *Deadline) alone(side interceptors.Side, policies *interceptors.Policies) *interceptors.Chained {
	chain, err := interceptors.Chain(side, policies, d)
	if err != nil {
		panic(err)
	}
	return chain
}
