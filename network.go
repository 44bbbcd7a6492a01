package meshlite

import (
	"context"
	"net"

	"google.golang.org/grpc"
)

// Network is what the channels and servers of a runtime connect and listen by: calls,
// health checks of their own and admin pages. The methods are those of [net.Dialer] and
// [net.ListenConfig], and network is always "tcp". Listeners have a [*net.TCPAddr].
// Package meshtest has one in memory.
type Network interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	Listen(ctx context.Context, network, address string) (net.Listener, error)
}

// tcp is the network of a runtime that is given none.
type tcp struct {
	net.Dialer
	net.ListenConfig
}

// dialer makes channels connect by the network of the runtime, if it was given one. gRPC's
// own dialer supports proxies and Unix sockets.
func (r *Runtime) dialer() []grpc.DialOption {
	if _, ok := r.network.(*tcp); ok {
		return nil
	}
	return []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
		return r.network.DialContext(ctx, "tcp", address)
	})}
}
