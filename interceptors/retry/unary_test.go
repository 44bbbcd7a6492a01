package retry_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/retry"
)

// A call without a rule is tried elsewhere where no handler ran, three times in all, and
// looks like one attempt to its caller.
func TestACallIsTriedElsewhereWhereNoHandlerRan(t *testing.T) {
	const unhandled = attempt.Over | attempt.Sent | attempt.Received | attempt.Answer | attempt.Unhandled
	for name, test := range map[string]struct {
		instances int           // among which a picker picks
		picks     []int         // of each attempt
		ends      []attempt.End // of each attempt, without Unhandled an error of the handler
		attempts  int           // that are wanted
		ok        bool          // the last one succeeds
		last      retry.Verdict // that the observer receives
	}{
		"the second has it":      {instances: 3, picks: []int{0, 1}, ends: []attempt.End{unhandled}, attempts: 2, ok: true, last: retry.Answered},
		"the third has it":       {instances: 3, picks: []int{0, 1, 2}, ends: []attempt.End{unhandled, unhandled}, attempts: 3, ok: true, last: retry.Answered},
		"three attempts are all": {instances: 9, picks: []int{0, 1, 2, 3}, ends: []attempt.End{unhandled, unhandled, unhandled}, attempts: 3, last: retry.Exhausted},
		"a handler ran":          {instances: 3, picks: []int{0, 1}, ends: []attempt.End{unhandled &^ attempt.Unhandled}, attempts: 1},
		"there is no other":      {instances: 1, picks: []int{0, 0}, ends: []attempt.End{unhandled}, attempts: 1},
		"the same is picked":     {instances: 3, picks: []int{0, 0, 1}, ends: []attempt.End{unhandled, unhandled}, attempts: 2, last: retry.Final},
	} {
		var verdicts []retry.Verdict
		r, err := retry.New(retry.WithObserver(interceptors.ObserverFunc(func(_ context.Context, _ *interceptors.CallMeta, e interceptors.Event) {
			verdicts = append(verdicts, e.(*retry.Attempt).Verdict)
		})))
		if err != nil {
			t.Fatal(err)
		}
		n, finished := 0, []error(nil)
		invoker := func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
			record := attempt.FromContext(ctx)
			record.SetCandidates(test.instances)
			record.SetPicked(&attempt.Instance{Address: fmt.Sprint(test.picks[n])})
			md, _ := metadata.FromOutgoingContext(ctx)
			if got, want := fmt.Sprint(md.Get("grpc-previous-rpc-attempts")), []string{"[]", "[1]", "[2]"}[n]; got != want {
				t.Errorf("%s: attempt %d says that %s went before, want %s", name, n+1, got, want)
			}
			for _, opt := range opts {
				switch o := opt.(type) {
				case grpc.HeaderCallOption:
					if len(*o.HeaderAddr) > 0 {
						t.Errorf("%s: attempt %d begins with the header %v", name, n+1, *o.HeaderAddr)
					}
					*o.HeaderAddr = metadata.Pairs("from", fmt.Sprint(n))
				case grpc.OnFinishCallOption:
					t.Errorf("%s: an attempt has an OnFinish of its own", name)
				}
			}
			if n++; n > len(test.ends) {
				record.SetEnd(attempt.Over | attempt.Sent | attempt.Received)
				return nil
			}
			record.SetEnd(test.ends[n-1])
			return status.Error(codes.Unimplemented, "unknown service")
		}
		var header metadata.MD
		m := meta(nil)
		err = r.UnaryClient(m)(t.Context(), m.FullMethod, nil, nil, nil, invoker, grpc.Header(&header),
			grpc.OnFinish(func(err error) { finished = append(finished, err) }))
		if n != test.attempts || (err == nil) != test.ok {
			t.Errorf("%s: %v after %d attempts, want %d", name, err, n, test.attempts)
		}
		if len(finished) != 1 || !errors.Is(finished[0], err) || header.Get("from")[0] != fmt.Sprint(n-1) {
			t.Errorf("%s: OnFinish with %v, header %v: want one, of the last attempt", name, finished, header)
		}
		if test.attempts > 1 && (len(verdicts) != test.attempts || verdicts[0] != retry.Again || verdicts[len(verdicts)-1] != test.last) {
			t.Errorf("%s: the observer receives %v, want %d, at last %v", name, verdicts, test.attempts, test.last)
		}
	}
}
