package deadline_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/deadline"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const method = "/shop.Catalog/GetSweet"

// meta is a method with a timeout that is set on the given side.
func meta(side interceptors.Side, timeout string, where policyv1.Side) *interceptors.CallMeta {
	return &interceptors.CallMeta{
		Side: side, FullMethod: method, Service: "shop.Catalog", Method: "GetSweet",
		Policy: &policyv1.MethodPolicy{Timeout: &timeout, TimeoutSide: where},
	}
}

func build(t *testing.T, opts ...deadline.Option) *deadline.Deadline {
	t.Helper()
	d, err := deadline.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// call runs a unary call of d and gives what the inner part sees of the deadline.
func call(ctx context.Context, d *deadline.Deadline, m *interceptors.CallMeta, inner func(context.Context) error) error {
	if m.Side == interceptors.Server {
		_, err := d.UnaryServer(m)(ctx, nil, &grpc.UnaryServerInfo{FullMethod: method},
			func(ctx context.Context, _ any) (any, error) { return nil, inner(ctx) })
		return err
	}
	return d.UnaryClient(m)(ctx, method, nil, nil, nil,
		func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
			return inner(ctx)
		})
}

func TestTimeoutIsSetOnItsSide(t *testing.T) {
	d := build(t)
	tests := []struct {
		where          policyv1.Side
		client, server bool
	}{
		{policyv1.Side_SIDE_UNSPECIFIED, true, false},
		{policyv1.Side_SIDE_CLIENT, true, false},
		{policyv1.Side_SIDE_SERVER, false, true},
		{policyv1.Side_SIDE_BOTH, true, true},
	}
	for _, tt := range tests {
		client, server := meta(interceptors.Client, "2s", tt.where), meta(interceptors.Server, "2s", tt.where)
		if got := d.UnaryClient(client) != nil; got != tt.client {
			t.Errorf("%v: unary on the client: %v", tt.where, got)
		}
		if got := d.StreamClient(client) != nil; got != tt.client {
			t.Errorf("%v: stream on the client: %v", tt.where, got)
		}
		if got := d.UnaryServer(server) != nil; got != tt.server {
			t.Errorf("%v: unary on the server: %v", tt.where, got)
		}
		if got := d.StreamServer(server) != nil; got != tt.server {
			t.Errorf("%v: stream on the server: %v", tt.where, got)
		}
	}
	if d.UnaryClient(meta(interceptors.Client, "0s", policyv1.Side_SIDE_BOTH)) != nil {
		t.Error("a timeout of 0s is none")
	}
}

func TestDeadlineIsShortenedAndNeverLengthened(t *testing.T) {
	for _, side := range []interceptors.Side{interceptors.Client, interceptors.Server} {
		for own, want := range map[time.Duration]time.Duration{
			0: 2 * time.Second, time.Minute: 2 * time.Second, time.Second: time.Second,
		} {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if own > 0 {
					timed, cancel := context.WithTimeout(ctx, own)
					defer cancel()
					ctx = timed
				}
				start := time.Now()
				_ = call(ctx, build(t), meta(side, "2s", policyv1.Side_SIDE_BOTH), func(ctx context.Context) error {
					if at, _ := ctx.Deadline(); at.Sub(start) != want {
						t.Errorf("%v: own deadline in %v, got %v, want %v", side, own, at.Sub(start), want)
					}
					return nil
				})
			})
		}
	}
}

func TestCallThatTakesTooLongEndsWithDeadlineExceeded(t *testing.T) {
	tests := []struct {
		name string
		err  func(context.Context) error
		want codes.Code
	}{
		{"error of the context", context.Context.Err, codes.DeadlineExceeded},
		{"error without status", func(context.Context) error { return errors.New("driver: bad connection") }, codes.DeadlineExceeded},
		{"status", func(context.Context) error { return status.Error(codes.Unavailable, "gone") }, codes.Unavailable},
		{"answer all the same", func(context.Context) error { return nil }, codes.OK},
	}
	for _, side := range []interceptors.Side{interceptors.Client, interceptors.Server} {
		for _, tt := range tests {
			synctest.Test(t, func(t *testing.T) {
				observed := 0
				d := build(t, deadline.WithObserver(interceptors.ObserverFunc(func(_ context.Context, _ *interceptors.CallMeta, e interceptors.Event) {
					if e == (deadline.Exceeded{}) {
						observed++
					}
				})))
				err := call(t.Context(), d, meta(side, "2s", policyv1.Side_SIDE_BOTH), func(ctx context.Context) error {
					<-ctx.Done()
					return tt.err(ctx)
				})
				if status.Code(err) != tt.want {
					t.Errorf("%v, %s: %v, want %v", side, tt.name, err, tt.want)
				}
				if want := min(1, int(tt.want)); observed != want {
					t.Errorf("%v, %s: observed %d times, want %d", side, tt.name, observed, want)
				}
			})
		}
	}
}

func TestCallersDeadlineIsNotOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := build(t, deadline.WithObserver(interceptors.ObserverFunc(func(context.Context, *interceptors.CallMeta, interceptors.Event) { t.Error("observed") })))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_ = call(ctx, d, meta(interceptors.Client, "2s", policyv1.Side_SIDE_CLIENT), func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		})
	})
}

func TestNilObserverIsRefused(t *testing.T) {
	if _, err := deadline.New(deadline.WithObserver(nil)); err == nil || !strings.Contains(err.Error(), "WithObserver(nil)") {
		t.Error(err)
	}
}

// An observer that panics changes nothing of its call.
func TestAnObserverMayPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := build(t, deadline.WithObserver(interceptors.ObserverFunc(func(context.Context, *interceptors.CallMeta, interceptors.Event) { panic("no pencil") })))
		err := call(t.Context(), d, meta(interceptors.Client, "2s", policyv1.Side_SIDE_CLIENT), func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		})
		if status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("the call ends with %v", err)
		}
	})
}
