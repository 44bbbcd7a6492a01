package retry_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/retry"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// reply is what one attempt of a fake server gives.
type reply struct {
	err      error
	pushback []string
	takes    time.Duration
}

// backend answers the attempts of a method by its replies, the last one for ever.
type backend struct {
	interceptor grpc.UnaryClientInterceptor
	replies     []reply
	starts      []time.Time
	ends        []time.Time

	mu       sync.Mutex
	observed []retry.Attempt
}

// newBackend serves GetSweet, which may run twice, under a rule.
func newBackend(t *testing.T, rule *policyv1.RetryRule, replies ...reply) *backend {
	t.Helper()
	b := &backend{replies: replies}
	rule.AllowSideEffects = ptr(true)
	r, err := retry.New(retry.WithObserver(interceptors.ObserverFunc(func(_ context.Context, _ *interceptors.CallMeta, e interceptors.Event) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.observed = append(b.observed, *e.(*retry.Attempt))
	})))
	if err != nil {
		t.Fatal(err)
	}
	b.interceptor = r.UnaryClient(meta(rule))
	return b
}

func meta(rule *policyv1.RetryRule) *interceptors.CallMeta {
	return &interceptors.CallMeta{
		Side: interceptors.Client, FullMethod: "/shop.Catalog/GetSweet", Service: "shop.Catalog", Method: "GetSweet",
		Policy: &policyv1.MethodPolicy{Retry: rule},
	}
}

func (b *backend) call(ctx context.Context) error {
	return b.interceptor(ctx, "/shop.Catalog/GetSweet", nil, &catalogv1.GetSweetResponse{}, nil, b.answer)
}

func (b *backend) answer(ctx context.Context, _ string, _, message any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
	one := b.replies[min(len(b.starts), len(b.replies)-1)]
	b.starts = append(b.starts, time.Now())
	if one.takes > 0 {
		select {
		case <-time.After(one.takes):
		case <-ctx.Done():
			one.err = status.FromContextError(ctx.Err()).Err()
		}
	}
	for _, option := range opts {
		if trailer, ok := option.(grpc.TrailerCallOption); ok && one.pushback != nil {
			*trailer.TrailerAddr = metadata.MD{"grpc-retry-pushback-ms": one.pushback}
		}
	}
	b.ends = append(b.ends, time.Now())
	return one.err
}

func (b *backend) verdicts() []retry.Verdict {
	var all []retry.Verdict
	for _, a := range b.observed {
		all = append(all, a.Verdict)
	}
	return all
}

func failed(code codes.Code) reply { return reply{err: status.Error(code, code.String())} }

func withRetryInfo(code codes.Code, wait time.Duration) reply {
	s, err := status.New(code, "later").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(wait)})
	if err != nil {
		panic(err)
	}
	return reply{err: s.Err()}
}

func ptr[T any](value T) *T { return &value }

func attempts(n uint32) *policyv1.RetryRule { return &policyv1.RetryRule{MaxAttempts: &n} }

