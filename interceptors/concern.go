package interceptors

import (
	"fmt"

	"google.golang.org/grpc"
)

// Concern is one part of a chain. It implements some of [UnaryClient],
// [StreamClient], [UnaryServer], [StreamServer], each of which is asked once per
// method for an interceptor and answers nil where it has nothing to do. An interceptor passes
// on a context that is derived from its own; at [User] it may pass on any.
type Concern interface {
	Stage() Stage
}

// UnaryClient is a concern with a part in unary calls on the client.
type UnaryClient interface {
	UnaryClient(*CallMeta) grpc.UnaryClientInterceptor
}

// StreamClient is a concern with a part in streams on the client.
type StreamClient interface {
	StreamClient(*CallMeta) grpc.StreamClientInterceptor
}

// UnaryServer is a concern with a part in unary calls on the server.
type UnaryServer interface {
	UnaryServer(*CallMeta) grpc.UnaryServerInterceptor
}

// StreamServer is a concern with a part in streams on the server.
type StreamServer interface {
	StreamServer(*CallMeta) grpc.StreamServerInterceptor
}

// UnaryAttempt is a concern with a further part on the client, in every attempt of
// a unary call: inside of [Retry], wherever the concern itself stands.
type UnaryAttempt interface {
	UnaryAttempt(*CallMeta) grpc.UnaryClientInterceptor
}

// StreamAttempt is a concern with a further part on the client, in every attempt
// of a stream.
type StreamAttempt interface {
	StreamAttempt(*CallMeta) grpc.StreamClientInterceptor
}

// Stage is where in the chain a concern stands.
type Stage uint8

// The places, each taken by one concern at most, but for User and Authorization.
const (
	Tracing Stage = iota + 1
	Metrics
	Logging
	Recovery
	Authorization
	User // the user's own interceptors
	Routing
	Deadline
	Cache
	Mirror // copies of calls
	Retry
	RateLimit
	Concurrency
	Handler   // what is about handlers alone
	Explained // explains calls to those who ask
)

// order lists the places from the caller or the wire inwards; [Chain] sorts by it. The
// client limits each attempt, so its limit is inside retry; where a call goes decides its
// timeout, its kept answer and its retries, so routing is outside of them. What is mirrored is a
// call that no cache has answered, once, however often it is tried. The server refuses before it
// works, so authorization and its limit are outside almost everything, and no cache hit
// bypasses them. A hit costs no concurrency, so that limit is inside the cache. Metrics
// attach the trace to what they measure, so tracing is outside of them. What explains calls is
// outermost: it reports what all others did.
func order(side Side) []Stage {
	if side == Client {
		return []Stage{Explained, Tracing, Metrics, Logging, Recovery, User, Routing, Deadline, Cache, Mirror, Retry, RateLimit}
	}
	return []Stage{Explained, Tracing, Metrics, Logging, Recovery, Authorization, RateLimit, Deadline, User, Cache, Concurrency, Handler}
}

// String names p as its package is named.
func (p Stage) String() string {
	switch p {
	case Tracing:
		return "tracing"
	case Metrics:
		return "metrics"
	case Logging:
		return "logging"
	case Recovery:
		return "recovery"
	case Authorization:
		return "authorization"
	case User:
		return "user"
	case Routing:
		return "routing"
	case Deadline:
		return "deadline"
	case Cache:
		return "cache"
	case Mirror:
		return "mirror"
	case Retry:
		return "retry"
	case RateLimit:
		return "ratelimit"
	case Concurrency:
		return "concurrency"
	case Handler:
		return "handler"
	case Explained:
		return "explained"
	default:
		return fmt.Sprintf("stage %d", uint8(p))
	}
}

// Interceptors is the concern of the user's own interceptors: the one place
// where any gRPC interceptor may stand. Fields that are nil have no part.
type Interceptors struct {
	UnaryClientInterceptor  grpc.UnaryClientInterceptor
	StreamClientInterceptor grpc.StreamClientInterceptor
	UnaryServerInterceptor  grpc.UnaryServerInterceptor
	StreamServerInterceptor grpc.StreamServerInterceptor
}

// Stage is [User].
func (i Interceptors) Stage() Stage { return User }

// UnaryClient is the user's interceptor, for every method.
func (i Interceptors) UnaryClient(*CallMeta) grpc.UnaryClientInterceptor {
	return i.UnaryClientInterceptor
}

// StreamClient is the user's interceptor, for every method.
func (i Interceptors) StreamClient(*CallMeta) grpc.StreamClientInterceptor {
	return i.StreamClientInterceptor
}

// UnaryServer is the user's interceptor, for every method.
func (i Interceptors) UnaryServer(*CallMeta) grpc.UnaryServerInterceptor {
	return i.UnaryServerInterceptor
}

// StreamServer is the user's interceptor, for every method.
func (i Interceptors) StreamServer(*CallMeta) grpc.StreamServerInterceptor {
	return i.StreamServerInterceptor
}
