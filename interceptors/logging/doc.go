// Package logging writes one line per call with log/slog.
//
//	logged, err := logging.New(logging.WithLogger(logger))
//	chain, err := interceptors.Chain(interceptors.Client, policies, logged)
//
// A line of a call, or of a stream when it ends, is called "call" and has what is known of
//
//   - side, method, code, duration
//   - peer: the address of the caller, on a server
//   - caller: the SPIFFE id of the caller's verified certificate, or its subject and names
//   - instance, address, attempts: who was picked last and how many attempts there were, on
//     a client; no attempts if the cache has answered
//   - cache: what it had, such as "hit", "miss", "coalesced", "stale"
//   - limit, limit_result: the limit that decided, "concurrency" being one, and "admitted",
//     "refused", "shadowed" or "held_back"
//   - sent, received: the messages of a stream
//   - trace_id, if [WithTraceFromContext] tells one
//   - error: the message of a failure
//
// The level tells who should read the line:
//
//   - debug: the call was answered, or what became of it is the caller's affair, who must
//     not be able to fill the log: codes such as INVALID_ARGUMENT and RESOURCE_EXHAUSTED
//     (see [Level]), whatever becomes of a call that was cancelled, a method that nobody
//     serves. So is a panic that recovery has logged with its stack.
//   - warn: the call failed for any other reason. These are what metrics have under
//     code_class="server".
//
// Messages, metadata and identities that they carry are never logged. The message of a failure is, and
// no more than 512 bytes of it; that of the caller's own mistakes is not, since it quotes
// what the caller has sent (see [WithErrorText]).
//
// Of one method and level 100 lines are written in a second (see [WithLimit]). A line
// "calls left out of the log" tells the number of the others with the first call of the
// method that ends after that second. Metrics count them all.
//
// A line whose level is off is not put together: with debug off, what succeeds costs a
// server no allocation, and a client one, without which a failure could not name its
// instance. The results of cache and limits are then known only of what a concurrency
// limit refuses, and where tracing listens to them.
//
// The logging of go-grpc-middleware knows neither instances nor limits, and puts its
// fields together for every call.
package logging
