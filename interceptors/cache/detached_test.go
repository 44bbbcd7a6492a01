package cache_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// A handler that refreshes an answer in the background finds its method as in any call.
// Without a transport, as in a test that calls the interceptor itself, it runs as well.
func TestAHandlerInTheBackgroundHasItsMethod(t *testing.T) {
	for name, begin := range map[string]func(context.Context) context.Context{
		getSweet: func(ctx context.Context) context.Context {
			return grpc.NewContextWithServerTransportStream(ctx, &wire{})
		},
		"": func(ctx context.Context) context.Context { return ctx },
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newCache(t)
			intercept := c.UnaryServerInterceptor(policies(t, onServer(refreshed())))
			var methods []string
			handler := func(ctx context.Context, _ any) (any, error) {
				method, _ := grpc.Method(ctx)
				methods = append(methods, method)
				return named(int64(len(methods))), nil
			}
			call := func(what, answer string) {
				t.Helper()
				reply, err := intercept(begin(t.Context()), &catalogv1.GetSweetRequest{Id: "fudge"}, &grpc.UnaryServerInfo{FullMethod: getSweet}, handler)
				if err != nil {
					t.Fatal(err)
				}
				want(t, what, reply.(*catalogv1.GetSweetResponse).GetSweet().GetName(), answer)
			}
			call("at first", "answer 1")
			time.Sleep(time.Minute)
			call("past its ttl", "answer 1")
			synctest.Wait()
			call("refreshed", "answer 2")
			want(t, "runs of the handler", len(methods), 2)
			want(t, "method in the background", methods[len(methods)-1], name)
		})
	}
}