// Case X1: RESOURCE_EXHAUSTED is retried only if the server says when.
func TestAttemptsUntilTheVerdict(t *testing.T) {
	overloaded := attempts(3)
	overloaded.Codes = []string{"RESOURCE_EXHAUSTED", "ABORTED"}
	timed := attempts(3)
	timed.PerAttemptTimeout = ptr("1s")
	tests := []struct {
		name    string
		rule    *policyv1.RetryRule
		replies []reply
		want    codes.Code
		verdict []retry.Verdict
	}{
		{"answer", attempts(3), []reply{{}}, codes.OK, []retry.Verdict{retry.Answered}},
		{"passing failure", attempts(3), []reply{failed(codes.Unavailable), {}}, codes.OK, []retry.Verdict{retry.Again, retry.Answered}},
		{"lasting failure", attempts(3), []reply{failed(codes.Unavailable)}, codes.Unavailable, []retry.Verdict{retry.Again, retry.Again, retry.Exhausted}},
		{"another failure", attempts(3), []reply{failed(codes.Unavailable), failed(codes.NotFound)}, codes.NotFound, []retry.Verdict{retry.Again, retry.Final}},
		{"code of the rule", overloaded, []reply{failed(codes.Aborted), failed(codes.Unavailable)}, codes.Unavailable, []retry.Verdict{retry.Again, retry.Final}},
		{"error without status", attempts(3), []reply{{err: errors.New("no")}}, codes.Unknown, []retry.Verdict{retry.Final}},
		{"attempt timed out", timed, []reply{{takes: time.Minute}, {}}, codes.OK, []retry.Verdict{retry.Again, retry.Answered}},
		{"server timed out", timed, []reply{failed(codes.DeadlineExceeded)}, codes.DeadlineExceeded, []retry.Verdict{retry.Final}},
		// X1: RESOURCE_EXHAUSTED without RetryInfo or pushback is not retried.
		{"overload", overloaded, []reply{failed(codes.ResourceExhausted)}, codes.ResourceExhausted, []retry.Verdict{retry.Refused}},
		{"overload with RetryInfo", overloaded, []reply{withRetryInfo(codes.ResourceExhausted, time.Second), {}}, codes.OK, []retry.Verdict{retry.Again, retry.Answered}},
		{"overload with pushback", overloaded, []reply{{failed(codes.ResourceExhausted).err, []string{"5"}, 0}, {}}, codes.OK, []retry.Verdict{retry.Again, retry.Answered}},
		{"overload that no rule names", attempts(3), []reply{withRetryInfo(codes.ResourceExhausted, time.Second)}, codes.ResourceExhausted, []retry.Verdict{retry.Final}},
		{"negative pushback", attempts(3), []reply{{failed(codes.Unavailable).err, []string{"-1"}, 0}}, codes.Unavailable, []retry.Verdict{retry.Refused}},
		{"pushback that is no number", attempts(3), []reply{{failed(codes.Unavailable).err, []string{"soon"}, 0}}, codes.Unavailable, []retry.Verdict{retry.Refused}},
		{"two pushbacks", attempts(3), []reply{{failed(codes.Unavailable).err, []string{"5", "5"}, 0}}, codes.Unavailable, []retry.Verdict{retry.Refused}},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			b := newBackend(t, tt.rule, tt.replies...)
			if err := b.call(t.Context()); status.Code(err) != tt.want {
				t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
			}
			if !slices.Equal(b.verdicts(), tt.verdict) {
				t.Errorf("%s: verdicts %v, want %v", tt.name, b.verdicts(), tt.verdict)
			}
		})
	}
}

// X1: with RetryInfo or pushback the time given is obeyed.
//
// Case X1
func TestTimeThatTheServerGivesIsObeyed(t *testing.T) {
	slow := withRetryInfo(codes.Unavailable, 3*time.Second)
	slow.pushback = []string{"5000"}
	for want, first := range map[time.Duration]reply{
		3 * time.Second: withRetryInfo(codes.Unavailable, 3*time.Second),
		2 * time.Second: {failed(codes.Unavailable).err, []string{"2000"}, 0},
		5 * time.Second: slow,
		0:               {failed(codes.Unavailable).err, []string{"0"}, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBackend(t, attempts(2), first, reply{})
			if err := b.call(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := b.starts[1].Sub(b.ends[0]); got != want {
				t.Errorf("waited %v, want %v", got, want)
			}
		})
	}
}

// X3: no attempt starts when the wait exceeds the deadline that is left.
//
// Case X3 (wait): No attempt starts that the deadline would not outlive.
func TestNoAttemptThatTheDeadlineWouldNotOutlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, attempts(3), reply{failed(codes.Unavailable).err, []string{"2000"}, 0})
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := b.call(ctx)
		if status.Code(err) != codes.Unavailable || time.Since(start) != 0 || !slices.Equal(b.verdicts(), []retry.Verdict{retry.Late}) {
			t.Errorf("%v after %v, %v: want the first error at once", err, time.Since(start), b.verdicts())
		}
	})
}

// X15: who gives up gets CANCELED, whose time ends DEADLINE_EXCEEDED, and the failure
// that the call waited to try again after is in the message.
//
// Case X15: Who gives up gets CANCELED, whose time ends DEADLINE_EXCEEDED, wherever the call
// was waiting.
func TestCallThatEndsInTheWaitSaysWhy(t *testing.T) {
	for _, code := range []codes.Code{codes.Canceled, codes.DeadlineExceeded} {
		synctest.Test(t, func(t *testing.T) {
			b := newBackend(t, attempts(3), reply{failed(codes.Unavailable).err, []string{"2000"}, 0})
			ctx, cancel := context.WithCancel(t.Context())
			if code == codes.DeadlineExceeded {
				ctx, cancel = endingLater(t.Context(), time.Second)
			}
			defer cancel()
			if code == codes.Canceled {
				time.AfterFunc(time.Second, cancel)
			}
			err := b.call(ctx)
			if status.Code(err) != code || len(b.starts) != 1 || !strings.Contains(err.Error(), "to try again after Unavailable: Unavailable") {
				t.Errorf("%v after %d attempts, want %v with the error of the first", err, len(b.starts), code)
			}
		})
	}
}

