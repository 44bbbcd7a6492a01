// Package redisconn is what every room that speaks to Redis has in common: the options,
// the client, a circuit breaker that stops operations while Redis is unreachable, and
// errors that say what to do and contain no secret. The commands are the importer's own.
//
//	conn := redisconn.New(redisconn.Config{Options: options, Away: "counting in each process"})
//	conn.Start()
//	defer conn.Close()
//	value, err := redisconn.Call(ctx, conn, func(ctx context.Context, client rueidis.Client) (string, error) {
//		return client.Do(ctx, client.B().Get().Key("key").Build()).ToString()
//	})
//
// A program starts without Redis and goes on without it: New asks it nothing. Each
// operation has a timeout; when five in a row have failed, all fail at once with
// [ErrAway], until a look in the background finds Redis well again.
package redisconn
