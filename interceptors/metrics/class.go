package metrics

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
)

// class is the code_class label: whose affair the end of a call is.
type class uint8

const (
	ok       class = iota // answered
	ofClient              // the caller's mistake, or it has given up
	ofServer              // a failure
	classes
)

func (c class) String() string { return [...]string{"ok", "client", "server"}[c] }

// classOf divides codes as the semantic conventions of OpenTelemetry do for servers.
// Two failures are still the caller's: a method that nobody here serves, which any
// scanner can ask for, and whatever becomes of a call that the caller has cancelled.
func classOf(ctx context.Context, code codes.Code, served bool) class {
	switch code {
	case codes.OK:
		return ok
	case codes.Unimplemented:
		if !served {
			return ofClient
		}
	case codes.Unknown, codes.DeadlineExceeded, codes.Internal, codes.Unavailable, codes.DataLoss:
	default:
		if code <= codes.Unauthenticated {
			return ofClient
		}
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return ofClient
	}
	return ofServer
}
