package balancer_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	grpcbalancer "google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/balancer/roundrobin"
	"github.com/meshlite-go/meshlite/internal/balancertest"
)

// open starts a stream that does not end at the i-th endpoint, and answers how to end it.
func open(t *testing.T, c *balancertest.Channel, i int) (*attempt.Record, func(grpcbalancer.DoneInfo)) {
	t.Helper()
	for range 1000 {
		ctx, record := attempt.FromOrNew(context.Background(), attempt.Stream)
		result, err := c.Picker().Pick(grpcbalancer.PickInfo{FullMethodName: streamMethod, Ctx: ctx})
		if err != nil {
			t.Fatal(err)
		}
		if balancertest.IndexOf(result) == i {
			return record, result.Done
		}
		time.Sleep(time.Millisecond)
		result.Done(success)
	}
	t.Fatalf("no stream goes to endpoint %d", i)
	return nil, nil
}

// trickle counts where calls go, twenty a second, each a millisecond long.
func trickle(t *testing.T, c *balancertest.Channel, calls int) map[int]int {
	t.Helper()
	counts := map[int]int{}
	for range calls {
		for i, n := range shares(t, c, 1) {
			counts[i] += n
		}
		time.Sleep(49 * time.Millisecond)
	}
	return counts
}

// P5: A stream that is open for long makes no endpoint look stalled, and a call that
// hangs does so for a second.
//
// Case P5
func TestWhatTakesLongStarvesNobody(t *testing.T) {
	inTime(t, "{}", 3, func(t *testing.T, c *balancertest.Channel) {
		shares(t, c, 300)
		for i := range 3 {
			record, _ := open(t, c, i)
			time.Sleep(time.Millisecond)
			record.Respond()
		}
		if counts := trickle(t, c, 300); min(counts[0], counts[1], counts[2]) < 60 {
			t.Errorf("calls go to %v while each has an open stream", counts)
		}
		for i := range 3 {
			on(t, c, i) // hangs
		}
		trickle(t, c, 100)
		if counts := trickle(t, c, 300); min(counts[0], counts[1], counts[2]) < 60 {
			t.Errorf("calls go to %v while at each one hangs", counts)
		}
	})
}

// Of a streaming service the first response proves that an ejected endpoint is well.
//
// Case P9
func TestTheFirstResponseProvesAProbe(t *testing.T) {
	inTime(t, "{}", 3, func(t *testing.T, c *balancertest.Channel) {
		fail(t, c, 1, 5, codes.Unavailable)
		time.Sleep(11 * time.Second)
		record, done := open(t, c, 1)
		record.Respond()
		settle()
		if s := stats(t, c, 1); s.State != balancer.SlowStarted {
			t.Errorf("after the first response of a probe: %+v", s)
		}
		time.Sleep(time.Hour)
		done(ended(codes.Unavailable)) // one failure, as any other
		settle()
		if s := stats(t, c, 1); s.State != balancer.InRotation || s.InFlight != 0 {
			t.Errorf("after the end of the stream: %+v", s)
		}
	})
}

// A call that did not reach the endpoint is not its failure: credentials that fail end
// like this.
//
// Case P9
func TestWhatWasNotSentIsNoFailure(t *testing.T) {
	inTime(t, "{}", 4, func(t *testing.T, c *balancertest.Channel) {
		for range 200 {
			pick(t, c).Done(grpcbalancer.DoneInfo{Err: status.Error(codes.Unavailable, "no token")})
			time.Sleep(10 * time.Millisecond)
		}
		if got := c.Table.Stats(); len(got.Ejections) > 0 || stats(t, c, 0).Failing > 0 {
			t.Errorf("calls that were not sent are counted: %+v", got)
		}
	})
}

// The result of a probe that was abandoned is ignored.
//
// Case P9
func TestAProbeThatWasGivenUpDecidesNothing(t *testing.T) {
	inTime(t, "{}", 3, func(t *testing.T, c *balancertest.Channel) {
		fail(t, c, 1, 5, codes.Unavailable)
		time.Sleep(11 * time.Second)
		first := on(t, c, 1)
		time.Sleep(10*time.Second + time.Millisecond)
		on(t, c, 1)(ended(codes.Unavailable))
		settle()
		first(success)
		settle()
		if s := stats(t, c, 1); s.State != balancer.Ejected || s.Probe < 19 {
			t.Errorf("after a late success: %+v", s)
		}
	})
}

// Healthy times are forgiven, whatever becomes of the connection meanwhile.
//
// Case P9
func TestAHealthyTimeIsForgiven(t *testing.T) {
	inTime(t, "{}", 3, func(t *testing.T, c *balancertest.Channel) {
		fail(t, c, 1, 5, codes.Unavailable)
		time.Sleep(11 * time.Second)
		on(t, c, 1)(success)
		time.Sleep(10 * time.Minute)
		c.Break(1)
		c.Reconnect(1)
		time.Sleep(time.Second)
		fail(t, c, 1, 5, codes.Unavailable)
		settle()
		if s := stats(t, c, 1); s.State != balancer.Ejected || s.Probe > 11 {
			t.Errorf("ten minutes after an ejection: %+v", s)
		}
	})
}

