package ratelimit

import (
	"context"
	"errors"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors"
)

// Middleware is the limiter as a ratelimit.Limiter of go-grpc-middleware v2, for
// servers that have its interceptors. It is safe for concurrent use.
type Middleware struct{ admit grpc.UnaryServerInterceptor }

// Middleware limits by the policies of the server's side. It sees neither request
// nor outcome of a call: a limit by request field counts all callers together, and
// calls are charged when they begin and never given back. The trailer tells of a
// refusal as usual; go-grpc-middleware keeps its text and drops the details. It
// panics without policies.
func (l *Limiter) Middleware(policies *interceptors.Policies) Middleware {
	return Middleware{l.UnaryServerInterceptor(policies)}
}

var errNoMethod = errors.New("no gRPC method in the context: ratelimit.Middleware limits on servers only")

// Limit is nil for a call that is admitted, and the refusal of another.
func (m Middleware) Limit(ctx context.Context) error {
	name, ok := grpc.Method(ctx)
	if !ok {
		return errNoMethod
	}
	_, err := m.admit(ctx, nil, &grpc.UnaryServerInfo{FullMethod: name}, func(context.Context, any) (any, error) { return nil, nil })
	return err
}
