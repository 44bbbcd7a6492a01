package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/interceptors/retry"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
)

// refusing is a server that has the limits, and counts the calls that reach it.
func refusing(t *testing.T, client []ratelimit.Option, server []ratelimit.Option, rules ...*policyv1.RateLimitRule) (call func(kv ...string) error, reached *atomic.Int64) {
	t.Helper()
	reached = &atomic.Int64{}
	count := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		reached.Add(1)
		return handler(ctx, req)
	}
	limiter := newLimiter(t, client...)
	conn := dial(t, []grpc.ServerOption{grpc.ChainUnaryInterceptor(count, newLimiter(t, server...).UnaryServerInterceptor(policies(t, rules...)))},
		[]grpc.DialOption{grpc.WithUnaryInterceptor(limiter.UnaryClientInterceptor(policies(t)))})
	return func(kv ...string) error {
		ctx := metadata.AppendToOutgoingContext(attempt.NewContext(context.Background(), attempt.New()), kv...)
		_, err := storefrontv1.NewStorefrontServiceClient(conn).Browse(ctx, &storefrontv1.BrowseRequest{})
		return err
	}, reached
}

// A client that was refused sends no such call before the retry delay, and others as
// before: those that the server counts apart.
func TestClientHoldsBackWhatTheServerRefuses(t *testing.T) {
	identity := callers(caller.WithIdentity(func(ctx context.Context) (string, bool) { return first(ctx, "id"), true }))
	for _, test := range []struct {
		name        string
		key         *policyv1.RateLimitKey
		server      []ratelimit.Option
		other, held bool // whether another customer is refused, and without asking
		same        bool // whether the same one is held back
	}{
		{name: "all", other: true, held: true, same: true},
		{name: "peer", key: byPeer(), other: true, held: true, same: true},
		{name: "metadata", key: byMetadata("id"), same: true},
		{name: "identity by metadata", key: byIdentity(), server: []ratelimit.Option{callers(caller.WithIdentityMetadata("id"))}, same: true},
		{name: "identity by a function", key: byIdentity(), server: []ratelimit.Option{identity}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				call, reached := refusing(t, nil, test.server, limit("one", 2, test.key))
				for range 2 {
					want(t, "call", call("id", "a"), nil)
				}
				err := call("id", "a")
				want(t, "refused", refused(err), true)
				retry, _ := details(t, status.Convert(err))
				reached.Store(0)
				for range 100 {
					err := call("id", "a")
					want(t, "refused again", refused(err), true)
					again, quota := details(t, status.Convert(err))
					want(t, "a wait no shorter", again.GetRetryDelay().AsDuration() >= 30*time.Second, true)
					want(t, "reported: the limit", quota.GetViolations()[0].GetQuotaId(), "one")
				}
				want(t, "held back", reached.Load() == 0, test.same)
				reached.Store(0)
				want(t, "another refused", refused(call("id", "b")), test.other)
				want(t, "another held back", reached.Load() == 0, test.held)
				time.Sleep(retry.GetRetryDelay().AsDuration())
				want(t, "after the retry delay", call("id", "a"), nil)
			})
		})
	}
}

// answering is a client's call whose server answers err. It is the only one, as far as
// a picker reports it.
func answering(l grpc.UnaryClientInterceptor, ctx context.Context, err error, opts ...grpc.CallOption) (result error, made bool) {
	ctx, _ = attempt.FromOrNew(ctx, attempt.Unary)
	result = l(ctx, browse, nil, nil, nil,
		func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
			record, only := attempt.FromContext(ctx), &attempt.Instance{ID: "only", Address: "192.0.2.1:80"}
			if avoid := record.Avoid(); avoid != nil {
				if left := avoid.For(only); left > 0 {
					return avoid.Err(left)
				}
			}
			record.SetPicked(only)
			made = true
			return err
		}, opts...)
	return result, made
}

const shopService = "sweetshop.storefront.v1.StorefrontService"

