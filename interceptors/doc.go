// Package interceptors makes one gRPC interceptor out of several concerns, in
// the one order that is right, and tells each concern the policy of the method.
//
// A concern is a value from a package below this one: [cache], [ratelimit],
// [metrics] and so on. [Chain] puts them together for one side:
//
//	policies, err := interceptors.NewPolicies(nil)
//	chain, err := interceptors.Chain(interceptors.Client, policies, metrics, cache, retry)
//	conn, err := grpc.NewClient(target, append(chain.DialOptions(), creds)...)
//
// A concern is asked once per method whether it has anything to do there, and
// costs nothing on the methods where it has not. Tracing and metrics come first. On
// the client the rate limit is last, so that it sees each attempt of a retry; on the
// server the cache comes after authorization, so that nobody is given an answer
// that they may not ask for. [Chain] refuses any other order.
package interceptors