// endingLater is a context whose time is over after d, which nobody can know before.
func endingLater(parent context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	inner, cancel := context.WithTimeout(parent, d)
	return undated{inner}, cancel
}

type undated struct{ context.Context }

func (undated) Deadline() (time.Time, bool) { return time.Time{}, false }

func TestCancelledCallIsNotRetried(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b := newBackend(t, attempts(3), failed(codes.Unavailable))
	if _ = b.call(ctx); len(b.starts) != 1 {
		t.Errorf("%d attempts, want 1", len(b.starts))
	}
}

func TestBackoffGrowsAndIsSpread(t *testing.T) {
	rule := attempts(4)
	rule.InitialBackoff, rule.MaxBackoff, rule.BackoffMultiplier = ptr("100ms"), ptr("500ms"), ptr(2.0)
	longest := []time.Duration{200 * time.Millisecond, 400 * time.Millisecond, 500 * time.Millisecond}
	var sums [3]time.Duration
	const calls = 2000
	for range calls {
		synctest.Test(t, func(t *testing.T) {
			b := newBackend(t, rule, failed(codes.Unavailable))
			_ = b.call(t.Context())
			for i := range longest {
				wait := b.starts[i+1].Sub(b.ends[i])
				if wait < 0 || wait >= longest[i] {
					t.Fatalf("wait %d is %v, want below %v", i+1, wait, longest[i])
				}
				sums[i] += wait
			}
		})
	}
	for i, total := range sums {
		mean := total / calls
		if want := longest[i] / 2; mean < want*9/10 || mean > want*11/10 {
			t.Errorf("wait %d is %v on average, want %v", i+1, mean, want)
		}
	}
}

func TestRecordsHoldWhatWasTried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, attempts(3))
		outer := attempt.New()
		var previous []string
		_ = b.interceptor(attempt.NewContext(t.Context(), outer), "/shop.Catalog/GetSweet", nil, nil, nil,
			func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
				record := attempt.FromContext(ctx)
				if record.Number() > 1 && !record.Tried("192.0.2.1:80") {
					t.Errorf("attempt %d does not know what was tried", record.Number())
				}
				record.SetPicked(&attempt.Instance{ID: "catalog-1", Address: "192.0.2.1:80"})
				outgoing, _ := metadata.FromOutgoingContext(ctx)
				previous = append(previous, outgoing.Get("grpc-previous-rpc-attempts")...)
				return status.Error(codes.Unavailable, "no")
			})
		if outer.Latest().Number() != 3 || b.observed[2].Number != 3 || b.observed[0].Instance.ID != "catalog-1" {
			t.Errorf("the outer record has %d attempts, the observer %v", outer.Latest().Number(), b.observed)
		}
		if !slices.Equal(previous, []string{"1", "2"}) {
			t.Errorf("servers receive %v earlier attempts", previous)
		}
	})
}

func TestMethodsThatAreNotRetriedHaveNoPart(t *testing.T) {
	r, err := retry.New()
	if err != nil {
		t.Fatal(err)
	}
	single := attempts(1)
	single.AllowSideEffects = ptr(true)
	for name, rule := range map[string]*policyv1.RetryRule{
		"one attempt": single,
	} {
		if r.UnaryClient(meta(rule)) != nil {
			t.Errorf("%s: has a part", name)
		}
	}
	if _, err := retry.New(retry.WithObserver(nil)); err == nil || !strings.Contains(err.Error(), "WithObserver(nil)") {
		t.Error(err)
	}
}

// An observer that panics changes nothing: the call is retried, and the budget is right.
func TestAnObserverMayPanic(t *testing.T) {
	rule := attempts(3)
	rule.AllowSideEffects = ptr(true)
	r, err := retry.New(retry.WithObserver(interceptors.ObserverFunc(func(context.Context, *interceptors.CallMeta, interceptors.Event) { panic("no pencil") })))
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{replies: []reply{failed(codes.Unavailable), failed(codes.Unavailable), {}}, interceptor: r.UnaryClient(meta(rule))}
	synctest.Test(t, func(t *testing.T) {
		if err := b.call(t.Context()); err != nil || len(b.starts) != 3 {
			t.Errorf("%v after %d attempts, want none after 3", err, len(b.starts))
		}
	})
}
