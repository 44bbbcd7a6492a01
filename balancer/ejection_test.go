package balancer_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	grpcbalancer "google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/leastrequest"
	"github.com/meshlite-go/meshlite/balancer/roundrobin"
	"github.com/meshlite-go/meshlite/internal/balancertest"
	"github.com/meshlite-go/meshlite/internal/wire"
)

// inTime runs test in virtual time with each policy, over n endpoints if there are any.
func inTime(t *testing.T, config string, n int, test func(t *testing.T, c *balancertest.Channel)) {
	for _, policy := range policies {
		t.Run(policy, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := balancertest.New(t, policy)
				if n > 0 {
					c.Ready(config, balancertest.Equal(n)...)
				}
				test(t, c)
				c.Policy.Close()
			})
		})
	}
}

// Case P9
func TestFailuresInARowEject(t *testing.T) {
	inTime(t, `{"ejection": {"successRateMargin": 0}}`, 3, func(t *testing.T, c *balancertest.Channel) {
		for range 3 { // a success in between begins the row anew
			fail(t, c, 1, 4, codes.Unavailable)
			on(t, c, 1)(success)
		}
		if s := stats(t, c, 1); s.State != balancer.InRotation {
			t.Fatalf("ejected before five failures in a row: %+v", s)
		}
		fail(t, c, 1, 5, codes.Internal)
		settle()
		if s := stats(t, c, 1); s.State != balancer.Ejected || s.Reason != balancer.ConsecutiveFailures || s.Probe < 9 || s.Probe > 11 {
			t.Errorf("after five failures in a row: %+v", s)
		}
		if counts := shares(t, c, 300); counts[1] != 0 {
			t.Errorf("an ejected endpoint had %d calls", counts[1])
		}
		if n := c.Table.Stats().Ejections[balancer.ConsecutiveFailures]; n != 1 {
			t.Errorf("%d ejections are counted, want 1", n)
		}
	})
}

// An ejected endpoint has one call when its time is over. If that fails it is out for
// twice as long, if not it is back.
//
// Case P9
func TestOneRealCallProbesAnEjectedEndpoint(t *testing.T) {
	inTime(t, `{"slowStart": {"window": "0s"}}`, 3, func(t *testing.T, c *balancertest.Channel) {
		fail(t, c, 1, 5, codes.Unavailable)
		for _, out := range []time.Duration{10, 20, 40} {
			time.Sleep(out*time.Second - 3*time.Second) // 2 s have gone since the probe
			if counts := shares(t, c, 100); counts[1] != 0 {
				t.Fatalf("%d calls went to an endpoint that is out for %d s", counts[1], out)
			}
			time.Sleep(out*time.Second/10 + 3*time.Second) // and the jitter
			if out < 40 {
				if n := send(t, c, 200, 1, 100, codes.Unavailable); n != 1 {
					t.Fatalf("%d calls went there as a probe, want 1", n)
				}
			}
			settle()
		}
		probe := on(t, c, 1)
		if counts := shares(t, c, 100); counts[1] != 0 {
			t.Errorf("%d calls went there while the probe was under way", counts[1])
		}
		probe(success)
		settle()
		if s := stats(t, c, 1); s.State != balancer.InRotation || s.Failing != 0 {
			t.Errorf("after a probe that succeeds: %+v", s)
		}
		time.Sleep(balancer.LatencyDecay) // the probe has taken its time
		shares(t, c, 100)
		if counts := shares(t, c, 3000); counts[1] < 800 {
			t.Errorf("the endpoint has %d of 3000 calls after it is back", counts[1])
		}
		if got := c.Table.Stats().Ejections; got[balancer.ConsecutiveFailures] != 1 || got[balancer.Probe] != 2 {
			t.Errorf("ejections are counted %v", got)
		}
	})
}

