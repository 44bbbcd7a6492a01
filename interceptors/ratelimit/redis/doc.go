// Package redis counts the calls of several processes together: it implements
// ratelimit.Store on one Redis or Valkey server, behind Sentinel, or on a cluster,
// through https://github.com/redis/rueidis. It takes Redis 5 or newer.
//
//	counts, err := redis.New(redis.WithURL("rediss://app:" + password + "@redis.internal:6380/0"))
//	defer counts.Close()
//	limiter, err := ratelimit.New(ratelimit.WithStore(counts), ratelimit.WithSecret(secret))
//
// for limits whose policy has store: RATE_LIMIT_STORE_EXTERNAL.
//
// A program starts and runs without Redis. [New] does not wait for it. Each operation has
// a timeout; when five in a row have failed, the circuit opens, and all fail at once with
// [ErrAway], for one second at first and for up to 30, until a probe in the background
// succeeds. Calls are then handled by on_store_failure of their limit.
//
// # How it counts
//
// One script decides on one key, in one round trip, by the clock of the server: those of
// the processes do not matter. A key stores when its bucket will be full, to the
// nanosecond, and expires in the millisecond after that, so Redis holds only keys that
// are in use, with some 100 bytes for each. If the clock of the server is set back,
// or a failover leads to one that is late, a key has used no more than before.
//
// On a cluster each key is in a slot of its own. The limits of one call are charged in
// parallel; if one refuses, the others are refunded in a second round trip, and in
// between may refuse other calls. What is answered too late, or by some nodes only, may stay
// charged. A prefix with a hash tag, such as "{limits}:", puts all keys on one node.
//
// Keys are digests: see ratelimit.WithSecret.
//
// # What may go wrong
//
// What Redis loses (FLUSHALL, a restart without persistence, a failover before the last
// charges had reached the replica) is admitted once more: at most a burst for each key.
// Give it a maxmemory with the policy volatile-ttl, which evicts those keys first that are
// nearly unused. Whoever can write to this Redis decides who is refused: use a password,
// TLS and a prefix of your own.
package redis
