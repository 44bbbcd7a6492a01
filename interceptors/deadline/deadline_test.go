package deadline_test

import (
	"cmp"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer/attempt"
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

// bounds reports whether d has calls of m end in time.
func bounds(t *testing.T, d *deadline.Deadline, m *interceptors.CallMeta) (unary, stream bool) {
	t.Helper()
	see := func(bounded *bool) func(context.Context) error {
		return func(ctx context.Context) error { _, *bounded = ctx.Deadline(); return nil }
	}
	if m.Side == interceptors.Server && d.UnaryServer(m) == nil && d.StreamServer(m) == nil {
		return false, false
	}
	if err := errors.Join(call(t.Context(), d, m, see(&unary)), follow(t.Context(), d, m, see(&stream))); err != nil {
		t.Fatal(err)
	}
	return unary, stream
}

// follow is call for a stream, which ends with what its inner part returns.
func follow(ctx context.Context, d *deadline.Deadline, m *interceptors.CallMeta, inner func(context.Context) error) error {
	if m.Side == interceptors.Server {
		return d.StreamServer(m)(nil, open{ctx: ctx}, &grpc.StreamServerInfo{FullMethod: method},
			func(_ any, stream grpc.ServerStream) error { return inner(stream.Context()) })
	}
	stream, err := d.StreamClient(m)(ctx, &grpc.StreamDesc{ServerStreams: true}, nil, method,
		func(ctx context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
			return clientStream{end: func() error { return inner(ctx) }}, nil
		})
	if err == nil {
		err = stream.RecvMsg(nil)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return err
}

// clientStream ends with its first message.
type clientStream struct {
	grpc.ClientStream
	end func() error
}

func (s clientStream) RecvMsg(any) error { return cmp.Or(s.end(), io.EOF) }

func TestTimeoutIsSetOnItsSide(t *testing.T) {
	d := build(t)
	tests := []struct {
		timeout        string
		where          policyv1.Side
		client, server bool
	}{
		{"2s", policyv1.Side_SIDE_UNSPECIFIED, true, false},
		{"2s", policyv1.Side_SIDE_CLIENT, true, false},
		{"2s", policyv1.Side_SIDE_SERVER, false, true},
		{"2s", policyv1.Side_SIDE_BOTH, true, true},
		{"0s", policyv1.Side_SIDE_BOTH, false, false},
	}
	for _, tt := range tests {
		for side, want := range map[interceptors.Side]bool{interceptors.Client: tt.client, interceptors.Server: tt.server} {
			if unary, stream := bounds(t, d, meta(side, tt.timeout, tt.where)); unary != want || stream != want {
				t.Errorf("%+v at %v: unary %t, stream %t, want %t", tt, side, unary, stream, want)
			}
		}
	}
}

// The timeout of the route takes part, and the error and the event say whose it was.
func TestTheShortestTimeoutHoldsAndIsNamed(t *testing.T) {
	const ofPolicy, ofRoute = "timeout of the policy", `timeout of route "route 1", arm "v2"`
	for _, tt := range []struct {
		policy        string
		route, caller time.Duration
		want          time.Duration
		named, result string
	}{
		{"2s", 0, 0, 2 * time.Second, ofPolicy + ": 2s", "policy"},
		{"2s", 3 * time.Second, 0, 2 * time.Second, ofPolicy + ": 2s", "policy"},
		{"2s", time.Second, 0, time.Second, ofRoute + ": 1s", "route"},
		{"0s", time.Second, 0, time.Second, ofRoute + ": 1s", "route"},
		{"0s", time.Second, time.Minute, time.Second, ofRoute + ": 1s", "route"},
		{"2s", 3 * time.Second, time.Second, time.Second, "", ""},
		{"0s", -1, time.Second, time.Second, "", ""}, // a route without, whatever the resolver says
	} {
		for kind, run := range map[string]func(context.Context, *deadline.Deadline, *interceptors.CallMeta, func(context.Context) error) error{"unary": call, "stream": follow} {
			synctest.Test(t, func(t *testing.T) {
				var results []string
				d := build(t, deadline.WithObserver(interceptors.ObserverFunc(func(_ context.Context, _ *interceptors.CallMeta, e interceptors.Event) {
					results = append(results, e.Result())
				})))
				record := attempt.New()
				record.SetRoute(&attempt.Route{Name: "route 1", Arm: "v2", Timeout: tt.route})
				ctx := attempt.NewContext(t.Context(), record)
				if tt.caller > 0 {
					timed, cancel := context.WithTimeout(ctx, tt.caller)
					defer cancel()
					ctx = timed
				}
				start := time.Now()
				late := interceptors.Logged(status.Error(codes.DeadlineExceeded, "too slow"))
				err := run(ctx, d, meta(interceptors.Client, tt.policy, policyv1.Side_SIDE_CLIENT), func(ctx context.Context) error {
					<-ctx.Done()
					return late
				})
				if took := time.Since(start); took != tt.want || status.Code(err) != codes.DeadlineExceeded && tt.named != "" {
					t.Errorf("%s, %+v: %v after %v", kind, tt, err, took)
				}
				if tt.named == "" && err != late || !strings.Contains(err.Error(), tt.named) {
					t.Errorf("%s, %+v: the error is %v", kind, tt, err)
				}
				if !interceptors.IsLogged(err) {
					t.Errorf("%s, %+v: what the error wraps is lost", kind, tt)
				}
				if got := strings.Join(results, " "); got != tt.result {
					t.Errorf("%s, %+v: observed %q", kind, tt, got)
				}
			})
		}
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
