// Package rpc has what several concerns do with any gRPC call: read its status and its
// name, notice the end of a stream, keep something for each method.
//
//	var series rpc.Table[string, *series]
//	s, ok := series.Of(method, newSeries)
//	stream, err := rpc.OpenStream(ctx, desc, cc, method, streamer, opts, func(err error) { s.end(rpc.Code(err)) })
package rpc

import (
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ErrPanic stands for the error of a call that ends by a panic.
var ErrPanic = status.Error(codes.Internal, "the call panicked")

// Status returns the status that gRPC sends for err: a context's error has a code of its
// own, and any other error without a status is UNKNOWN.
func Status(err error) *status.Status {
	if s, ok := status.FromError(err); ok {
		return s
	}
	return status.FromContextError(err)
}

// Code returns the code of [Status].
func Code(err error) codes.Code {
	if err == nil {
		return codes.OK
	}
	return Status(err).Code()
}

// SplitMethod cuts "/service/method"; a name without a slash is all method.
func SplitMethod(fullMethod string) (service, method string) {
	name := strings.TrimPrefix(fullMethod, "/")
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return "", name
}
