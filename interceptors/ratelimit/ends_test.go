package ratelimit_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// undated is a context that says of no deadline before it ends.
type undated struct{ context.Context }

func (undated) Deadline() (time.Time, bool) { return time.Time{}, false }

// slow is a store that answers nobody.
type slow struct{ ratelimit.Store }

// Bounded: it waits for as long as the call has.
func (slow) Bounded() {}

func (slow) Take(ctx context.Context, _ []ratelimit.Charge) ([]ratelimit.Taken, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// waiting is a rule by which calls wait.
func waiting(side policyv1.Side, store policyv1.RateLimitStore) *policyv1.RateLimitRule {
	rule := limit("queue", 1, nil)
	rule.Wait, rule.Side, rule.Store = proto.Bool(true), side, store
	return rule
}

// invocation makes a call, unary or a stream, with ctx.
type invocation func(ctx context.Context) error

// client has both invocations of a channel whose only instance answers with err.
func client(l *ratelimit.Limiter, p *interceptors.Policies, err error) map[string]invocation {
	answer := func(ctx context.Context) error {
		record, only := attempt.FromContext(ctx), &attempt.Instance{ID: "only", Address: "192.0.2.1:80"}
		if record == nil {
			return err
		}
		if avoid := record.Avoid(); avoid != nil {
			if left := avoid.For(only); left > 0 {
				return avoid.Err(left)
			}
		}
		record.SetPicked(only)
		return err
	}
	unary, stream := l.UnaryClientInterceptor(p), l.StreamClientInterceptor(p)
	return map[string]invocation{
		"unary": func(ctx context.Context) error {
			ctx, _ = attempt.FromOrNew(ctx, attempt.Unary)
			return unary(ctx, browse, nil, nil, nil, func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
				return answer(ctx)
			})
		},
		"stream": func(ctx context.Context) error {
			_, err := stream(ctx, &grpc.StreamDesc{}, nil, browse, func(ctx context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
				return nil, answer(ctx)
			})
			return err
		},
	}
}

// server has both callers of a server.
func server(l *ratelimit.Limiter, p *interceptors.Policies) map[string]invocation {
	unary, stream := l.UnaryServerInterceptor(p), l.StreamServerInterceptor(p)
	return map[string]invocation{
		"unary": func(ctx context.Context) error {
			_, err := unary(ctx, nil, &grpc.UnaryServerInfo{FullMethod: browse}, func(context.Context, any) (any, error) { return nil, nil })
			return err
		},
		"stream": func(ctx context.Context) error {
			return stream(nil, &opened{ctx: ctx}, &grpc.StreamServerInfo{FullMethod: browse}, func(any, grpc.ServerStream) error { return nil })
		},
	}
}

// opened is a stream of which only the context is asked for.
type opened struct {
	grpc.ServerStream
	ctx context.Context
}

func (o *opened) Context() context.Context { return o.ctx }

// X15: who gives up gets CANCELED, whose time ends DEADLINE_EXCEEDED, wherever a limit has
// the call wait: for its turn, for the time that a server has asked for, for the store.
func TestWhoeverEndsWhileWaiting(t *testing.T) {
	held := func() error {
		s, _ := status.New(codes.ResourceExhausted, "later").WithDetails(
			&errdetails.RetryInfo{RetryDelay: durationpb.New(20 * time.Second)},
			&errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{{QuotaId: "queue"}}})
		return s.Err()
	}
	shared := policyv1.RateLimitStore_RATE_LIMIT_STORE_EXTERNAL
	none := policyv1.RateLimitStore_RATE_LIMIT_STORE_UNSPECIFIED
	for name, test := range map[string]struct {
		callers func(*testing.T) map[string]invocation
		first   codes.Code // of a call that ends before
		last    string     // in the message
	}{
		"a turn at the client": {func(t *testing.T) map[string]invocation {
			return client(newLimiter(t), policies(t, waiting(policyv1.Side_SIDE_CLIENT, none)), nil)
		}, codes.OK, ""},
		"a turn at the server": {func(t *testing.T) map[string]invocation {
			return server(newLimiter(t), policies(t, waiting(policyv1.Side_SIDE_SERVER, none)))
		}, codes.OK, ""},
		"held back": {func(t *testing.T) map[string]invocation {
			return client(newLimiter(t), policies(t, waiting(policyv1.Side_SIDE_SERVER, none)), held())
		}, codes.ResourceExhausted, "after ResourceExhausted: "},
		"the store": {func(t *testing.T) map[string]invocation {
			return server(newLimiter(t, ratelimit.WithStore(slow{})), policies(t, waiting(policyv1.Side_SIDE_SERVER, shared)))
		}, codes.DeadlineExceeded, ""},
	} {
		for _, kind := range []string{"unary", "stream"} {
			for _, code := range []codes.Code{codes.Canceled, codes.DeadlineExceeded} {
				t.Run(name+", "+kind+", "+code.String(), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						call := test.callers(t)[kind]
						before, stop := context.WithTimeout(t.Context(), time.Nanosecond)
						if test.first != codes.DeadlineExceeded {
							before = t.Context()
						}
						defer stop()
						want(t, "first", status.Code(call(before)), test.first)
						inner, cancel := context.WithTimeout(t.Context(), time.Second)
						defer cancel()
						if code == codes.Canceled {
							time.AfterFunc(time.Millisecond, cancel)
						}
						err := call(undated{inner})
						want(t, "code of "+err.Error(), status.Code(err), code)
						want(t, "the failure before, in "+err.Error(), strings.Contains(err.Error(), test.last), true)
					})
				})
			}
		}
	}
}

// Advice is dropped when its instance goes: what comes back is another one.
func TestAdviceGoesWithItsInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t).UnaryClientInterceptor(policies(t))
		only := &attempt.Instance{ID: "only", Address: "192.0.2.1:80", Refusals: &attempt.Refusals{}}
		call := func(err error) (made bool) {
			ctx, _ := attempt.FromOrNew(context.Background(), attempt.Unary)
			_ = l(ctx, browse, nil, nil, nil, func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
				record := attempt.FromContext(ctx)
				if avoid := record.Avoid(); avoid != nil {
					if left := avoid.For(only); left > 0 {
						return avoid.Err(left)
					}
				}
				record.SetPicked(only)
				made = true
				return err
			})
			return made
		}
		refusal := later(codes.ResourceExhausted, time.Hour)
		want(t, "first", call(refusal), true)
		want(t, "held back", call(nil), false)
		want(t, "counted", only.Refusals.Count(), 1)
		only.Refusals.Reset()
		want(t, "another one", call(refusal), true)
		time.Sleep(30*time.Second - time.Nanosecond)
		want(t, "before the cap", call(nil), false)
		time.Sleep(time.Nanosecond)
		want(t, "one finds out", call(refusal), true)
		want(t, "that it still refuses", call(nil), false)
		time.Sleep(30 * time.Second)
		want(t, "one finds out", call(nil), true)
		want(t, "that it is well", call(nil), true)
	})
}
