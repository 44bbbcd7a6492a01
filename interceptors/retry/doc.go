// Package retry tries a unary call again after a failure that may pass: by the
// retry rule of the policy, within a budget, and only methods that may run twice.
//
//	retrying, err := retry.New()
//	chain, err := interceptors.Chain(interceptors.Client, policies, retrying)
//
// The wait before an attempt is random between 0 and twice the backoff, which
// grows from 25ms by a factor of 2; no wait is longer than 1s ("full jitter", M.
// Brooker, Exponential Backoff and Jitter, 2015). A server may say how long to
// wait instead, or that there is no point in waiting: grpc-retry-pushback-ms
// (gRFC A6) and google.rpc.RetryInfo are obeyed, for 30s at most, and RESOURCE_EXHAUSTED
// without one of them is final. With one of them it is tried on another instance at once,
// where a picker of this module reports that there is one, and the limit is not said to be
// the whole service's. No attempt is made that the deadline would not outlive.
//
// The budget holds for all calls of a method on a channel together: over time no
// more than 0.2 retries for each call, so that a service that is down is asked
// 1.2 times as often as usual and not max_attempts times.
//
// Where the end of an attempt proves that no handler ran, the call goes to another instance
// at once, whatever the method, unary or stream, and without a rule: the server marks its
// answer to unknown methods, an HTTP server answers 404 or the like, a stream is refused or
// beyond a GOAWAY. UNIMPLEMENTED without such a proof leads elsewhere only where the method
// may run twice. Such attempts spend from the budget, too. max_attempts: 1 turns them off.
//
// The retries of grpc-go know neither a timeout of the attempt nor RetryInfo,
// and those of go-grpc-middleware know no budget, no pushback and no policy; a
// picker could not tell for either what was tried before. Streams are not retried
// here for other reasons, and none after its first message was received.
package retry