// pair are two channels of one policy that share a table.
func pair(t *testing.T, first, second string) (a, b *balancertest.Channel) {
	t.Helper()
	a, b = balancertest.New(t, roundrobin.Name), balancertest.New(t, roundrobin.Name)
	b.Table = a.Table
	a.Ready(first, 1, 1, 1)
	b.Ready(second, 1, 1, 1)
	return a, b
}

// An endpoint that one of two channels has lost is not new, nor forgiven.
//
// Case P9
func TestOneOfTwoChannelsReconnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, "{}", "{}")
		b.Break(1)
		b.Reconnect(1)
		if counts := shares(t, a, 300); counts[1] != 100 {
			t.Errorf("after another channel has reconnected calls go to %v", counts)
		}
		fail(t, a, 1, 5, codes.Unavailable)
		b.Break(1)
		b.Reconnect(1)
		settle()
		if s := stats(t, a, 1); s.State != balancer.Ejected {
			t.Errorf("after another channel has reconnected: %+v", s)
		}
		a.Break(1)
		b.Break(1)
		b.Reconnect(1)
		a.Reconnect(1)
		settle()
		if s := stats(t, a, 1); s.State != balancer.SlowStarted {
			t.Errorf("after both had lost it: %+v", s)
		}
		a.Policy.Close()
		b.Policy.Close()
	})
}

// A channel without slow start leaves that of others alone, and a panic of one is reported
// though the other has none.
//
// Case P9
func TestChannelsWithOtherSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, `{"ejection": {"panicPercent": 90}}`, `{"slowStart": {"window": "0s"}}`)
		b.Ready(`{"slowStart": {"window": "0s"}}`, 1, 1, 1, 1)
		a.Ready(`{"ejection": {"panicPercent": 90}}`, 1, 1, 1, 1)
		if counts := shares(t, a, 400); counts[3] > 40 {
			t.Errorf("a new endpoint has %d of 400 calls of the channel with slow start", counts[3])
		}
		if counts := shares(t, b, 400); counts[3] != 100 {
			t.Errorf("a new endpoint has %d of 400 calls of the channel without", counts[3])
		}
		time.Sleep(time.Minute)
		fail(t, a, 0, 5, codes.Unavailable)
		settle()
		b.Ready(`{"slowStart": {"window": "0s"}}`, 1, 1, 1, 1)
		if got := a.Table.Stats(); !got.Panic {
			t.Errorf("three of four can be used, one channel wants 90 %%, and it is no panic: %+v", got)
		}
		b.Break(2)
		settle()
		if s := stats(t, a, 2); s.State != balancer.InRotation {
			t.Errorf("an endpoint that one channel has lost: %+v", s)
		}
		a.Policy.Close()
		b.Policy.Close()
	})
}

// A unary call within a stream, with its context, is measured for itself.
//
// Case P5
func TestTheContractGoesBeforeTheRecord(t *testing.T) {
	single(t, func(t *testing.T, c *balancertest.Channel) {
		ctx, _ := attempt.FromOrNew(context.Background(), attempt.Stream)
		result, err := c.Picker().Pick(grpcbalancer.PickInfo{FullMethodName: unaryMethod, Ctx: ctx})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
		result.Done(success)
		if got := stats(t, c, 0).Latency; got < 0.9 || got > 1.1 {
			t.Errorf("latency is %v ms, want 1", got)
		}
	})
}

// In a panic, and where ejection was turned off, failures count as they do otherwise.
//
// Case P2
func TestWhatFailsInAPanicDrawsNoTraffic(t *testing.T) {
	for name, change := range map[string]func(c *balancertest.Channel){
		"panic":      func(c *balancertest.Channel) { c.Break(2); c.Break(3) },
		"turned off": func(c *balancertest.Channel) { c.Ready(`{"ejection": {"disabled": true}}`, 1, 1, 1, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, `{"ejection": {"panicPercent": 60}}`, 4, func(t *testing.T, c *balancertest.Channel) {
				fail(t, c, 1, 5, codes.Unavailable)
				change(c)
				settle()
				there := send(t, c, 2000, 1, 2000, codes.Unavailable)
				if there > 800 { // of two, or of four
					t.Errorf("%d of 2000 calls went to the endpoint that fails", there)
				}
			})
		})
	}
}

// A probe that is asked for less has found the endpoint well.
//
// Case P9
func TestAnOverloadedProbeEndsTheEjection(t *testing.T) {
	inTime(t, "{}", 3, func(t *testing.T, c *balancertest.Channel) {
		fail(t, c, 1, 5, codes.Unavailable)
		time.Sleep(11 * time.Second)
		on(t, c, 1)(ended(codes.ResourceExhausted))
		settle()
		if s := stats(t, c, 1); s.State != balancer.SlowStarted {
			t.Errorf("after a probe that was refused for load: %+v", s)
		}
	})
}

// P9: Not more than the allowed share is out, also when others leave.
//
// Case P9
func TestTheAllowedShareHoldsWhenOthersLeave(t *testing.T) {
	inTime(t, "{}", 6, func(t *testing.T, c *balancertest.Channel) {
		for i := range 3 {
			fail(t, c, i, 5, codes.Unavailable)
		}
		settle()
		c.Ready("{}", balancertest.Equal(5)...)
		settle()
		out := 0
		for _, e := range c.Table.Stats().Endpoints {
			if e.State == balancer.Ejected {
				out++
			}
		}
		if out != 2 {
			t.Errorf("%d of 5 are ejected, want 2: %+v", out, c.Table.Stats())
		}
	})
}
