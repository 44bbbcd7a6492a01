// Package cache keeps the answers of unary gRPC calls and gives them again, on
// the client, where a hit saves the call, or on the server, where it saves the
// handler. Which methods, for how long and for whom is the cache rule of their policy.
//
//	answers, err := cache.New(cache.WithMaxBytes(128<<20), cache.WithIdentityMetadata("customer-id"))
//	defer answers.Close()
//	chain, err := interceptors.Chain(interceptors.Client, policies, answers)
//	conn, err := grpc.NewClient(target, append(chain.DialOptions(), creds)...)
//
// # What is kept
//
// Answers with the status OK of methods that have a ttl and are marked
// idempotency_level = NO_SIDE_EFFECTS, or whose rule says allow_side_effects; and
// failures that the rule names as negative, such as NOT_FOUND, for their own time.
// Streams pass untouched. An entry is given up when the memory is needed for entries that
// are asked for more often, or when its method would take more than its max_share.
//
// # Who is given an answer
//
// The key of an entry is the target of the channel, the method, the request (or
// the fields of it that the rule names), the metadata that the rule varies by
// and, unless the rule says that the answer is public, the caller: its identity
// and the value of its authorization metadata.
//
// An interceptor on the client cannot see the credentials that the channel adds to
// a call, so it does not know who calls unless it is told by [WithIdentity] or
// [WithIdentityMetadata], and keeps no private answer before. Channels that share
// a cache, a target and an identity share their answers; [Cache.In] keeps apart what
// must not be shared, such as two servers. On the server the identity is the verified certificate of the peer where none is declared.
//
// A request with fields that this program's contract does not know is never
// served from the cache, since two such requests may mean different things to the
// server.
//
// # For how long
//
// Freshness is that of RFC 9111, with the fields of HTTP as metadata of gRPC. The policy
// says how long at most; what an answer says in its header makes it shorter, never longer:
//
//	cache-control: max-age=N, s-maxage=N   for so many seconds (s-maxage if the answer is public, and then never past it)
//	cache-control: no-store, private       not at all (private: if the answer is public)
//	cache-control: no-cache                until the next call, which asks whether it still holds
//	cache-control: must-revalidate         never past its time
//	cache-control: stale-while-revalidate=N, stale-if-error=N
//	age: N                                 it was that old when it was asked for; without one, it counts from when it came
//	vary: a, b                             only for callers who send the same values of these keys
//
// What a caller says in its outgoing metadata, for one call: no-cache (make the call), no-store
// (and do not keep what it brings), max-age=N, min-fresh=N, max-stale=N and stale-if-error=N
// (within the windows of the policy), only-if-cached (or else FAILED_PRECONDITION). On a
// server that counts only from callers whom [WithTrusted] trusts, and is counted from others.
//
// Past its time, an answer is served for stale_while_revalidate while one call fetches a
// newer one with nobody waiting, with the timeout of the method as its deadline, 64 at once
// and none of a method for a second after an outage; and for stale_if_error if the call
// fails by an outage, but not if the handler has told another etag before it failed. When
// the origin says that something is gone, or not to be kept, its old answer is given up.
//
// With early_refresh, an answer that is soon over is refreshed by one call of many before
// it is, the sooner the longer it took to load.
//
// # What has not changed is not sent again
//
// A client that has an answer with an etag, and is to ask anew, sends if-none-match. A
// server whose cache keeps the method gives each answer an etag; other handlers call
// [Unchanged]. An empty answer with the header not-modified says that the one with that
// etag still holds, and it is fresh again.
//
// # What is no longer true
//
// [Cache.Invalidate] puts an end to the answers to a request, of a method, with a tag, or to
// all, and so does a call of a method whose policy declares what it changes:
//
//	rpc GetSweet:    cache: {ttl: "5 minutes", tags: "sweet:{id}"}
//	rpc ChangeSweet: invalidates: {tags: "sweet:{sweet.id}"}
//
// An invalidation wins over each load that began before it, whoever waits for that. It
// takes no search: an answer is compared with the latest invalidation of what it belongs
// to when it is asked for.
//
// # Together
//
// Calls for the same answer at the same time are one: who came first makes it, and
// the others wait, each as long as its own deadline allows. If the first one gives up,
// whoever is first then makes the call. A failure is told to all, unless it may be that
// of the caller alone, who is not allowed what others are.
//
// Processes share answers and invalidations through a [Store], such as one of package
// redis. It is asked when there is nothing in memory, and never by a hit. What is wrong with it
// is a miss; when invalidations may have been missed, all of the memory is given up. An
// answer is only shared by programs that know the same fields of it.
//
// # In shadow
//
// A rule that says shadow makes each call, and compares the answer with what would have
// been served: [MethodStats] tells for ages from a second to a day how many answers up to it
// had changed. So a ttl can be chosen before it is used.
//
// # Metadata
//
// A hit fills [google.golang.org/grpc.Header] and [google.golang.org/grpc.Trailer]
// with what the answer came with, except for what belongs to one hop, and its age, and runs
// [google.golang.org/grpc.OnFinish]. [google.golang.org/grpc.Peer] stays empty:
// nobody was asked. A call that carries x-cache, with any value, is told the result of each cache on
// its way in the header x-cache.
//
// # For those who know apicache
//
//	apicache                         here
//	duration strings                 ttl: "5 minutes", "90s", "1 day"; junk is refused when the policy is read
//	defaultDuration                  the default of the service's policy
//	middleware toggle                WithSkip, before an answer is served or kept
//	options of one route             the policy of the method, which later layers change field by field
//	statusCodes.include, .exclude    negative: {code, ttl}; OK is always kept, nothing else by itself
//	enabled                          ttl: "0s", also while the program runs (SetOperator)
//	redisClient                      WithStore with package redis
//	appendKey                        vary, key_fields, and the caller unless the scope is public
//	headerBlacklist                  what belongs to one hop is never kept; what must not be, the handler does not send
//	headers (overrides)              cache-control of the answer; nothing is overridden for clients
//	respectCacheControl              always, for shorter; policies decide what is longer
//	x-apicache-bypass, -force-fetch  cache-control: no-store, no-cache; of trusted callers
//	groups (apicacheGroup)           tags
//	clear                            Invalidate, meshlite cache clear, invalidates of a method
//	getIndex                         Index, bounded, without what was asked; meshlite cache stats --index
//	getDuration                      Kept.Left, and the header age
//	trackPerformance                 Methods: hit rates over 1, 5 and 15 minutes; metrics
//	events.expire                    none: an entry past its time goes when its place is needed; WithObserver tells each result
//	debug                            x-cache on a call, WithObserver, WithLogger
//	newInstance, clone               New, any number; In for a part of one
//	ETag, If-None-Match, 304         etag, if-none-match, not-modified
//	cache-control countdown          the header age beside cache-control
package cache
