package ratelimit_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// A server that admits two orders an hour of each customer.
func Example() {
	policies, err := interceptors.NewPolicies(&policyv1.ServicePolicy{
		Methods: map[string]*policyv1.MethodPolicy{"PlaceOrder": {
			RateLimits: []*policyv1.RateLimitRule{{
				Name:   "customer", // as in the contract, whose limit this changes
				Limit:  proto.Uint64(2),
				Burst:  proto.Uint64(2),
				Period: proto.String("1 hour"),
			}},
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	limiter, err := ratelimit.New()
	if err != nil {
		log.Fatal(err)
	}
	chain, err := interceptors.Chain(interceptors.Server, policies, limiter)
	if err != nil {
		log.Fatal(err)
	}
	// grpc.NewServer(chain.ServerOptions()...) would call this for every call:
	order := func(customer string) error {
		ctx := metadata.NewIncomingContext(context.Background(), metadata.Pairs("customer-id", customer))
		info := &grpc.UnaryServerInfo{FullMethod: "/sweetshop.storefront.v1.StorefrontService/PlaceOrder"}
		_, err := chain.UnaryServer()(ctx, nil, info, func(context.Context, any) (any, error) { return nil, nil })
		return err
	}
	for _, customer := range []string{"charlie", "charlie", "charlie", "veruca"} {
		fmt.Println(customer, status.Code(order(customer)))
	}
	// Output:
	// charlie OK
	// charlie OK
	// charlie ResourceExhausted
	// veruca OK
}

// A table limits anything by any key, without gRPC.
func ExampleTable() {
	table, err := ratelimit.NewTable(10_000)
	if err != nil {
		log.Fatal(err)
	}
	limit := ratelimit.Limit{Calls: 2, Period: time.Minute}
	now := time.Now()
	for _, second := range []time.Duration{0, 1, 2, 31} {
		decision := table.AllowAt(now.Add(second*time.Second), "charlie", limit, 1)
		fmt.Println(decision.Admitted, decision.RetryAfter)
	}
	// Output:
	// true 0s
	// true 0s
	// false 28s
	// true 0s
}

// A handler reads where its caller stands.
func ExampleFromContext() {
	policies, err := interceptors.NewPolicies(nil) // 50 a second for each customer
	if err != nil {
		log.Fatal(err)
	}
	limiter, err := ratelimit.New()
	if err != nil {
		log.Fatal(err)
	}
	handler := func(ctx context.Context, _ any) (any, error) {
		standings, _ := ratelimit.FromContext(ctx)
		for _, s := range standings {
			fmt.Println(s.Name, s.Limit, s.Remaining)
		}
		return nil, nil
	}
	ctx := metadata.NewIncomingContext(context.Background(), metadata.Pairs("customer-id", "charlie"))
	info := &grpc.UnaryServerInfo{FullMethod: "/sweetshop.storefront.v1.StorefrontService/Browse"}
	if _, err := limiter.UnaryServerInterceptor(policies)(ctx, nil, info, handler); err != nil {
		log.Fatal(err)
	}
	// Output: customer 50 per 1s 49
}

// A caller that has been locked out by mistake is let in again.
func ExampleLimiter_Reset() {
	limiter, err := ratelimit.New()
	if err != nil {
		log.Fatal(err)
	}
	err = limiter.Reset("/sweetshop.storefront.v1.StorefrontService/Browse", "customer", "charlie")
	fmt.Println(err)
	// Output: ratelimit: limit "customer" of "/sweetshop.storefront.v1.StorefrontService/Browse": no call of the method has met such a limit: write "/package.Service/Method" and the name in the policy
}
