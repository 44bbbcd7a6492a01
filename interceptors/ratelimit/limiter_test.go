package ratelimit_test

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
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

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
)

// The limit in the contract of the storefront is kept: 50 a second for each customer.
func TestLimitOfTheContractIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rules, err := interceptors.NewPolicies(nil)
		if err != nil {
			t.Fatal(err)
		}
		conn := dial(t, []grpc.ServerOption{grpc.UnaryInterceptor(newLimiter(t).UnaryServerInterceptor(rules))}, nil)
		browse := func(customer string) int {
			count := 0
			for range 200 {
				ctx := metadata.AppendToOutgoingContext(context.Background(), "customer-id", customer)
				if _, err := storefrontv1.NewStorefrontServiceClient(conn).Browse(ctx, &storefrontv1.BrowseRequest{}); err == nil {
					count++
				}
			}
			return count
		}
		want(t, "at once", browse("willy"), 50)
		want(t, "another customer", browse("charlie"), 50)
		time.Sleep(100 * time.Millisecond)
		want(t, "100 ms later", browse("willy"), 5)
		time.Sleep(time.Hour)
		want(t, "an hour later", browse("willy"), 50)
	})
}

// L5: A refusal carries RESOURCE_EXHAUSTED, RetryInfo, QuotaFailure and exactly
// one grpc-retry-pushback-ms, also with two limiters stacked (grpc-go takes two as "never retry").
// L6: RetryInfo is never below the true wait, and is jittered upward.
func TestRefusalNamesLimitAndWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rules := policies(t, limit("secretive", 2, byMetadata("token")))
		conn := dial(t, []grpc.ServerOption{grpc.ChainUnaryInterceptor(
			newLimiter(t).UnaryServerInterceptor(rules), newLimiter(t).UnaryServerInterceptor(rules))}, nil)
		call := func() (trailer metadata.MD, err error) {
			ctx := metadata.AppendToOutgoingContext(context.Background(), "token", "hunter2")
			_, err = storefrontv1.NewStorefrontServiceClient(conn).Browse(ctx, &storefrontv1.BrowseRequest{}, grpc.Trailer(&trailer))
			return trailer, err
		}
		for range 2 {
			if _, err := call(); err != nil {
				t.Fatal(err)
			}
		}
		trailer, err := call()
		s := status.Convert(err)
		want(t, "code", s.Code(), codes.ResourceExhausted)
		if strings.Contains(s.String(), "hunter2") || !strings.HasPrefix(s.Message(), `rate limit "secretive" reached (2 per 1m0s by metadata token): try again in 3`) {
			t.Errorf("message: %s", s.Message())
		}
		retry, quota := details(t, s)
		wait := retry.GetRetryDelay().AsDuration()
		if wait < 30*time.Second || wait > 33*time.Second+time.Millisecond {
			t.Errorf("reported: to wait %v, want 30s and up to a tenth more", wait)
		}
		violation := quota.GetViolations()[0]
		want(t, "violation", violation.GetSubject()+": "+violation.GetDescription(), "limit:secretive: 2 per 1m0s by metadata token")
		pushback := trailer.Get("grpc-retry-pushback-ms")
		want(t, "pushbacks", len(pushback), 1)
		want(t, "pushback", pushback[0], strconv.FormatInt(wait.Milliseconds(), 10))
		time.Sleep(wait)
		if _, err := call(); err != nil {
			t.Errorf("after the retry delay: %v", err)
		}
	})
}

// L5, where the inner one of two limiters refuses what the outer one has admitted.
func TestARefusalOfTheInnerLimiterHasOnePushback(t *testing.T) {
	outer, inner := newLimiter(t), newLimiter(t)
	conn := dial(t, []grpc.ServerOption{grpc.ChainUnaryInterceptor(
		outer.UnaryServerInterceptor(policies(t, limit("outer", 60, nil))), inner.UnaryServerInterceptor(policies(t, limit("inner", 2, nil))))}, nil)
	for i := range 4 {
		var trailer metadata.MD
		_, err := storefrontv1.NewStorefrontServiceClient(conn).Browse(context.Background(), &storefrontv1.BrowseRequest{}, grpc.Trailer(&trailer))
		if i < 2 {
			want(t, "admitted", err, nil)
			continue
		}
		s := status.Convert(err)
		want(t, "code", s.Code(), codes.ResourceExhausted)
		retry, quota := details(t, s)
		want(t, "violated", quota.GetViolations()[0].GetSubject(), "limit:inner")
		pushback := trailer.Get("grpc-retry-pushback-ms")
		want(t, "pushbacks", len(pushback), 1)
		want(t, "pushback", pushback[0], strconv.FormatInt(retry.GetRetryDelay().AsDuration().Milliseconds(), 10))
		for name, values := range trailer {
			if strings.HasPrefix(name, "ratelimit") && len(values) > 2 {
				t.Errorf("%s is sent %d times", name, len(values))
			}
		}
	}
	want(t, "refused by the outer", outer.Stats().Refused, 0)
	want(t, "refused by the inner", inner.Stats().Refused, 2)
}

