package retry

import (
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// pushbackKey is the trailer by which a server says when to try again (gRFC A6).
const pushbackKey = "grpc-retry-pushback-ms"

// advice is what the server says of another attempt.
type advice struct {
	given bool
	never bool
	wait  time.Duration
}

// adviceOf takes the longer wait where a server gives pushback and RetryInfo.
func adviceOf(s *status.Status, trailer metadata.MD) advice {
	a := pushback(trailer)
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			a.given = true
			a.wait = max(a.wait, info.GetRetryDelay().AsDuration())
		}
	}
	return a
}

// pushback reads the trailer as gRPC does: more than one value, a negative one
// and one that is no number mean never.
func pushback(trailer metadata.MD) advice {
	values := trailer.Get(pushbackKey)
	if len(values) == 0 {
		return advice{}
	}
	ms, err := strconv.ParseUint(values[0], 10, 31)
	if err != nil || len(values) > 1 {
		return advice{given: true, never: true}
	}
	return advice{given: true, wait: time.Duration(ms) * time.Millisecond}
}
