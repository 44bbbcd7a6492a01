// Package redis is a second level for the answers of interceptors/cache which several
// processes share: it implements cache.Store on one Redis or Valkey server, behind
// Sentinel, or on a cluster, through https://github.com/redis/rueidis.
//
//	shared, err := redis.New(redis.WithURL("rediss://app:" + password + "@redis.internal:6380/0"))
//	defer shared.Close()
//	answers, err := cache.New(cache.WithStore(shared))
//
// A program starts without Redis and goes on without it. [New] asks it nothing. Each
// operation has a timeout; when five in a row have failed, all fail at once with
// [ErrAway], for one second at first and for up to 30, until a look in the background
// finds it reachable again.
//
// # How invalidation works
//
// Each subject has a generation: a random id in Redis, in one of 16,384 slots for each
// kind of subject, the kind being its first word. A value carries a digest of the
// generations that its load began under, and is only found while they are the current
// ones. Load reads generations and value in one round trip, so it sees an
// invalidation by any process as soon as that has returned. To invalidate is to write
// new ids, whatever the number of values. A value that was loaded before that and is
// saved after it carries the old ids and is not found. Two subjects that share a slot
// are invalidated together, which costs a load and is never wrong.
//
// The local copies are those of the cache in front of it. Client-side caching of Redis would
// keep them a second time, and generations that are read with each value need no message to
// be up to date; so it is off, and any server or proxy will do.
//
// A generation that is lost (evicted, expired, FLUSHALL) is replaced by a new random id,
// so what was stored under it stays lost. Generations expire 30 days after the last value
// was saved under them, and a value that lives longer may be lost by then. They take some
// megabytes at most; values take what their ttl allows, so give Redis a maxmemory with
// the policy allkeys-lru or allkeys-lfu.
//
// # What may go wrong
//
// An invalidation that Redis did not accept is pending, and published before anything is
// loaded from it again. Until then other processes serve what is invalid, and until its ttl
// ends if this process ends before. A failover may lose an invalidation that had not reached the
// replica, and a restart from a snapshot those since it was taken: values are then served
// until their ttl ends, so leave persistence off. Whoever may write to this Redis decides
// what callers are answered: use a password, TLS and a prefix of your own.
package redis