// L6, where the true wait is no whole millisecond: RetryInfo is rounded up.
func TestTheWaitOfARefusalIsRoundedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, perMinute := range []uint64{7 * 60, 999 * 60, 3000 * 60, 1e6 * 60} {
			rule := limit("short", perMinute, nil)
			rule.Burst = proto.Uint64(1)
			l, p := newLimiter(t), policies(t, rule)
			for range 200 {
				wait := time.Minute / time.Duration(perMinute)
				want(t, "first", handle(l, p, context.Background(), nil), nil)
				retry, _ := details(t, status.Convert(handle(l, p, context.Background(), nil)))
				delay := retry.GetRetryDelay().AsDuration()
				if delay < wait || delay > wait+wait/10+time.Millisecond || delay%time.Millisecond != 0 {
					t.Fatalf("RetryInfo says %v, want %v and up to a tenth more, in whole milliseconds", delay, wait)
				}
				time.Sleep(delay)
			}
		}
	})
}

func details(t *testing.T, s *status.Status) (*errdetails.RetryInfo, *errdetails.QuotaFailure) {
	t.Helper()
	var retry *errdetails.RetryInfo
	var quota *errdetails.QuotaFailure
	for _, detail := range s.Details() {
		switch d := detail.(type) {
		case *errdetails.RetryInfo:
			retry = d
		case *errdetails.QuotaFailure:
			quota = d
		}
	}
	if quota == nil {
		t.Fatalf("details %v lack a QuotaFailure", s.Details())
	}
	return retry, quota
}

// A call that costs more than the burst would be refused for ever: no policy may
// say so.
func TestCallThatCanNeverBeAdmittedIsNoPolicy(t *testing.T) {
	rule := limit("small", 10, nil)
	rule.Cost = proto.Uint64(11)
	_, err := interceptors.NewPolicies(&policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{"Browse": {RateLimits: []*policyv1.RateLimitRule{rule}}}})
	if err == nil || !strings.Contains(err.Error(), "cost: 11 is more than the burst of 10") {
		t.Errorf("error is %v, want one that names the cost and the burst", err)
	}
}

// Several limits: all must admit a call, and one that is refused by one costs
// nothing on the others. The refusal names the one with the longest wait.
func TestRefusedCallCostsNothingOnOtherLimits(t *testing.T) {
	l := newLimiter(t)
	slow := limit("slow", 3, byMetadata("id"))
	slow.Period = proto.String("1 hour")
	p := policies(t, limit("all", 5, nil), slow)
	want(t, "abuser", admitted(t, l, p, from("id", "abuser"), nil, 100), 3)
	want(t, "the rest of all", admitted(t, l, p, from("id", "other"), nil, 100), 2)
	want(t, "nobody else", admitted(t, l, p, from("id", "third"), nil, 100), 0)
	err := handle(l, p, from("id", "abuser"), nil)
	if message := status.Convert(err).Message(); !strings.HasPrefix(message, `rate limit "slow"`) {
		t.Errorf("refused by both: %s", message)
	}
	want(t, "refused", l.Stats().Refused, 296)
	want(t, "admitted", l.Stats().Admitted, 5)
}

// The counts outlive a change of the policy, and follow it.
func TestCountsOutliveAChangeOfPolicy(t *testing.T) {
	l := newLimiter(t)
	p := policies(t, limit("customer-minute", 10, byMetadata("id")))
	part := l.UnaryServerInterceptor(p)
	call := func() error {
		_, err := part(from("id", "a"), nil, &grpc.UnaryServerInfo{FullMethod: browse}, func(context.Context, any) (any, error) { return nil, nil })
		return err
	}
	for range 10 {
		want(t, "call", call(), nil)
	}
	timeout := policy(limit("customer-minute", 10, byMetadata("id")))
	timeout.Methods["Browse"].Timeout = proto.String("1s")
	for what, change := range map[string]*policyv1.ServicePolicy{
		"something else":  timeout,
		"a higher limit":  policy(limit("customer-minute", 20, byMetadata("id"))),
		"a smaller limit": policy(limit("customer-minute", 5, byMetadata("id"))),
	} {
		if err := p.SetOperator(change); err != nil {
			t.Fatal(err)
		}
		if call() == nil {
			t.Errorf("a change of %s gave a new burst", what)
		}
	}
	if err := p.SetOperator(policy(&policyv1.RateLimitRule{Name: "customer-minute", Disabled: proto.Bool(true)})); err != nil {
		t.Fatal(err)
	}
	want(t, "call without a limit", call(), nil)
}

