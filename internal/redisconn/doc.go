// Package redisconn is what every room that speaks to Redis has in common: the options,
// the client, a circuit that leaves Redis alone while it is away, and errors that say
// what to do and tell no secret. What is asked of Redis is the room's own.
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