// passedOn is a refusal of one service that another one gives as its own.
func passedOn(after time.Duration) error {
	s, _ := status.New(codes.ResourceExhausted, "later").WithDetails(
		&errdetails.RetryInfo{RetryDelay: durationpb.New(after)},
		&errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{{
			QuotaId: "x", ApiService: "sweetshop.inventory.v1.InventoryService", QuotaDimensions: map[string]string{"key": ""}}}})
	return s.Err()
}

func later(code codes.Code, after time.Duration) error {
	s, _ := status.New(code, "later").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	return s.Err()
}

// A refusal of any server is obeyed if it says until when, for a bounded time.
func TestWhichRefusalsAreObeyed(t *testing.T) {
	pushback := metadata.Pairs("grpc-retry-pushback-ms", "5000")
	never := metadata.Pairs("grpc-retry-pushback-ms", "5000", "grpc-retry-pushback-ms", "5000")
	for _, test := range []struct {
		name    string
		err     error
		trailer *metadata.MD
		opts    []ratelimit.Option
		held    time.Duration
	}{
		{"RetryInfo", later(codes.ResourceExhausted, 3*time.Second), nil, nil, 3 * time.Second},
		{"pushback", status.Error(codes.ResourceExhausted, ""), &pushback, nil, 5 * time.Second},
		{"both", later(codes.ResourceExhausted, 3*time.Second), &pushback, nil, 5 * time.Second},
		{"two pushbacks", status.Error(codes.ResourceExhausted, ""), &never, nil, 0},
		{"no time", status.Error(codes.ResourceExhausted, ""), nil, nil, 0},
		{"of another service", passedOn(3 * time.Second), nil, nil, 0},
		{"another code", later(codes.Unavailable, 3*time.Second), nil, nil, 0},
		{"an hour", later(codes.ResourceExhausted, time.Hour), nil, nil, 30 * time.Second},
		{"bounded", later(codes.ResourceExhausted, time.Hour), nil, []ratelimit.Option{ratelimit.WithHoldBack(time.Second)}, time.Second},
		{"off", later(codes.ResourceExhausted, time.Hour), nil, []ratelimit.Option{ratelimit.WithHoldBack(0)}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, p := newLimiter(t, test.opts...), policies(t)
				if len(test.opts) > 0 && test.held == 0 {
					want(t, "has a part", l.UnaryClient(p.Call(interceptors.Client, browse)) != nil, false)
				}
				client := l.UnaryClientInterceptor(p)
				var opts []grpc.CallOption
				if test.trailer != nil {
					opts = append(opts, grpc.Trailer(test.trailer))
				}
				_, made := answering(client, context.Background(), test.err, opts...)
				want(t, "first", made, true)
				if test.held > 0 {
					time.Sleep(test.held - time.Nanosecond)
					_, made = answering(client, context.Background(), nil)
					want(t, "a moment before", made, false)
					want(t, "counted", l.Stats().HeldBack, 1)
					time.Sleep(time.Nanosecond)
				}
				_, made = answering(client, context.Background(), nil)
				want(t, "then", made, true)
			})
		})
	}
}

// Where the policy says that calls wait, they wait for the retry delay.
func TestHeldBackCallsWaitWhereThePolicySaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rule := limit("queue", 1, nil) // of the server, which the client knows too
		rule.Wait = proto.Bool(true)
		client := newLimiter(t).UnaryClientInterceptor(policies(t, rule))
		s, _ := status.New(codes.ResourceExhausted, "later").WithDetails(
			&errdetails.RetryInfo{RetryDelay: durationpb.New(5 * time.Second)},
			&errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{{QuotaId: "queue"}}})
		_, _ = answering(client, context.Background(), s.Err())
		soon, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		start := time.Now()
		err, made := answering(client, soon, nil)
		want(t, "too soon", refused(err) && !made, true)
		want(t, "at once", time.Since(start), 0)
		err, made = answering(client, context.Background(), nil)
		want(t, "waited", err == nil && made, true)
		want(t, "until the retry delay", time.Since(start), 5*time.Second)
	})
}

