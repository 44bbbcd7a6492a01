package meshlite

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// What one connection may cost, where gRPC's own defaults are 15 MiB of metadata a call,
// any number of streams, two minutes of silence and no end of an idle connection.
const (
	maxHeaderListSize    = 16 << 10 // of a request, and of a response's header or trailer
	maxConcurrentStreams = 1000     // a connection; so many handlers run at most, too
	connectionTimeout    = 5 * time.Second
	maxConnectionIdle    = 30 * time.Minute
	keepaliveTime        = 30 * time.Second
	keepaliveTimeout     = 20 * time.Second
	// clientKeepaliveTime is above the 5 min that a gRPC server demands between pings by
	// default.
	clientKeepaliveTime = 6 * time.Minute

	defaultOwnPerConnection = 16
	defaultOwnPerServer     = 4096
)

// connectionBounds stand before the options of [WithServerOptions], which win. Pings of
// clients are limited by gRPC's own default, one in 5 min. age is when a client is asked for a
// new connection; 0 is never.
func connectionBounds(age time.Duration) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxHeaderListSize(maxHeaderListSize),
		grpc.MaxConcurrentStreams(maxConcurrentStreams),
		grpc.ConnectionTimeout(connectionTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: maxConnectionIdle, MaxConnectionAge: age, Time: keepaliveTime, Timeout: keepaliveTimeout,
		}),
	}
}

// clientKeepalive makes the kernel close a connection on which data is not acknowledged for 20 s
// (TCP_USER_TIMEOUT, on Linux), as on the server's side. Otherwise calls wait on a host that has
// vanished until TCP sends again, which is up to two minutes after the host is back. The pings
// that belong to it in gRPC are only sent on streams that are silent for minutes.
func clientKeepalive() grpc.DialOption {
	return grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: clientKeepaliveTime, Timeout: keepaliveTimeout})
}

// WithInfrastructureStreams bounds the open streams of gRPC's own services (health
// watches, reflection, ORCA), on which no policy has a limit or a timeout: on each
// connection and in the whole server. More are refused as RESOURCE_EXHAUSTED. Watches end
// when the server drains. Default: 16 and 4,096.
func WithInfrastructureStreams(perConnection, perServer int) ServerOption {
	return serverOption(func(c *serverConfig) { c.ownPerConnection, c.ownPerServer = perConnection, perServer })
}