// L11, in part: Health and reflection are exempt by default; streams are charged at open.
func TestStreamsAreChargedWhenTheyOpen(t *testing.T) {
	watch := func(conn *grpc.ClientConn) error {
		stream, err := healthv1.NewHealthClient(conn).Watch(context.Background(), &healthv1.HealthCheckRequest{})
		if err != nil {
			return err
		}
		for err == nil {
			_, err = stream.Recv()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		want(t, "pushbacks", len(stream.Trailer().Get("grpc-retry-pushback-ms")) <= 1, true)
		return err
	}
	rule := limit("streams", 2, nil)
	onClient := proto.Clone(rule).(*policyv1.RateLimitRule)
	onClient.Side = policyv1.Side_SIDE_CLIENT
	defaults := &policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{RateLimits: []*policyv1.RateLimitRule{rule}}}
	method := func(rules ...*policyv1.RateLimitRule) *policyv1.ServicePolicy {
		return &policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{"grpc.health.v1.Health/Watch": {RateLimits: rules}}}
	}
	for _, test := range []struct {
		name   string
		policy *policyv1.ServicePolicy
		want   int
	}{
		{"health by default", defaults, 10},
		{"health by name, on the server", method(rule), 2},
		{"health by name, on the client", method(onClient), 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := interceptors.NewPolicies(test.policy)
			if err != nil {
				t.Fatal(err)
			}
			l := newLimiter(t)
			conn := dial(t, []grpc.ServerOption{grpc.StreamInterceptor(l.StreamServerInterceptor(p))},
				[]grpc.DialOption{grpc.WithStreamInterceptor(l.StreamClientInterceptor(p))})
			count := 0
			for range 10 {
				switch err := watch(conn); status.Code(err) {
				case codes.OK:
					count++
				case codes.ResourceExhausted:
				default:
					t.Fatal(err)
				}
			}
			want(t, "streams admitted", count, test.want)
		})
	}
}

// A client keeps to its own quota without asking the server.
func TestClientKeepsToItsQuota(t *testing.T) {
	rule := limit("quota", 3, byMetadata("tenant"))
	rule.Side = policyv1.Side_SIDE_CLIENT
	l, p := newLimiter(t), policies(t, rule)
	if newLimiter(t).UnaryServer(p.Call(interceptors.Server, browse)) != nil {
		t.Error("a client's limit is kept on the server")
	}
	conn := dial(t, nil, []grpc.DialOption{grpc.WithUnaryInterceptor(l.UnaryClientInterceptor(p))})
	for _, tenant := range []string{"a", "b"} {
		count := 0
		for range 10 {
			ctx := metadata.AppendToOutgoingContext(context.Background(), "tenant", tenant)
			if _, err := storefrontv1.NewStorefrontServiceClient(conn).Browse(ctx, &storefrontv1.BrowseRequest{}); err == nil {
				count++
			}
		}
		want(t, "calls of tenant "+tenant, count, 3)
	}
}

// The observer receives every limit that admits a call, and the one that refuses it.
func TestObserverReceivesEachVerdict(t *testing.T) {
	var published []string
	l := newLimiter(t, ratelimit.WithObserver(interceptors.ObserverFunc(func(_ context.Context, meta *interceptors.CallMeta, e interceptors.Event) {
		event := e.(*ratelimit.Event)
		published = append(published, meta.Method+" "+event.Limit()+" "+event.Verdict().String())
	})))
	p := policies(t, limit("a", 5, nil), limit("b", 1, nil))
	admitted(t, l, p, context.Background(), nil, 2)
	want(t, "published", strings.Join(published, ", "), "Browse a admitted, Browse b admitted, Browse b refused")
}

// X4, in part: a panic in the identity function charges nobody and leaves the limiter usable.
func TestPanicInIdentityLeavesTheLimiterUsable(t *testing.T) {
	bad := true
	l := newLimiter(t, callers(caller.WithIdentity(func(context.Context) (string, bool) {
		if bad {
			panic("no identity today")
		}
		return "u", true
	})))
	p := policies(t, limit("all", 5, nil), limit("each", 5, byIdentity()))
	for range 100 {
		func() {
			defer func() { want(t, "panic", recover(), any("no identity today")) }()
			_ = handle(l, p, context.Background(), nil)
		}()
	}
	bad = false
	want(t, "admitted after it", admitted(t, l, p, context.Background(), nil, 100), 5)
}

func TestNewRefusesBadOptions(t *testing.T) {
	never := func(context.Context, any) bool { return false }
	for _, test := range []struct {
		opts []ratelimit.Option
		says string
	}{
		{[]ratelimit.Option{ratelimit.WithMaxKeys(1)}, "ratelimit: WithMaxKeys: 1 keys: give 64 to 268435456"},
		{[]ratelimit.Option{ratelimit.WithHoldBack(-time.Second)}, "ratelimit: WithHoldBack: -1s: write a duration from 0 on; 0 turns it off"},
		{[]ratelimit.Option{ratelimit.WithKey("one", nil)}, `ratelimit: WithKey("one"): the function is nil: leave the option out`},
		{[]ratelimit.Option{ratelimit.WithSkip("one", never), ratelimit.WithSkip("two", never), ratelimit.WithSkip("one", never)}, `ratelimit: WithSkip("one") is given twice: leave one out`},
	} {
		_, err := ratelimit.New(test.opts...)
		if err == nil {
			t.Errorf("no error, want %q", test.says)
			continue
		}
		want(t, "error", err.Error(), test.says)
	}
}
