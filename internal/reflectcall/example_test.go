package reflectcall_test

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/meshlite-go/meshlite/internal/reflectcall"
)

func ExampleLookup() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	server := grpc.NewServer()
	healthv1.RegisterHealthServer(server, health.NewServer())
	reflection.Register(server)
	go server.Serve(listener)
	defer server.Stop()

	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	text, err := check(context.Background(), conn)
	fmt.Println(text, err)
	// Output: {"status":"SERVING"} <nil>
}

// check asks for the health of a server without the generated code of it.
func check(ctx context.Context, conn *grpc.ClientConn) (string, error) {
	method, err := reflectcall.Lookup(ctx, conn, "grpc.health.v1.Health/Check")
	if err != nil {
		return "", err
	}
	request, err := method.Request([]byte(`{"service": ""}`))
	if err != nil {
		return "", err
	}
	answer := method.NewAnswer()
	if err := conn.Invoke(ctx, method.FullMethod(), request, answer); err != nil {
		return "", err
	}
	text, err := method.JSON(answer)
	return string(text), err
}
