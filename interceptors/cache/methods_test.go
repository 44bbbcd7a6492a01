package cache_test

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/racetest"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// A proxy may be asked for any number of methods: 4,096 have figures of their own, and
// the calls of all others are counted together, without a name.
func TestMethodsBeyondTheBoundAreCountedTogether(t *testing.T) {
	racetest.Skip(t)
	const most, more = 4096, 100
	c := newCache(t)
	for i := range most + more {
		name := fmt.Sprintf("M%04d", i)
		intercept := c.UnaryClient(&interceptors.CallMeta{
			Side: interceptors.Client, FullMethod: "/files.v1.Files/" + name, Service: "files.v1.Files", Method: name,
			Policy: &policyv1.MethodPolicy{Cache: &policyv1.CacheRule{
				Ttl: proto.String("1h"), Scope: policyv1.CacheScope_CACHE_SCOPE_PUBLIC, AllowSideEffects: proto.Bool(true),
			}},
		})
		err := intercept(t.Context(), "/files.v1.Files/"+name, wrapperspb.String("key"), &wrapperspb.BytesValue{}, nil,
			func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	all := c.Methods()
	want(t, "methods", len(all), most+1)
	want(t, "name of the last with its own figures", all[most-1].Method, "files.v1.Files/M4095")
	want(t, "calls of the last with its own figures", all[most-1].Misses, 1)
	want(t, "name of the others", all[most].Method, "")
	want(t, "calls of the others", all[most].Misses, more)
}
