package redis_test

import (
	"context"
	"fmt"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/meshlite-go/meshlite/interceptors/cache/redis"
)

// What a cache does with its store. A program gives it by cache.WithStore instead.
func Example() {
	server := miniredis.NewMiniRedis() // for this example; yours is elsewhere
	if err := server.Start(); err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()

	shared, err := redis.New(redis.WithURL("redis://" + server.Addr()))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer shared.Close()
	for !shared.Stats().Connected { // a program goes on meanwhile
		time.Sleep(time.Millisecond)
	}

	ctx := context.Background()
	subjects := []string{"method /sweetshop/GetSweet", "tag sweet:fudge"}
	_, _, ticket, _ := shared.Load(ctx, "key", subjects)
	_ = shared.Save(ctx, ticket, []byte("fudge, 3.20"), time.Minute)
	value, _, _, _ := shared.Load(ctx, "key", subjects)
	fmt.Printf("%q\n", value)

	_ = shared.Invalidate(ctx, []string{"tag sweet:fudge"})
	value, _, _, _ = shared.Load(ctx, "key", subjects)
	fmt.Printf("%q\n", value)
	// Output:
	// "fudge, 3.20"
	// ""
}
