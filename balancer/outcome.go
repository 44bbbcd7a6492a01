package balancer

import (
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/internal/wire"
)

// outcome is what the end of an attempt tells of its endpoint.
type outcome uint8

const (
	silent   outcome = iota // nothing: the caller gave up, or nothing was sent
	answered                // it works, and the code is OK
	refused                 // it works, and the code is another one
	overload                // it works, and asks for less
	failed                  // it does not work
)

// outcomeOf sorts by whose fault a code is. That a caller has asked for what is not
// there, or may not have it, says nothing against the endpoint.
func outcomeOf(info balancer.DoneInfo) outcome {
	code := codeOf(info.Err)
	if endOf(info)&attempt.Unhandled != 0 {
		return refused
	}
	if !info.BytesSent && !info.BytesReceived && code != codes.DeadlineExceeded {
		return silent // it got nothing: credentials have failed, or gRPC picks again
	}
	switch code {
	case codes.Canceled:
		if isAnswer(info) {
			return refused
		}
		return silent
	case codes.ResourceExhausted:
		return overload
	case codes.Unavailable:
		if isFull(info.Err) {
			return overload
		}
		return failed
	case codes.Internal, codes.Unknown, codes.DataLoss, codes.DeadlineExceeded:
		return failed
	case codes.OK:
		return answered
	default:
		return refused
	}
}

// endOf is how an attempt ended, for its record.
func endOf(info balancer.DoneInfo) (end attempt.End) {
	end = attempt.Over
	if info.BytesSent {
		end |= attempt.Sent
	}
	if info.BytesReceived {
		end |= attempt.Received
	}
	if isAnswer(info) {
		end |= attempt.Answer
	}
	if len(info.Trailer[wire.UnhandledKey]) > 0 {
		end |= attempt.Unhandled
	}
	return end
}

// isAnswer reports whether an error is what the endpoint has answered: one that gRPC makes
// here, because the caller gave up, has no trailer with the content type of the answer.
func isAnswer(info balancer.DoneInfo) bool { return len(info.Trailer["content-type"]) > 0 }

// works reports whether it speaks for the endpoint.
func (o outcome) works() bool { return o == answered || o == refused }

// isFull reports whether a server that is unavailable has refused the attempt because
// it runs as many as it can.
func isFull(err error) bool {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == wire.ErrorDomain && info.GetReason() == wire.ReasonOverloaded {
			return true
		}
	}
	return false
}

func codeOf(err error) codes.Code {
	if s, ok := status.FromError(err); ok {
		return s.Code()
	}
	return status.FromContextError(err).Code()
}
