// Package cache caches the answers of unary gRPC calls: on the client, where a hit saves
// the call, or on the server, where it saves the handler. Which methods, for how long and
// for whom is the cache rule of their policy.
//
//	callers, err := caller.New(caller.WithIdentityMetadata("customer-id"))
//	answers, err := cache.New(cache.WithMaxBytes(128<<20), cache.WithCallers(callers))
//	defer answers.Close()
//	chain, err := interceptors.Chain(interceptors.Client, policies, answers)
//	conn, err := grpc.NewClient(target, append(chain.DialOptions(), creds)...)
//
// # What is stored
//
// Answers with the status OK of methods that have a ttl and are marked
// idempotency_level = NO_SIDE_EFFECTS, or whose rule says allow_side_effects; and
// failures that the rule lists as negative, such as NOT_FOUND, for a ttl of their own.
// Streams pass untouched. An entry is evicted when the memory is needed for entries that
// are used more, or when its method would exceed its max_share.
//
// # Who is served an answer
//
// The key of an entry is the target of the channel, the method, the request (or
// its key_fields), the metadata that the rule varies by and, unless the answer is public,
// the caller: its identity and its authorization metadata.
//
// An interceptor on the client does not see the credentials that the channel adds to
// a call. So a client stores private answers only if [WithCallers] declares the identity.
// Channels that share a cache, a target and an identity share their answers; [Cache.In]
// separates what must not be shared, such as two servers. On the server the identity is
// the verified certificate of the peer unless another one is declared.
//
// A request with fields that this program's contract lacks bypasses the cache, since two
// such requests may differ to the server alone.
//
// # For how long
//
// Freshness is that of RFC 9111, with the header fields of HTTP as metadata of gRPC. The
// policy sets the longest time; the header of an answer shortens it and never extends it:
//
//	cache-control: max-age=N, s-maxage=N   fresh for N seconds (s-maxage if the answer is public, and then never served stale)
//	cache-control: no-store, private       not stored (private: if the answer is public)
//	cache-control: no-cache                revalidated by each call
//	cache-control: must-revalidate         never served stale
//	cache-control: stale-while-revalidate=N, stale-if-error=N
//	age: N                                 the age when it was requested; without it, 0 on arrival
//	vary: a, b                             served only to callers that send the same values of these keys
//
// A caller sends directives in its outgoing metadata, for one call: no-cache (make the
// call), no-store (nor store its answer), max-age=N, min-fresh=N, max-stale=N and
// stale-if-error=N (within the windows of the policy), only-if-cached (or else
// FAILED_PRECONDITION). A server ignores them, and counts that, unless the caller is trusted
// by [WithCallers].
//
// A stale answer is served for stale_while_revalidate while it is refreshed in the
// background, with the timeout of the method as the deadline, 64 refreshes at once, and
// none of a method for a second after an outage; and for stale_if_error if the call fails by
// an outage, unless the handler has sent another etag before it failed. When the origin
// answers that something is gone, or may not be stored, its old answer is dropped.
//
// With early_refresh, one call of many refreshes an answer before it expires, the sooner
// the longer it took to load.
//
// # The way of a call
//
// An exchange is the state of one call. In this order, and no further than needed:
//
//  1. lookup: the entry in memory under the key of the exchange. An answer that varies by
//     metadata has a marker there that leads to the key of the variant. A fresh entry is a
//     hit, and the call ends here.
//  2. coalesce: the exchange joins the flight of its key. The first one there is the leader;
//     concurrent identical calls wait, each as long as its own deadline allows.
//  3. store: the leader asks the [Store], if there is one.
//  4. load: otherwise the origin is asked, which is the next interceptor or the handler,
//     with if-none-match if an expired answer has an etag.
//  5. keep: the answer becomes an entry in memory, and is saved in the store in the
//     background. The caller has its answer from the origin already.
//  6. publish: the flight ends, and those that wait are served the entry, or the error. An
//     error that may concern the leader alone, such as PERMISSION_DENIED for a public
//     answer, or its cancellation, is not published: another one of them leads or loads.
//
// A call with no-cache goes from the first step to the fourth, alone. If the load fails by an
// outage, the memory is looked up again for an answer that stale-if-error allows.
//
// # Revalidation
//
// A client that has an expired answer with an etag sends if-none-match. A server whose cache
// stores the method adds an etag to each answer; other handlers call [Unchanged]. An empty
// answer with the header not-modified confirms the one with that etag, which is fresh again.
//
// # Invalidation
//
// [Cache.Invalidate] invalidates the answers to a request, of a method, with a tag, or
// all, and so does a call of a method whose policy declares what it changes:
//
//	rpc GetSweet:    cache: {ttl: "5 minutes", tags: "sweet:{id}"}
//	rpc ChangeSweet: invalidates: {tags: "sweet:{sweet.id}"}
//
// An invalidation applies to what is stored, and to each load that began before it. It needs
// no search: each subject has a generation, and a lookup compares those of the entry with
// the generation in which its load began.
//
// # Several processes
//
// Processes share answers and invalidations through a [Store], such as one of package
// redis. A hit in memory never asks it. Its failures are misses; when invalidations may
// have been missed, all entries in memory are dropped. Programs share an answer only if
// their contracts have the same fields in it.
//
// # Shadow mode
//
// A rule with shadow makes each call, and compares the answer with the one that would have
// been served: [MethodStats] counts, for ages from a second to a day, how many answers up to
// that age had changed. So a ttl can be chosen before it is used.
//
// # Metadata
//
// A hit fills [google.golang.org/grpc.Header] and [google.golang.org/grpc.Trailer]
// with the metadata of the answer, except for hop-by-hop keys, adds its age, and runs
// [google.golang.org/grpc.OnFinish]. [google.golang.org/grpc.Peer] stays empty, since
// there was no peer. The header x-cache of an answer has the result of each cache on the
// way, if the call carries x-cache with any value.
//
// # For those who know apicache
//
//	apicache                         here
//	duration strings                 ttl: "5 minutes", "90s", "1 day"; junk is refused when the policy is read
//	defaultDuration                  the default of the service's policy
//	middleware toggle                WithSkip, before an answer is served or stored
//	options of one route             the policy of the method, which later layers change field by field
//	statusCodes.include, .exclude    negative: {code, ttl}; OK is always stored, nothing else by default
//	enabled                          ttl: "0s", also while the program runs (SetOperator)
//	redisClient                      WithStore with package redis
//	appendKey                        vary, key_fields, and the caller unless the scope is public
//	headerBlacklist                  hop-by-hop keys are never stored
//	headers (overrides)              cache-control of the answer; nothing is overridden for clients
//	respectCacheControl              always, to shorten; policies set the longest time
//	x-apicache-bypass, -force-fetch  cache-control: no-store, no-cache; of trusted callers
//	groups (apicacheGroup)           tags
//	clear                            Invalidate, meshlite cache clear, invalidates of a method
//	getIndex                         Index, bounded, without the requests; meshlite cache stats --index
//	getDuration                      IndexEntry.Left, and the header age
//	trackPerformance                 Methods: hit rates over 1, 5 and 15 minutes; metrics
//	events.expire                    none: an expired entry is evicted when its place is needed; WithObserver gets each result
//	debug                            x-cache on a call, WithObserver, WithLogger
//	newInstance, clone               New, any number; In for a part of one
//	ETag, If-None-Match, 304         etag, if-none-match, not-modified
//	cache-control countdown          the header age beside cache-control
package cache
