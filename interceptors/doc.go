// Package interceptors makes one gRPC interceptor out of several concerns, in
// the one order that is right, and passes each concern the policy of the method.
//
// A concern publishes what it did with a call as an [Event] by [Publish]: to its own
// [Observer], such as a value of package metrics, and to the [Outcome] that logging and
// tracing read at the end of the call. A new result of a concern changes three files at
// most: the one that has the concern's results and its Stats, the one that shows those on
// a page of package admin, and deploy/prometheus/METRICS.md. A new concern with results
// adds a case to the Observe of package metrics.
//
// A concern is a value from a package below this one: [cache], [ratelimit],
// [metrics] and so on. [Chain] puts them together for one side:
//
//	policies, err := interceptors.NewPolicies(nil)
//	chain, err := interceptors.Chain(interceptors.Client, policies, metrics, cache, retry)
//	conn, err := grpc.NewClient(target, append(chain.DialOptions(), creds)...)
//
// A concern is asked once per method whether it takes part, and costs nothing on the
// methods where it does not. Tracing and metrics come first. On
// the client the rate limit is last, so that it sees each attempt of a retry; on the
// server the cache comes after authorization, so that callers without
// permission receive no cached answer. [Chain] refuses any other order.
package interceptors
