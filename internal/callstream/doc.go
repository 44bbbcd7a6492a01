// Package callstream carries unary calls over streams that stay open, between two ends of this
// module that are both asked to. A stream of gRPC costs more than a small call on it: headers
// each way, two contexts, a goroutine and the bookkeeping of HTTP/2. A call here is one message
// there and one back.
//
// It changes how a call travels, and nothing else. The client's interceptors run before, and the
// policy of the channel picks for each call; then the call takes a free stream to the connection
// that was picked. The server runs all its interceptors around the handler. Deadline,
// cancellation, metadata, status details, grpc.Header, grpc.Trailer, grpc.Peer and grpc.OnFinish
// are as ever. Any call that needs more goes as it always did: streams, calls with other options,
// codecs or service config, large messages, calls to servers that do not take part, and calls
// beyond the streams that a connection may have.
//
// A stream carries one call at a time, so that none waits for another, and a call that is
// cancelled ends its stream. Streams end when their connection drains: the server's GOAWAY has the
// client close them between two calls.
//
// What it cannot do: stats handlers (grpc.StatsHandler, grpc.WithStatsHandler) and binary logs see
// the streams and not the calls, and per-RPC credentials of a channel are asked once for each
// stream, which lasts for a minute at most.
package callstream

import (
	"time"

	callv1 "github.com/meshlite-go/meshlite/proto/meshlite/call/v1"
)

const (
	// maxStreams bounds the streams of one connection. A server of this module takes 1,000 of all
	// kinds on a connection by default.
	maxStreams = 64
	// MaxServed bounds them on the server, which still has some that the client has given up.
	MaxServed = 4 * maxStreams
	// maxUnknown bounds the methods that a client asks for on a connection, and on a stream, although
	// the server has not registered them for streams.
	maxUnknown = 1000
	// maxMessage is the largest request that shares a stream. Beyond it a stream of its own is a
	// small part of the cost.
	maxMessage = 64 << 10
	// maxMetadata bounds the metadata of a call, as servers bound headers.
	maxMetadata = 8 << 10
	// serves is a header of streams that a server serves.
	serves = "meshlite-serves"
	// idle is how long a stream stays open without a call.
	idle = 10 * time.Second
	// maxAge is how long one that is busy does, so that the credentials of its opening are not old.
	maxAge = time.Minute
)

// Own reports whether fullMethod is one of this package, which no interceptor should see.
func Own(fullMethod string) bool {
	return fullMethod == callv1.CallService_Serve_FullMethodName || fullMethod == callv1.CallService_Ready_FullMethodName
}
