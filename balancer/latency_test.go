package balancer_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	grpcbalancer "google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/balancer/peakewma"
	"github.com/meshlite-go/meshlite/internal/balancertest"
)

// single runs test in virtual time over one endpoint, with a policy that measures all.
func single(t *testing.T, test func(t *testing.T, c *balancertest.Channel)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := balancertest.New(t, peakewma.Name)
		c.Ready("{}", 1)
		test(t, c)
		c.Policy.Close()
	})
}

// P5: A stream open for an hour does not raise its backend's latency (time to the first
// response counts; without the attempt record only unary calls are samples).
//
// Case P5: The first response of a stream counts, and no stream without a record.
func TestTheFirstResponseOfAStreamCounts(t *testing.T) {
	single(t, func(t *testing.T, c *balancertest.Channel) {
		ctx, record := attempt.FromOrNew(context.Background(), attempt.Stream)
		result, err := c.Picker().Pick(grpcbalancer.PickInfo{Ctx: ctx, FullMethodName: "/not/known"})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Millisecond)
		record.Respond()
		if got := stats(t, c, 0).Latency; got < 29 || got > 31 {
			t.Errorf("latency is %v ms after the first response, want 30", got)
		}
		time.Sleep(time.Hour)
		record.Respond() // any message may report it
		result.Done(success)
		if got := stats(t, c, 0).Latency; got > 31 {
			t.Errorf("latency is %v ms after a stream of an hour", got)
		}
	})
}

// Case P5
func TestWhatIsNotKnownToBeUnaryIsNoSample(t *testing.T) {
	for method, want := range map[string]bool{unaryMethod: true, streamMethod: false, "/not/known": false, "": false} {
		single(t, func(t *testing.T, c *balancertest.Channel) {
			result, err := c.Picker().Pick(grpcbalancer.PickInfo{FullMethodName: method, Ctx: context.Background()})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			result.Done(success)
			if got := stats(t, c, 0).Latency; got > 0 != want {
				t.Errorf("%s: latency is %v ms", method, got)
			}
		})
	}
}

// P6: Calls cancelled by the client and losers of a hedge are neither failures nor
// samples.
//
// An error that comes at once says nothing of how long an answer takes; a deadline that
// ends says that it takes longer.
//
// Case P6: Cancelled calls are neither failures nor samples.
func TestSamplesAreAnswers(t *testing.T) {
	for code := codes.OK; code <= codes.Unauthenticated; code++ {
		single(t, func(t *testing.T, c *balancertest.Channel) {
			result := pick(t, c)
			time.Sleep(50 * time.Millisecond)
			result.Done(ended(code))
			want := code == codes.OK || code == codes.DeadlineExceeded
			if got := stats(t, c, 0).Latency; got > 0 != want {
				t.Errorf("%v: latency is %v ms", code, got)
			}
			if code == codes.Canceled && stats(t, c, 0).Failing != 0 {
				t.Error("a cancelled call is a failure")
			}
		})
	}
}

// The average follows a rise at once, and a fall by a sixteenth with each lower sample and over
// the decay time.
func TestLatencyRisesAtOnceAndFallsSlowly(t *testing.T) {
	single(t, func(t *testing.T, c *balancertest.Channel) {
		call := func(takes time.Duration) float64 {
			result := pick(t, c)
			time.Sleep(takes)
			result.Done(success)
			return stats(t, c, 0).Latency
		}
		for range 100 {
			call(10 * time.Millisecond)
		}
		if got := call(500 * time.Millisecond); got < 499 || got > 501 {
			t.Errorf("after one slow call it is %v ms, want 500", got)
		}
		var got float64
		for range 16 {
			got = call(10 * time.Millisecond)
		}
		if want := 10 + 490/2.8; got < want-10 || got > want+10 {
			t.Errorf("16 lower samples later it is %.0f ms, want %.0f", got, want)
		}
		for range 64 {
			got = call(10 * time.Millisecond)
		}
		if got > 15 {
			t.Errorf("80 lower samples later it is %.0f ms, want 10 nearly", got)
		}
		call(500 * time.Millisecond)
		time.Sleep(5 * time.Second)
		if got, want := call(10*time.Millisecond), 10+490/2*15/16.0; got < want-10 || got > want+10 {
			t.Errorf("one lower sample five seconds later it is %.0f ms, want %.0f", got, want)
		}
		call(500 * time.Millisecond)
		time.Sleep(10 * time.Second)
		if got := call(10 * time.Millisecond); got > 11 {
			t.Errorf("after ten seconds without a call it is %.0f ms", got)
		}
	})
}
