package meshlite_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// X15: who gives up gets CANCELED, whose time ends DEADLINE_EXCEEDED: while the resolver
// has no answer yet, and while another's call for the same is under way.
//
// Case X15
func TestWhoeverEndsAtTheStartOrInAFlight(t *testing.T) {
	m := newMesh(t)
	work, release := make(chan struct{}, 10), make(chan struct{})
	instance := m.serve(&shop{name: "a", work: func() { work <- struct{}{}; <-release }})
	defer close(release)
	flying, conn := m.client("consul:///catalog")
	go func() { _, _ = flying.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "x"}) }()
	<-work
	if instance.calls.Load() != 1 {
		t.Fatal("the call that others wait for is not under way")
	}
	unary := func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := catalogv1.NewCatalogServiceClient(conn).GetSweet(ctx, &catalogv1.GetSweetRequest{Id: "x"})
		return err
	}
	stream := func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/shop.Other/Watch")
		return err
	}
	silentResolver := manual.NewBuilderWithScheme("silent") // which never answers
	_, starting := m.client("silent:///catalog", meshlite.WithDialOptions(grpc.WithResolvers(silentResolver)))
	for name, test := range map[string]struct {
		conn *grpc.ClientConn
		call func(context.Context, *grpc.ClientConn) error
	}{
		"in a flight":       {conn, unary},
		"at start":          {starting, unary},
		"at start, streams": {starting, stream},
	} {
		for _, code := range []codes.Code{codes.Canceled, codes.DeadlineExceeded} {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			if code == codes.Canceled {
				ctx, cancel = context.WithCancel(t.Context())
				time.AfterFunc(50*time.Millisecond, cancel)
			}
			if err := test.call(ctx, test.conn); status.Code(err) != code {
				t.Errorf("%s: %v, want %v", name, err, code)
			}
			cancel()
		}
	}
}
