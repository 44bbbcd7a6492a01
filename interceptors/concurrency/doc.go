// Package concurrency bounds how many handlers of a method run at once, and finds
// that bound by itself. Calls beyond it are refused at once, with UNAVAILABLE, while
// the rest is answered in good time. The rule is the concurrency of the policy.
//
//	limiter, err := concurrency.New()
//	chain, err := interceptors.Chain(interceptors.Server, policies, limiter)
//	server := grpc.NewServer(chain.ServerOptions()...)
//
// It is the innermost interceptor, so that calls answered from the cache take no permit. A
// permit belongs to the handler: when a caller cancels, it is released when the handler
// returns. Each method has a limit of its own, since a latency that mixes slow and quick
// methods describes neither. There is no queue: another instance could answer a call that
// waits here, and a gRPC call can wait at its client, where its deadline and its
// cancellation are known.
//
// # The adaptive limit
//
// The limit follows the gradient of Envoy's adaptive concurrency filter. After each window
// it is multiplied by the base latency over the latency of the window, between a half and
// 1, and its square root is added, by which it grows while latency does not. The latency
// may exceed the base by a tenth, which may be noise. A window is 100 ms, 50 calls, or 5
// calls for each that runs at once, whichever is longest.
//
// The base is where such limits fail. Averaged over a long time (Netflix's Gradient2) it
// becomes the latency of a lasting overload, and the limit rises without end; with the
// minimum ever seen (Vegas, BBR) a slower deploy looks like an overload, and the limit
// falls to its floor. Here, as in Envoy, the base is measured again every 10 s, or 30
// windows, plus jitter of up to half of that, but at half the limit and not near zero. In
// an overload that costs one or two percent of the throughput, and nothing where less than
// half the limit is used. The base is also measured when the latency has changed by more
// than a factor of 2, before the limit is lowered.
//
// If half the limit has seven eighths of the throughput of the whole (calls in flight over
// latency, by Little's law), the other half only queues: then the half becomes the limit,
// and is probed in turn. This compares two adjacent windows, so it cannot drift, and
// corrects a limit that is far too high.
//
// Samples are calls that are answered, and those whose deadline expires after more than
// the base latency. Where most expire, their latency shows nothing, and the limit is
// halved. Calls that fail otherwise, are cancelled or panic are no samples, so that a
// caller's mistakes do not lower the limit, and a dependency that fails fast does not
// raise it. A limit that is not half used stays.
//
// The limit starts at 20, stays between min and max, and settles a little above the
// method's capacity: at 1.1 times that plus its square root. A stream holds its permit
// while it is open and has no latency that shows the load, so its limit is max.
//
// # Priorities
//
// With priority_metadata, a call may declare how much it matters: see [Priority]. That
// counts only from callers who are trusted ([WithCallers]), by default from nobody.
//
// # The refusal
//
// UNAVAILABLE, as Envoy answers, and not RESOURCE_EXHAUSTED, which means that the caller
// has used up a quota: so a client tries another instance, within its retry budget and
// after its own backoff. The reason of its google.rpc.ErrorInfo is OVERLOADED, by which
// meshlite's balancers distinguish the server from one that is broken: they send it fewer
// calls, and do not eject it. A refusal allocates nothing.
package concurrency
