package logging_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/interceptors/logging"
)

func Example() {
	steady := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == "duration" {
			return slog.Attr{}
		}
		return a
	}
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: steady}))
	logged, err := logging.New(logging.WithLogger(logger))
	if err != nil {
		fmt.Println(err)
		return
	}
	// With plain grpc-go: grpc.NewServer(grpc.UnaryInterceptor(interceptor)).
	interceptor := logged.UnaryServerInterceptor()
	_, _ = interceptor(context.Background(), nil, &grpc.UnaryServerInfo{FullMethod: "/shop.Catalog/GetSweet"},
		func(context.Context, any) (any, error) { return nil, status.Error(codes.Internal, "the shelf fell") })
	// Output:
	// level=WARN msg=call side=server method=/shop.Catalog/GetSweet code=Internal error="the shelf fell"
}
