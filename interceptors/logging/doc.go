// Package logging writes one line per call with log/slog.
//
//	logged, err := logging.New(logging.WithLogger(logger))
//	chain, err := interceptors.Chain(interceptors.Client, policies, logged)
//
// A line of a call, or of a stream when it ends, is called "call" and has, where it applies,
//
//   - side, method, code, duration
//   - peer: the address of the caller, on a server
//   - caller: who calls, as [WithCallers] says: what the verified certificate proves (the
//     SPIFFE id, or its subject and names), and a hash of an identity that metadata or a
//     function declares, unless [caller.WithLoggedIdentity] says that it is no secret
//   - instance, address, attempts: the instance picked last and the number of attempts, on
//     a client; none of them if the cache answered
//   - route, arm: where a chain of routes has sent the last attempt of a client's call
//   - cache: its result, such as "hit", "miss", "coalesced", "stale"
//   - limit, limit_result: the limit that decided, "concurrency" being one, and "admitted",
//     "refused", "shadowed" or "held_back"
//   - sent, received: the messages of a stream
//   - trace_id, if [WithTraceFromContext] returns one
//   - error: the message of a failure
//
// The level depends on the code:
//
//   - debug: the call succeeded or failed because of its caller, who must not be able to
//     fill the log: codes such as INVALID_ARGUMENT and RESOURCE_EXHAUSTED (see [Level]),
//     any code of a call that was cancelled, a method that no service here has. So is a
//     panic that recovery has logged with its stack.
//   - warn: the call failed for any other reason. These are what metrics have under
//     code_class="server".
//
// Messages, metadata and identities that they carry are never logged. The message of a failure is, and
// no more than 512 bytes of it; that of the caller's own mistakes is not, since it quotes
// what the caller has sent (see [WithErrorText]).
//
// Of one method and level 100 lines are written in a second (see [WithLimit]). A line
// "calls left out of the log" has the number of the others, with the first call of the
// method that ends after that second. Metrics count them all.
//
// A line whose level is off is not built: with debug off, a success costs a
// server no allocation, and a client one, without which a failure could not name its
// instance. The results of cache and limits are then logged only of calls that a
// concurrency limit refuses, and where tracing listens to them.
//
// The logging of go-grpc-middleware has neither instances nor limits, and builds its
// fields for every call.
package logging
