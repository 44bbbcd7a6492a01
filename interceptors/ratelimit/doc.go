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
// All limits of a method must admit a call. They are checked first and charged
// then; if another call takes the last place in between, the charges are
// refunded, so that a call that one limit refuses costs nothing on the
// others. A stream is charged once, when it opens, or with per_message for each
// message that the client sends, of which the opening pays for the first. A
// message beyond the limit fails RecvMsg on the server, SendMsg on the client.
//
// What else a rule may say:
//   - cost: a call takes so many places. cost_metadata lets a trusted peer declare how
//     many ([WithCallers]); a client is trusted by itself.
//   - wait: instead of being refused, a call waits its turn, in the order of
//     arrival, if its deadline leaves the time (one minute without a deadline).
//   - refund: calls that failed, or succeeded ([WithSuccess]), are refunded, as
//     far as time has not refilled the bucket already. So a refund never lifts a
//     bucket above its burst, nor counts for a later period. A panic is a failure.
//   - warm_up: calls of a new key cost more until it is warm, the first one the
//     whole burst: at half of the time it has half of rate and burst. A key is new
//     when it is not in the table.
//   - shadow: what would be refused is counted and reported, and nothing is refused.
//
// gRPC's own services, such as health and reflection, have only limits that name
// them.
//
// # The key
//
// A limit counts all callers of its method together, or each by itself, by
//   - peer: the network address without the port, an IPv6 address by its /64.
//     Of a trusted proxy it is the first address in x-forwarded-for, from the
//     right, that is not trusted ([WithCallers]);
//   - identity: what [WithCallers] declares, on the server otherwise that of the
//     peer's verified certificate;
//   - metadata: the value of a key, incoming on the server, outgoing on the client. Several
//     values, or one of more than 8 KiB, are refused with INVALID_ARGUMENT, as handlers
//     read different ones of them ([interceptors.MetadataValue]);
//   - field: the value of a request field. It limits unary calls only: when a
//     stream opens there is no request yet;
//   - a function ([WithKey]), such as one that asks realip.FromContext of
//     go-grpc-middleware.
//
// Callers for whom the key has no value share one bucket, and a refusal says so, unless
// missing_key of a rule by metadata or identity counts them by their network address, or
// refuses them with INVALID_ARGUMENT. On a client a limit by peer counts all calls
// together, as its peer is not picked yet.
//
// # The memory
//
// Counts are kept by method, name of the limit and key, in a table of fixed size
// ([WithMaxKeys]), and outlive a change of the policy. A full table evicts the
// key that has used least of its limit, which loses nothing while there are keys
// that have used none, and never one that has used it up: when there is no other,
// new keys share one bucket until there is room. A decision allocates nothing,
// whatever it is. An admitted call of a server allocates the context that
// [FromContext] reads, and one whose cost or limit is its own allocates those.
//
// # Replicas
//
// By default each process counts by itself, and n replicas admit n times the limit. The
// store of a rule changes that:
//   - RATE_LIMIT_STORE_EXTERNAL: all replicas count in one [Store] ([WithStore]), such as
//     that of package redis, which costs an admitted call a round trip, and a refund
//     another. A refusal is remembered in the process for its time, for about 16,000 keys,
//     so that callers over their limit cost the store nothing; a refund or a reset
//     elsewhere before that time takes effect after it.
//   - RATE_LIMIT_STORE_PER_REPLICA: no store. Each replica admits its share of the limit
//     ([WithShare]), which a server of package meshlite reads from Consul: its weight
//     among those of the instances that can be called. So it is exact as far as calls
//     are spread by weight; a key whose calls all go to one replica gets that share only.
//
// When the store fails or takes too long, on_store_failure decides: the call is admitted,
// refused with a RetryInfo of a second, or counted by share, which is the default. Without
// [WithStore] an external limit is counted by share too, whatever on_store_failure is, and
// a share that is not known is 1: a warning is logged. [Stats] count all of that. A limit
// with warm_up cannot be in a store, which keeps no key that is unused.
//
// The limits of a call that are counted in the process are checked first, and charged last:
// what the store has taken by then is refunded if one of them refuses.
//
// # The refusal
//
// RESOURCE_EXHAUSTED with a RetryInfo that is never below the true wait, a
// QuotaFailure that names the limit and, from a server, in the trailer one
// grpc-retry-pushback-ms (gRFC A6) and the fields ratelimit and ratelimit-policy
// (draft-ietf-httpapi-ratelimit-headers), which [WithFields] adds to every answer.
// None of them shows the value of the key, which may be a secret. A handler reads
// the same numbers with [FromContext].
//
// A client obeys refusals. A refusal holds back calls of the same method that the server
// counts together with the refused one, from the instance that refused; the picker and
// retries send them to others at once. If the limit is the service's, calls are held back
// from all instances: "scope" in the dimensions of the QuotaFailure is "service" for a
// limit in an external store, else "instance". A refusal without these details counts for
// its instance, and for all calls of the method. When all instances refuse, the limiter
// fails calls without sending them, with the shortest time given; where the policy lets
// calls wait, they wait. Calls are held back for 30 seconds at most ([WithHoldBack]); then
// one call probes whether the limit still refuses. It ends when its instance leaves the
// service. Where a client cannot see which calls count together, as for a key by function,
// it holds none back.
//
// The time is read from RetryInfo, and from the pushback where the caller or a retry asks
// for the trailer. The instance is known from the policies of package balancer:
// with those of gRPC only refusals for the whole service are obeyed. Used alone, without
// package logging or retry in the chain, a limiter obeys from the second refusal on.
//
// # For users of express-rate-limit
//
//	windowMs                 period of the rule
//	limit                    limit of the rule, or WithLimit
//	message, statusCode      none: RESOURCE_EXHAUSTED and its details are what
//	                         clients, retries and balancers understand
//	handler                  none: an interceptor outside of the limiter sees the
//	                         refusal; WithObserver counts it
//	legacyHeaders            none: X-RateLimit-* has no agreed meaning
//	standardHeaders          draft 8 and later, with every refusal; WithFields for
//	                         all answers. Drafts 6 and 7 are superseded
//	identifier               name of the rule
//	Retry-After              RetryInfo and grpc-retry-pushback-ms
//	requestPropertyName      FromContext
//	keyGenerator             key of the rule, or WithKey
//	ipv6Subnet               key.peer.ipv6_prefix of the rule
//	trust proxy (Express)    caller.WithTrustedPrefixes
//	skip                     WithSkip, or disabled in the policy of a method
//	skipFailedRequests       refund: REFUND_FAILED
//	skipSuccessfulRequests   refund: REFUND_SUCCEEDED
//	requestWasSuccessful     WithSuccess
//	store                    store of the rule: this process, WithStore (package
//	                         redis) or no store and a share of the limit
//	passOnStoreError         on_store_failure of the rule: true is
//	                         STORE_FAILURE_OPEN, false STORE_FAILURE_CLOSED, and
//	                         better than both STORE_FAILURE_PER_REPLICA
//	validate                 always: New and NewPolicies name what is wrong
//	logger                   none: errors are returned, results go to WithObserver
//	getKey, resetKey         Limiter.Standing, Limiter.Reset; Table has them too
package ratelimit
