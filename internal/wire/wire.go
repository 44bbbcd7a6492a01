// Package wire holds what clients and servers of this module send each other beside the
// messages: metadata keys and the values in error details. Both sides import it; neither
// imports the other.
package wire

import (
	"strconv"
	"time"

	"google.golang.org/grpc/metadata"
)

const (
	// PreviousAttemptsKey is the request header with the number of earlier attempts of the
	// call (gRFC A6).
	PreviousAttemptsKey = "grpc-previous-rpc-attempts"
	// PushbackKey is the trailer with the milliseconds after which to retry. A negative value
	// means never (gRFC A6).
	PushbackKey = "grpc-retry-pushback-ms"
	// UnhandledKey is the trailer that states that no handler ran, so any call may be retried
	// on another instance.
	UnhandledKey = "meshlite-unhandled"
	// SubjectKey is the request header in which a gateway sends the subject that it has
	// verified, on whose behalf it calls.
	SubjectKey = "x-meshlite-subject"
	// MirrorKey is the request header of a copy of a call, and of the calls that its handler makes.
	MirrorKey = "x-meshlite-mirror"
	// ExplainKey is the request header that asks what happens to the call: through how many
	// servers, one behind the other, from 1 to 8. Servers obey trusted callers.
	ExplainKey = "x-meshlite-explain"
	// ExplainedKey is the trailer with the answer.
	ExplainedKey = "x-meshlite-explain-bin"
)

// The values of [UnhandledKey].
const (
	UnhandledService = "service" // the server does not have the service
	UnhandledMethod  = "method"  // it has the service, but not the method
	UnhandledLimit   = "limit"   // a rate limit of this instance refused the call
)

// The google.rpc.ErrorInfo of UNAVAILABLE from a server that works and has reached its
// concurrency limit. Balancers do not count it as a failure.
const (
	ErrorDomain      = "meshlite"
	ReasonOverloaded = "OVERLOADED"
)

// The quota dimensions in the google.rpc.QuotaFailure of a rate limit.
const (
	QuotaKey      = "key"      // what the limit counts by: calls with equal values share it
	QuotaScope    = "scope"    // one of the two below
	ScopeInstance = "instance" // the limit of one instance: another one may admit the call
	ScopeService  = "service"  // one limit for all instances
)

// Pushback reads [PushbackKey] as gRPC does. given reports whether the server sent it, and a
// negative wait means never: more than one value, a negative number or not a number.
func Pushback(trailer metadata.MD) (wait time.Duration, given bool) {
	values := trailer.Get(PushbackKey)
	if len(values) == 0 {
		return 0, false
	}
	ms, err := strconv.ParseUint(values[0], 10, 31)
	if err != nil || len(values) > 1 {
		return -time.Millisecond, true
	}
	return time.Duration(ms) * time.Millisecond, true
}
