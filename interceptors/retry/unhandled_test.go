package retry

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer/attempt"
)

// X17: the end of an attempt proves that no handler ran, never the words of its status.
//
// Case X17
func TestOnlyTheEndOfAnAttemptProves(t *testing.T) {
	const (
		lost     = attempt.Over | attempt.Sent
		received = lost | attempt.Received
		answered = received | attempt.Answer
		notFound = unexpectedHTTP + `404 (Not Found); transport: received unexpected content-type "text/html"`
		refused  = "stream terminated by RST_STREAM with error code: REFUSED_STREAM"
	)
	for _, test := range []struct {
		name string
		end  attempt.End
		code codes.Code
		text string
		want bool
	}{
		{"no picker has recorded it", 0, codes.Unavailable, "no", false},
		{"nothing was sent", attempt.Over, codes.Unavailable, "connection refused", true},
		{"credentials have failed", attempt.Over, codes.Unauthenticated, "no token", false},
		{"the deadline came first", attempt.Over, codes.DeadlineExceeded, "late", false},
		{"the server marks it", answered | attempt.Unhandled, codes.Unimplemented, "unknown service", true},
		{"bare", answered, codes.Unimplemented, "unknown service", false},
		{"HTTP 404", received, codes.Unimplemented, notFound, true},
		{"HTTP 501", received, codes.Unknown, unexpectedHTTP + "501 (Not Implemented)", true},
		{"HTTP 502 of a proxy", received, codes.Unavailable, unexpectedHTTP + "502 (Bad Gateway)", false},
		{"HTTP 200", received, codes.Unknown, unexpectedHTTP + "200 (OK)", false},
		{"a handler repeats HTTP 404", answered, codes.Unimplemented, notFound, false},
		{"refused", lost, codes.Unavailable, refused, true},
		{"beyond a GOAWAY", lost, codes.Unavailable, "the stream is rejected because server is draining the connection", true},
		{"a handler repeats that it was refused", answered, codes.Unavailable, refused, false},
		{"the connection is lost", lost, codes.Unavailable, "error reading from server: EOF", false},
	} {
		if got := unhandled(test.end, status.Error(test.code, test.text)); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}