// A probe whose caller cancels is ignored: the next call is one again. One that never
// ends is abandoned.
//
// Case P6
func TestAProbeThatTellsNothingIsRepeated(t *testing.T) {
	inTime(t, "{}", 3, func(t *testing.T, c *balancertest.Channel) {
		fail(t, c, 1, 5, codes.Unavailable)
		time.Sleep(11 * time.Second)
		on(t, c, 1)(ended(codes.Canceled))
		settle()
		stuck := on(t, c, 1)
		time.Sleep(10*time.Second + time.Millisecond)
		on(t, c, 1)(success)
		settle()
		if s := stats(t, c, 1); s.State != balancer.SlowStarted {
			t.Errorf("after a probe that succeeds: %+v", s)
		}
		stuck(ended(codes.Unavailable)) // late, and ignored
		settle()
		if s := stats(t, c, 1); s.State != balancer.SlowStarted || s.InFlight != 0 {
			t.Errorf("after the end of a probe that was given up: %+v", s)
		}
	})
}

// What is the caller's mistake, or its change of mind, is no failure. Of a server that
// asks for less, load moves away without ejection.
//
// Case P6
// Case X5
func TestFailuresAreThoseOfTheServer(t *testing.T) {
	for code := codes.OK; code <= codes.Unauthenticated; code++ {
		t.Run(code.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := balancertest.New(t, leastrequest.Name)
				c.Ready(`{"ejection": {"successRateMargin": 0}}`, 1, 1, 1)
				fail(t, c, 1, 5, code)
				settle()
				var state balancer.State = balancer.InRotation
				failing := false
				switch code {
				case codes.Unavailable, codes.Internal, codes.Unknown, codes.DataLoss, codes.DeadlineExceeded:
					state = balancer.Ejected
					failing = true
				case codes.ResourceExhausted:
					failing = true
				}
				if s := stats(t, c, 1); s.State != state || s.Failing > 0 != failing {
					t.Errorf("%+v, want %s and failing %v", s, state, failing)
				}
				c.Policy.Close()
			})
		})
	}
}

// RESOURCE_EXHAUSTED moves load away without ejecting.
func TestAnOverloadedEndpointGetsLess(t *testing.T) {
	inTime(t, "{}", 2, func(t *testing.T, c *balancertest.Channel) {
		const rounds = 5 // peak EWMA draws unevenly among equals
		during, after := 0, 0
		for range rounds {
			fail(t, c, 1, 12, codes.ResourceExhausted)
			time.Sleep(1100 * time.Millisecond) // weights follow every second
			during += shares(t, c, 1000)[1]
			time.Sleep(30 * time.Second)
			after += shares(t, c, 1000)[1]
		}
		if during > 450*rounds {
			t.Errorf("an overloaded endpoint gets %d of %d calls", during, 1000*rounds)
		}
		if after < 400*rounds {
			t.Errorf("half a minute later it gets %d of %d calls", after, 1000*rounds)
		}
		if got := c.Table.Stats().Ejections; len(got) != 0 {
			t.Errorf("it was ejected: %v", got)
		}
	})
}

// A server that refuses calls because it is full works: to eject it would bring the next
// one down. UNAVAILABLE for other reasons ejects.
//
// Case full instance
func TestAFullEndpointIsNotEjected(t *testing.T) {
	for domain, want := range map[string]uint64{wire.ErrorDomain: 0, "example.com": 1} {
		inTime(t, "{}", 3, func(t *testing.T, c *balancertest.Channel) {
			full, err := status.New(codes.Unavailable, "full").WithDetails(&errdetails.ErrorInfo{Domain: domain, Reason: wire.ReasonOverloaded})
			if err != nil {
				t.Fatal(err)
			}
			for range 5 {
				on(t, c, 1)(grpcbalancer.DoneInfo{Err: full.Err(), BytesSent: true, BytesReceived: true})
			}
			settle()
			if got := c.Table.Stats().Ejections[balancer.ConsecutiveFailures]; got != want {
				t.Errorf("domain %s: %d ejections, want %d", domain, got, want)
			}
		})
	}
}

// Case P9
func TestALowSuccessRateEjects(t *testing.T) {
	inTime(t, `{"ejection": {"consecutiveFailures": 0}}`, 4, func(t *testing.T, c *balancertest.Channel) {
		for range 2 {
			fail(t, c, 2, 1, codes.Unavailable)
			time.Sleep(30 * time.Second) // a failure now and then ejects nobody
		}
		bad := 0
		for range 10_000 {
			result := pick(t, c)
			time.Sleep(time.Millisecond)
			info := success
			if balancertest.IndexOf(result) == 2 {
				if bad++; bad%2 == 0 {
					info = ended(codes.Unavailable)
				}
			}
			result.Done(info)
			if s := stats(t, c, 2); s.State == balancer.Ejected {
				if s.Reason != balancer.SuccessRate || bad < 20 {
					t.Errorf("the reason is %s after %d calls", s.Reason, bad)
				}
				return
			}
		}
		t.Errorf("an endpoint that fails half of its calls is not ejected: %+v", stats(t, c, 2))
	})
}

