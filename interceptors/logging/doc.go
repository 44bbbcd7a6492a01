// Package logging writes one line per call with log/slog: method, code,
// duration, the peer that asked or the instance that was picked, the number of
// attempts. Payloads and metadata are never logged.
//
//	logged, err := logging.New(logging.WithLogger(logger))
//	chain, err := interceptors.Chain(interceptors.Client, policies, logged)
//
// The level tells who should read the line:
//
//   - debug: the call was answered, or failed for a reason that is the caller's
//     affair (CANCELED, INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS,
//     PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED,
//     OUT_OF_RANGE, UNAUTHENTICATED): whoever sends nonsense must not be able to
//     fill the log
//   - warn: the call failed for any other reason
//
// A line whose level is off is not put together. With warnings off as well a
// call costs one question to the handler. The logging of go-grpc-middleware
// knows no instance and puts its fields together for every call.
package logging
