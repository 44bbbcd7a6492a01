package mirror_test

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/mirror"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

func Example() {
	next := &place{} // in a program: grpc.NewClient of the target
	mirrored, err := mirror.New(next.dial)
	if err != nil {
		fmt.Println(err)
		return
	}
	policies, err := interceptors.NewPolicies(&policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{
		"GetSweet": {Mirror: &policyv1.MirrorRule{Target: proto.String("catalog-next"), Percent: proto.Float64(100), Compare: proto.Bool(true)}},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	mirrored.Open()
	// With plain grpc-go: grpc.NewClient(target, grpc.WithUnaryInterceptor(interceptor)).
	interceptor := mirrored.UnaryClientInterceptor(policies)
	err = interceptor(context.Background(), getSweet, &catalogv1.GetSweetRequest{Id: "fudge"}, &catalogv1.GetSweetResponse{}, nil,
		func(_ context.Context, _ string, _, reply any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
			reply.(*catalogv1.GetSweetResponse).Sweet = &catalogv1.Sweet{Id: "fudge", Name: "Fudge", PricePence: 140}
			return nil
		})
	fmt.Println(err)
	for len(mirrored.Stats()[0].Differences) == 0 {
		time.Sleep(time.Millisecond) // the copy is sent in the background
	}
	mirrored.Close()
	fmt.Printf("%+v\n", mirrored.Stats()[0].Differences)
	// Output:
	// <nil>
	// [{Path:sweet.price_pence Count:1 Caller:140 Copy:120}]
}