// However many keys are refused, few are remembered; those do not mix.
func TestHoldsAreBounded(t *testing.T) {
	client := newLimiter(t).UnaryClientInterceptor(policies(t))
	s, _ := status.New(codes.ResourceExhausted, "later").WithDetails(
		&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Minute)},
		&errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{{QuotaId: "x", ApiService: shopService, QuotaDimensions: map[string]string{"key": "metadata id"}}}})
	as := func(i int) context.Context {
		return metadata.NewOutgoingContext(context.Background(), metadata.Pairs("id", fmt.Sprint(i)))
	}
	for i := range 5000 {
		_, made := answering(client, as(i), s.Err())
		want(t, "first of a key", made, true)
	}
	held := 0
	for i := range 5000 {
		if _, made := answering(client, as(i), nil); !made {
			held++
		}
	}
	if held < 512 || held > 1024 {
		t.Errorf("%d keys are held back, want about as many as there are places", held)
	}
	for i := range 100 { // limits with names made up
		s, _ := status.New(codes.ResourceExhausted, "later").WithDetails(
			&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Minute)},
			&errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{{QuotaId: strings.Repeat("y", i), ApiService: shopService, QuotaDimensions: map[string]string{"key": "metadata other"}}}})
		_, _ = answering(client, as(-i), s.Err())
	}
}

// A stream that ends with a refusal holds the next one back. gRPC's own services are
// exempt.
func TestStreamsAreHeldBackToo(t *testing.T) {
	l, p := newLimiter(t), policies(t)
	if l.StreamClient(p.Call(interceptors.Client, "/grpc.health.v1.Health/Watch")) != nil {
		t.Error("health is held back")
	}
	conn := dial(t, []grpc.ServerOption{grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error {
		return later(codes.ResourceExhausted, time.Minute)
	})}, []grpc.DialOption{grpc.WithStreamInterceptor(l.StreamClientInterceptor(p))})
	open := func() error {
		stream, err := conn.NewStream(context.Background(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/other.v1.Other/Chat")
		if err != nil {
			return err
		}
		if err = stream.RecvMsg(&healthv1.HealthCheckResponse{}); errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
	want(t, "first", refused(open()), true)
	want(t, "held back", l.Stats().HeldBack, 0)
	want(t, "second", refused(open()), true)
	want(t, "held back", l.Stats().HeldBack, 1)
}

// No retry comes before the retry delay, and it comes then: a call that retries needs
// two attempts, and those beside it none, however many there are.
func TestRetriesWaitForTheRetryInfo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		again, err := retry.New()
		if err != nil {
			t.Fatal(err)
		}
		with := policy()
		with.Methods["Browse"].Retry = &policyv1.RetryRule{MaxAttempts: proto.Uint32(3), Codes: []string{"RESOURCE_EXHAUSTED"}}
		rules, err := interceptors.NewPolicies(with)
		if err != nil {
			t.Fatal(err)
		}
		chain, err := interceptors.Chain(interceptors.Client, rules, again, newLimiter(t))
		if err != nil {
			t.Fatal(err)
		}
		var reached atomic.Int64
		count := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			reached.Add(1)
			return handler(ctx, req)
		}
		conn := dial(t, []grpc.ServerOption{grpc.ChainUnaryInterceptor(count,
			newLimiter(t).UnaryServerInterceptor(policies(t, limit("one", 2, nil))))}, chain.DialOptions())
		call := func(timeout time.Duration) error {
			ctx, cancel := context.WithTimeout(context.Background(), timeout)
			defer cancel()
			_, err := storefrontv1.NewStorefrontServiceClient(conn).Browse(ctx, &storefrontv1.BrowseRequest{})
			return err
		}
		for range 2 {
			want(t, "call", call(time.Minute), nil)
		}
		reached.Store(0)
		start, done := time.Now(), make(chan error)
		go func() { done <- call(time.Minute) }()
		synctest.Wait()
		for range 100 {
			want(t, "beside it", refused(call(time.Second)), true)
		}
		want(t, "at the server", reached.Load(), 1)
		want(t, "retried", <-done, nil)
		want(t, "no earlier", time.Since(start) >= 30*time.Second && time.Since(start) < 34*time.Second, true)
		want(t, "at the server", reached.Load(), 2)
	})
}
