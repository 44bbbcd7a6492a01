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
// Streams pass untouched. An entry is served until its ttl is over, and
// given up when the memory is needed for entries that are asked for more often. Past it,
// for as long as stale_if_error says, it stands in for a call that fails by an outage.
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
// # Together
//
// Calls for the same answer at the same time are one: who came first makes it, and
// the others wait, each as long as its own deadline allows. If the first one gives up,
// whoever is first then makes the call. A failure is told to all, unless it may be that
// of the caller alone, who is not allowed what others are.
//
// # Metadata
//
// A hit fills [google.golang.org/grpc.Header] and [google.golang.org/grpc.Trailer]
// with what the answer came with, except for what belongs to one hop, and runs
// [google.golang.org/grpc.OnFinish]. [google.golang.org/grpc.Peer] stays empty:
// nobody was asked.
package cache
