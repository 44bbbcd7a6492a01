// Package concurrency bounds how many handlers of a method run at once, and finds
// that bound by itself. What is beyond it is refused at once, with UNAVAILABLE, while
// the rest is answered in good time. The rule is the concurrency of the policy.
//
//	limiter, err := concurrency.New()
//	chain, err := interceptors.Chain(interceptors.Server, policies, limiter)
//	server := grpc.NewServer(chain.ServerOptions()...)
//
// It stands innermost, so that what the cache answers takes no permit. A permit is the
// handler's, however it ends: a caller that gives up frees it when the handler returns.
// Methods are bounded apart, since a latency that mixes slow methods with quick ones is
// that of neither. There is no queue: who would wait here could be answered elsewhere,
// and gRPC lets a call wait at its client, where its deadline and its cancellation are
// known.
//
// # The adaptive limit
//
// The limit is moved by the gradient of Envoy's adaptive concurrency filter, window by
// window: times the base latency over what the latency is now, between a half and 1,
// plus the root of the limit, by which it grows while latency does not. A tenth above
// the base is not counted, since it may be chance. A window is 100 ms, 50 calls, and 5
// calls for each that runs at once, whichever is longest.
//
// The base is where such limits go wrong. Averaged over a long time (Netflix's
// Gradient2) it becomes the latency of an overload that lasts, and the limit rises
// without end; the least ever seen (Vegas, BBR) takes a deploy that is slower for an
// overload, and the limit falls to the floor. Here, as in Envoy, it is measured anew
// every 10 s, or 30 windows, and up to half of that later by chance, but at half the
// limit and not at next to none. In an overload that costs a hundredth or two of what
// could be done, and nothing where less than half the limit is used. It is also measured
// when the latency has changed by more than a factor of 2, before the load is blamed.
//
// If half the limit does seven eighths of the work of all of it (calls in flight over
// latency are throughput, by Little's law), the other half only waits: then the half
// becomes the limit, and is halved in turn. This compares two windows next to each other
// and remembers nothing, so it cannot drift, and finds a limit that is far too high.
//
// Samples are calls that are answered and those that run out of time, unless in less
// time than the method takes. Where most do, nothing follows from how long they were
// waited for, and the limit is halved. Whatever else fails, is cancelled or panics is no
// sample, so that no caller lowers the limit with its own mistakes, and no broken
// dependency raises it by failing fast. A limit that is not half used is left as it is.
//
// The limit begins at 20. It never leaves min and max, and settles a little above what
// the method can do at once: at 1.1 times that and the root of it. A stream holds its
// permit while it is open and has no latency that would tell of the load, so its limit
// is max.
//
// # Priorities
//
// With priority_metadata, a call may say how much it matters: see [Priority]. That
// counts only from callers who are trusted ([WithCallers]), by default from nobody.
//
// # The refusal
//
// UNAVAILABLE, as Envoy answers, and not RESOURCE_EXHAUSTED, which says that the caller
// has used up something of its own: so a client tries another instance, within its
// retry budget and after its own backoff, as no time is given. Its google.rpc.ErrorInfo
// says OVERLOADED, by which our balancers know the server from one that is broken: they
// send it less, and do not eject it. A refusal is made once for a method; it allocates
// nothing.
package concurrency