// Failures that all have in common eject nobody, and few calls prove nothing.
//
// Case P9
func TestARateThatAllShareEjectsNobody(t *testing.T) {
	for name, test := range map[string]struct {
		callsPerSecond int
		fails          func(endpoint, call int) bool
	}{
		"all fail alike": {200, func(_, call int) bool { return call%2 == 0 }},
		"too few calls":  {4, func(endpoint, _ int) bool { return endpoint == 1 }},
		"hardly worse":   {200, func(endpoint, call int) bool { return endpoint == 1 && call%10 == 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, `{"ejection": {"consecutiveFailures": 0}}`, 3, func(t *testing.T, c *balancertest.Channel) {
				calls := map[int]int{}
				for range 30 * test.callsPerSecond {
					result := pick(t, c)
					i := balancertest.IndexOf(result)
					calls[i]++
					time.Sleep(time.Second / time.Duration(test.callsPerSecond))
					if test.fails(i, calls[i]) {
						result.Done(ended(codes.Unavailable))
					} else {
						result.Done(success)
					}
				}
				if got := c.Table.Stats().Ejections; len(got) != 0 {
					t.Errorf("ejected: %v", got)
				}
			})
		})
	}
}

// The counts are exact: however many calls there were before the window, only those
// within it are compared.
//
// Case P9
func TestOnlyTheWindowCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := balancertest.New(t, roundrobin.Name)
		c.Ready(`{"ejection": {"consecutiveFailures": 0, "successRateMargin": 0.9}}`, 1, 1)
		shares(t, c, 10_000) // all good, and long ago
		time.Sleep(time.Minute)
		for range 11 {
			for range 400 {
				result := pick(t, c)
				if balancertest.IndexOf(result) == 1 {
					result.Done(ended(codes.Unavailable))
				} else {
					result.Done(success)
				}
			}
			time.Sleep(time.Second)
		}
		if s := stats(t, c, 1); s.State != balancer.Ejected {
			t.Errorf("an endpoint that has failed every call in ten seconds: %+v", s)
		}
		c.Policy.Close()
	})
}

// P9: Ejection never removes more than the allowed share; under the panic threshold
// all backends are used, and that is reported.
//
// F5: All backends look bad: at least 50 % stay in rotation.
//
// Case P9: Ejection leaves the allowed share; in a panic all are used, and that is reported.
// Case F5: When all look bad half of them stay in rotation.
func TestEjectionLeavesTheAllowedShare(t *testing.T) {
	for _, n := range []int{1, 2, 3, 10} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			inTime(t, "{}", n, func(t *testing.T, c *balancertest.Channel) {
				for range 300 { // half a minute of nothing but failures
					for range 10 {
						pick(t, c).Done(ended(codes.Unavailable))
					}
					time.Sleep(100 * time.Millisecond)
					out := 0
					for _, e := range c.Table.Stats().Endpoints {
						if e.State == balancer.Ejected {
							out++
						}
					}
					if out > n/2 {
						t.Fatalf("%d of %d are ejected", out, n)
					}
				}
				if got := c.Table.Stats(); got.Panic || n > 1 && got.Ejections[balancer.ConsecutiveFailures] == 0 {
					t.Errorf("nobody was ejected, or it is a panic: %+v", got)
				}
			})
		})
	}
}

