package retry_test

import (
	"context"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors/retry"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

func TestARouteAddsToTheRule(t *testing.T) {
	const answered = attempt.Over | attempt.Sent | attempt.Received | attempt.Answer
	twice := func(n uint32) *policyv1.RetryRule {
		return &policyv1.RetryRule{MaxAttempts: proto.Uint32(n), InitialBackoff: proto.String("1ns"), AllowSideEffects: proto.Bool(true)}
	}
	for name, test := range map[string]struct {
		rule  *policyv1.RetryRule
		route *attempt.Retry
		code  codes.Code
		end   attempt.End
		want  int // attempts
	}{
		"without a route":                 {twice(2), nil, codes.Unavailable, answered, 2},
		"more attempts":                   {twice(2), &attempt.Retry{Attempts: 4}, codes.Unavailable, answered, 4},
		"fewer attempts":                  {twice(3), &attempt.Retry{Attempts: 2}, codes.Unavailable, answered, 2},
		"the policy's attempts":           {twice(3), &attempt.Retry{}, codes.Unavailable, answered, 3},
		"a further code":                  {twice(2), &attempt.Retry{Codes: []codes.Code{codes.Internal}}, codes.Internal, answered, 2},
		"the policy's codes stay":         {twice(2), &attempt.Retry{Codes: []codes.Code{codes.Internal}}, codes.Unavailable, answered, 2},
		"another code":                    {twice(2), &attempt.Retry{Attempts: 4}, codes.Internal, answered, 1},
		"no rule":                         {&policyv1.RetryRule{AllowSideEffects: proto.Bool(true)}, &attempt.Retry{Attempts: 2}, codes.Unavailable, answered, 2},
		"one attempt by the policy":       {twice(1), &attempt.Retry{Attempts: 4}, codes.Unavailable, answered, 1},
		"a method that may not run twice": {nil, &attempt.Retry{Attempts: 4}, codes.Unavailable, answered, 1},
		"no connection":                   {&policyv1.RetryRule{MaxAttempts: proto.Uint32(2), Codes: []string{"INTERNAL"}, InitialBackoff: proto.String("1ns"), AllowSideEffects: proto.Bool(true)}, &attempt.Retry{OnConnectFailure: true}, codes.Unavailable, attempt.Over, 2},
		"no connection, not asked for":    {&policyv1.RetryRule{MaxAttempts: proto.Uint32(2), Codes: []string{"INTERNAL"}, InitialBackoff: proto.String("1ns"), AllowSideEffects: proto.Bool(true)}, &attempt.Retry{}, codes.Unavailable, attempt.Over, 1},
	} {
		r, err := retry.New()
		if err != nil {
			t.Fatal(err)
		}
		m := meta(test.rule)
		n := 0
		invoker := func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
			n++
			record := attempt.FromContext(ctx)
			if record.Number() != n || record.Route() == nil {
				t.Errorf("%s: attempt %d has number %d and route %v", name, n, record.Number(), record.Route())
			}
			record.SetCandidates(1)
			record.SetPicked(&attempt.Instance{Address: "a"})
			record.SetEnd(test.end)
			return status.Error(test.code, "no")
		}
		ctx, record := attempt.FromOrNew(t.Context(), attempt.Unary)
		record.SetRoute(&attempt.Route{Name: "default", Retry: test.route})
		intercept := r.UnaryClient(m)
		if intercept == nil { // one attempt
			intercept = func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				return invoker(ctx, method, req, reply, cc, opts...)
			}
		}
		if err := intercept(ctx, m.FullMethod, nil, nil, nil, invoker); status.Code(err) != test.code || n != test.want {
			t.Errorf("%s: %v after %d attempts, want %d", name, err, n, test.want)
		}
	}
}

// The calls of all routes of a method share one budget.
func TestRoutesShareTheBudget(t *testing.T) {
	r, err := retry.New()
	if err != nil {
		t.Fatal(err)
	}
	m := meta(&policyv1.RetryRule{MaxAttempts: proto.Uint32(2), InitialBackoff: proto.String("1ns"), AllowSideEffects: proto.Bool(true)})
	intercept, attempts := r.UnaryClient(m), 0
	for i := range 200 {
		ctx, record := attempt.FromOrNew(t.Context(), attempt.Unary)
		record.SetRoute(&attempt.Route{Retry: []*attempt.Retry{nil, {Attempts: 2}, {Attempts: 3}}[i%3]})
		_ = intercept(ctx, m.FullMethod, nil, nil, nil, func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
			attempts++
			return status.Error(codes.Unavailable, "no")
		})
	}
	if retries := attempts - 200; retries < 40 || retries > 10+40 { // what it begins with, and 0.2 of the calls
		t.Errorf("%d retries of 200 calls, want 40 to 50", retries)
	}
}
