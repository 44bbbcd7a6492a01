package redis_test

import (
	"context"
	"fmt"
	"time"

	"github.com/alicebob/miniredis/v2"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit/redis"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// Two replicas that admit three calls a minute together.
func Example() {
	server := miniredis.NewMiniRedis() // for this example; yours is elsewhere
	if err := server.Start(); err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()

	counts, err := redis.New(redis.WithURL("redis://" + server.Addr()))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer counts.Close()
	for !counts.Stats().Connected { // a program goes on meanwhile, by on_store_failure
		time.Sleep(time.Millisecond)
	}

	policies, err := interceptors.NewPolicies(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{
		RateLimits: []*policyv1.RateLimitRule{{
			Name: "all", Limit: proto.Uint64(3), Period: proto.String("1 minute"),
			Store: policyv1.RateLimitStore_RATE_LIMIT_STORE_EXTERNAL,
		}},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for replica := range 2 {
		limiter, err := ratelimit.New(ratelimit.WithStore(counts), ratelimit.WithSecret("32 hexadecimal digits, say"))
		if err != nil {
			fmt.Println(err)
			return
		}
		call := limiter.UnaryServerInterceptor(policies) // a server has it in its chain
		for range 2 {
			_, err := call(context.Background(), nil, &grpc.UnaryServerInfo{FullMethod: "/greet.Greeter/Hello"},
				func(context.Context, any) (any, error) { return nil, nil })
			fmt.Println(replica, err == nil)
		}
	}
	// Output:
	// 0 true
	// 0 true
	// 1 true
	// 1 false
}