// Case P9
func TestPanicUsesTheEjectedToo(t *testing.T) {
	inTime(t, `{"ejection": {"panicPercent": 60, "baseEjectionTime": "5m"}}`, 4, func(t *testing.T, c *balancertest.Channel) {
		fail(t, c, 0, 5, codes.Unavailable)
		settle()
		if got := c.Table.Stats(); got.Panic || stats(t, c, 0).State != balancer.Ejected {
			t.Fatalf("three of four can be used: %+v", got)
		}
		c.Break(3) // now two of four can
		settle()
		if got := c.Table.Stats(); !got.Panic {
			t.Errorf("two of four can be used, and it is no panic: %+v", got)
		}
		time.Sleep(30 * time.Second) // by then its failures weigh nothing
		if counts := shares(t, c, 3000); counts[0] < 500 {
			t.Errorf("in a panic the ejected endpoint gets %v", counts)
		}
		c.Connect(3, connectivity.Idle)
		c.Connect(3, connectivity.Ready)
		settle()
		if got := c.Table.Stats(); got.Panic {
			t.Errorf("three of four can be used again: %+v", got)
		}
	})
}

// A process that was started anew is not punished for the one before.
func TestANewConnectionAfterABreakEndsTheEjection(t *testing.T) {
	inTime(t, "{}", 3, func(t *testing.T, c *balancertest.Channel) {
		fail(t, c, 1, 5, codes.Unavailable)
		c.Break(1)
		c.Connect(1, connectivity.Idle)
		c.Connect(1, connectivity.Ready)
		settle()
		if s := stats(t, c, 1); s.State != balancer.SlowStarted {
			t.Errorf("after a new connection: %+v", s)
		}
	})
}

func TestEjectionCanBeTurnedOff(t *testing.T) {
	inTime(t, `{"ejection": {"disabled": true}}`, 3, func(t *testing.T, c *balancertest.Channel) {
		if n := send(t, c, 3000, 1, 3000, codes.Unavailable); n < 10 {
			t.Errorf("%d calls went there in half a minute", n)
		}
		if got := c.Table.Stats(); len(got.Ejections) != 0 || stats(t, c, 1).State == balancer.Ejected {
			t.Errorf("ejected although that is off: %+v", got)
		}
	})
}

// Channels to one target share what they find out; who has turned ejection off does
// not care.
//
// Case P9
func TestChannelsShareEjections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := balancer.NewTable()
		open := func(policy, config string) *balancertest.Channel {
			c := balancertest.New(t, policy)
			c.Table = table
			c.Ready(config, 1, 1, 1)
			return c
		}
		one, other, careless := open(leastrequest.Name, "{}"), open(roundrobin.Name, "{}"), open(roundrobin.Name, `{"ejection": {"disabled": true}}`)
		fail(t, one, 1, 5, codes.Unavailable)
		settle()
		if counts := shares(t, other, 300); counts[1] != 0 {
			t.Errorf("another channel sends %d calls there", counts[1])
		}
		if counts := shares(t, careless, 300); counts[1] < 50 {
			t.Errorf("a channel without ejection sends %d calls there", counts[1])
		}
		for _, c := range []*balancertest.Channel{one, other, careless} {
			c.Policy.Close()
		}
	})
}

// F4: One backend answering errors at once: <= 12 bad calls in the first minute, <= 1
// a minute after. A hundred calls a second, one at a time.
//
// Case F4: One that answers errors at once fails twelve calls in a minute, then one a minute.
func TestABackendThatAnswersErrorsIsFoundOut(t *testing.T) {
	inTime(t, "{}", 3, func(t *testing.T, c *balancertest.Channel) {
		for minute := range 8 {
			bad := 0
			for range 6000 {
				result := pick(t, c)
				info := success
				if balancertest.IndexOf(result) == 1 {
					info = ended(codes.Internal)
					bad++
				}
				result.Done(info)
				time.Sleep(10 * time.Millisecond)
			}
			if limit := map[bool]int{true: 12, false: 1}[minute == 0]; bad > limit {
				t.Errorf("%d bad calls in minute %d, want at most %d", bad, minute+1, limit)
			}
		}
	})
}

func TestAnEndpointWithoutAConnectionIsToldSo(t *testing.T) {
	inTime(t, "{}", 2, func(t *testing.T, c *balancertest.Channel) {
		c.Break(0)
		if s := stats(t, c, 0); s.State != balancer.Unconnected {
			t.Errorf("of one of two: %+v", s)
		}
		c.Break(1)
		if s := stats(t, c, 1); s.State != balancer.Unconnected {
			t.Errorf("of the last one: %+v", s)
		}
	})
}
