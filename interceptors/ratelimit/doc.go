// Package ratelimit admits so many calls a period for each caller, and refuses
// the rest politely: on the server to protect it, on the client to stay within a
// quota. How many, and who shares a limit, are the rate limits of the method's policy.
//
//	limiter, err := ratelimit.New()
//	chain, err := interceptors.Chain(interceptors.Server, policies, limiter)
//	server := grpc.NewServer(chain.ServerOptions()...)
//
// # The limit
//
// A key may make burst calls at once and gets limit of them back over each
// period, evenly: the generic cell rate algorithm, which is a token bucket in one
// number (ITU-T I.371). So no interval of one period sees more than limit + burst
// calls of a key. Readings of the clock that arrive out of order admit nothing
// more, and a refused call costs nothing and moves nothing.
//
// All limits of a method must admit a call. They are looked at first and charged
// then; if another call takes the last place in between, what was charged already
// is given back, so that a call that one limit refuses costs nothing on the
// others. A stream is charged once, when it opens.
//
// # The key
//
// A limit counts all callers of its method together, or each by itself, by
//   - peer: the network address without the port, an IPv6 address by its /64;
//   - identity: what [WithIdentity] or [WithIdentityMetadata] declare, on the
//     server otherwise the names in the peer's verified certificate;
//   - metadata: all values of a key, incoming on the server, outgoing on the client;
//   - field: the value of a request field. It limits unary calls only: when a
//     stream opens there is no request yet.
//
// Callers for whom the key has no value share one bucket. A client does not know
// its peer before the call, so there a limit by peer is one for all calls.
//
// # The memory
//
// Counts are kept by method, name of the limit and key, in a table of fixed size
// ([WithMaxKeys]), and outlive a change of the policy. A full table forgets the
// key that has used least of its limit, which loses nothing while there are keys
// that have used none, and never one that has used it up: when there is no other,
// new keys share one bucket until there is room.
//
// # The refusal
//
// RESOURCE_EXHAUSTED with a RetryInfo that is never below the true wait, a
// QuotaFailure that names the limit and, from a server, one grpc-retry-pushback-ms
// (gRFC A6). None of them shows the value of the key, which may be a secret.
package ratelimit
