package balancer_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	grpcbalancer "google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/balancer/leastrequest"
	"github.com/meshlite-go/meshlite/balancer/peakewma"
	"github.com/meshlite-go/meshlite/internal/balancertest"
	"github.com/meshlite-go/meshlite/internal/racetest"
	"github.com/meshlite-go/meshlite/internal/simulation"
)

// refusing answers a part of the calls with code.
func refusing(part float64, code codes.Code) func(time.Duration, *rand.Rand) codes.Code {
	return func(_ time.Duration, r *rand.Rand) codes.Code {
		if r.Float64() < part {
			return code
		}
		return codes.OK
	}
}

// P2b: The same whatever the code and form of the failure: compared with what others
// answer to the same methods. (P2: A backend that fails in 1 ms never gets more traffic
// than a healthy one that answers in 20 ms.)
//
// Case P2b: The same for every code and form, compared by method with what others answer.
func TestWhoRefusesFastDrawsNoTraffic(t *testing.T) {
	racetest.Skip(t)
	for _, policy := range policies {
		for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
			for _, part := range parts(code) {
				t.Run(fmt.Sprintf("%s/%v/%v", policy, code, part), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						bad := simulation.Backend{Latency: steady(time.Millisecond), Code: refusing(part, code)}
						good := simulation.Backend{Latency: steady(20 * time.Millisecond)}
						s := simulation.Scene{
							Policy: policy, Config: `{"ejection": {"disabled": true}}`, Seed: 1,
							Backends: []simulation.Backend{bad, good, good},
						}
						counts := simulation.Counts(s.Closed(t, 32, 4000), 3)
						if counts[0] > min(counts[1], counts[2])+1 {
							t.Errorf("calls went to %v, the first of which refuses", counts)
						}
					})
				})
			}
		}
	}
}

// parts of the calls that are refused with code: of all codes all, of one also half.
func parts(code codes.Code) []float64 {
	if code == codes.NotFound {
		return []float64{1, 0.5}
	}
	return []float64{1}
}

// Several that refuse draw no more than those that answer, even if they are the most.
//
// Case P2b
func TestTheMostRefuse(t *testing.T) {
	for _, policy := range policies {
		t.Run(policy, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bad := simulation.Backend{Latency: steady(time.Millisecond), Code: refusing(1, codes.Unimplemented)}
				good := simulation.Backend{Latency: steady(20 * time.Millisecond)}
				s := simulation.Scene{Policy: policy, Seed: 1, Backends: []simulation.Backend{bad, bad, bad, good}}
				counts := simulation.Counts(s.Open(t, 500, 20*time.Second), 4)
				if worst := max(counts[0], counts[1], counts[2]); worst > counts[3] {
					t.Errorf("calls went to %v, the first three of which refuse", counts)
				}
			})
		})
	}
}

// X5: A flood of INVALID_ARGUMENT or NOT_FOUND changes nothing: what all answer alike
// ejects nobody and moves no load, and who is faster gets as much as before.
//
// Case X5: A flood that all instances refuse moves no load and ejects nobody.
func TestWhatAllRefuseChangesNothing(t *testing.T) {
	racetest.Skip(t)
	for _, policy := range []string{leastrequest.Name, peakewma.Name} {
		for _, code := range []codes.Code{codes.NotFound, codes.InvalidArgument} {
			t.Run(fmt.Sprintf("%s/%v", policy, code), func(t *testing.T) {
				faster := func(part float64) float64 {
					var share float64
					synctest.Test(t, func(t *testing.T) {
						s := simulation.Scene{Policy: policy, Seed: 1, Backends: []simulation.Backend{
							{Latency: steady(10 * time.Millisecond), Code: refusing(part, code)},
							{Latency: steady(20 * time.Millisecond), Code: refusing(part, code)},
							{Latency: steady(20 * time.Millisecond), Code: refusing(part, code)},
						}}
						var tables []*balancer.Table
						s.During = func(_ time.Duration, channels []*balancertest.Channel) {
							tables = []*balancer.Table{channels[0].Table}
						}
						calls := s.Open(t, 500, 20*time.Second)
						share = float64(simulation.Counts(calls, 3)[0]) / float64(len(calls))
						if got := tables[0].Stats().Ejections; len(got) != 0 {
							t.Errorf("ejections: %v", got)
						}
					})
					return share
				}
				quiet := faster(0)
				for _, part := range []float64{0.1, 0.7} {
					if share := faster(part); share < quiet-0.03 || share > quiet+0.03 {
						t.Errorf("where %v of all calls are refused, the faster one gets %.3f of them, without %.3f", part, share, quiet)
					}
				}
			})
		}
	}
}

// An endpoint that answers what others refuse gets more and suffers nothing.
//
// Case P2b
func TestWhoIsBetterDoesNotSuffer(t *testing.T) {
	for _, policy := range []string{leastrequest.Name, peakewma.Name} {
		t.Run(policy, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := simulation.Scene{Policy: policy, Seed: 1, Backends: []simulation.Backend{
					{Latency: steady(5 * time.Millisecond)},
					{Latency: steady(20 * time.Millisecond), Code: refusing(0.2, codes.NotFound)},
					{Latency: steady(20 * time.Millisecond), Code: refusing(0.2, codes.NotFound)},
				}}
				counts := simulation.Counts(s.Open(t, 1000, 20*time.Second), 3)
				if counts[0] < 2*max(counts[1], counts[2]) {
					t.Errorf("calls went to %v, the first of which is four times as fast and refuses nothing", counts)
				}
			})
		})
	}
}

// pickFor is a pick for method with a record of kind.
func pickFor(t *testing.T, c *balancertest.Channel, method string, kind attempt.Kind) (int, *attempt.Record, func(grpcbalancer.DoneInfo)) {
	t.Helper()
	ctx, record := attempt.FromOrNew(context.Background(), kind)
	result, err := c.Picker().Pick(grpcbalancer.PickInfo{FullMethodName: method, Ctx: ctx})
	if err != nil {
		t.Fatal(err)
	}
	return balancertest.IndexOf(result), record, result.Done
}

// Compared is by method: that an endpoint gets only calls that all refuse is no fault of it.
//
// Case P2b
func TestAnswersAreComparedByMethod(t *testing.T) {
	const other = "/grpc.testing.TestService/EmptyCall"
	inTime(t, "{}", 3, func(t *testing.T, c *balancertest.Channel) {
		for n := range 3000 {
			method, info := unaryMethod, ended(codes.NotFound)
			if n%2 == 0 {
				method, info = other, success
			}
			at, _, done := pickFor(t, c, method, attempt.Unary)
			time.Sleep(time.Millisecond)
			if at == 0 && method == other {
				info = grpcbalancer.DoneInfo{} // as if it had not been sent
			}
			done(info)
		}
		if s := stats(t, c, 0); s.Refusing != 0 || s.Picks < 500 {
			t.Errorf("%+v, want that it refuses nothing and is called", s)
		}
	})
}

// Streams: who ends them at once, by a trailers-only error of any code, gets its share at
// most, whether the others answer or are silent.
//
// Case P2b
func TestWhoRefusesStreamsDrawsNone(t *testing.T) {
	for _, code := range []codes.Code{codes.Unimplemented, codes.PermissionDenied, codes.Canceled, codes.NotFound} {
		for name, responds := range map[string]bool{"others answer": true, "others are silent": false} {
			t.Run(fmt.Sprintf("%v/%s", code, name), func(t *testing.T) {
				inTime(t, "{}", 3, func(t *testing.T, c *balancertest.Channel) {
					counts := map[int]int{}
					for range 900 {
						at, record, done := pickFor(t, c, streamMethod, attempt.Stream)
						counts[at]++
						time.Sleep(10 * time.Millisecond)
						switch {
						case at == 1:
							done(grpcbalancer.DoneInfo{
								Err: status.Error(code, "no"), BytesSent: true, BytesReceived: true,
								Trailer: metadata.Pairs("content-type", "application/grpc"),
							})
						case responds:
							record.Respond()
						}
					}
					// Six standard deviations of a binomial with p = 1/3, and those to find out.
					if counts[1] > 300+85+20 {
						t.Errorf("streams went to %v, the second refuses", counts)
					}
				})
			})
		}
	}
}

// A stream that the caller ends after an answer is no refusal.
//
// Case P2b
func TestAStreamThatTheCallerEndsIsNoRefusal(t *testing.T) {
	inTime(t, "{}", 3, func(t *testing.T, c *balancertest.Channel) {
		for n := range 900 {
			at, record, done := pickFor(t, c, streamMethod, attempt.Stream)
			record.Respond()
			time.Sleep(time.Millisecond)
			switch {
			case at == 1:
				done(grpcbalancer.DoneInfo{Err: status.Error(codes.Canceled, "enough"), BytesSent: true, BytesReceived: true})
			case n == 0:
				done(ended(codes.NotFound)) // answers are compared from now on
			default:
				done(success)
			}
		}
		if s := stats(t, c, 1); s.Refusing != 0 {
			t.Errorf("%+v, want that it refuses nothing", s)
		}
	})
}

// Who answers again gets its share again.
//
// Case P2b
func TestWhoRefusesNoLongerIsCalledAgain(t *testing.T) {
	inTime(t, "{}", 3, func(t *testing.T, c *balancertest.Channel) {
		send(t, c, 2000, 1, 2000, codes.Unimplemented)
		if s := stats(t, c, 1); s.Refusing < 0.9 || s.State != balancer.InRotation || s.Part > 0.05 {
			t.Errorf("%+v, want that it refuses, in rotation with nearly no weight", s)
		}
		if got := shares(t, c, 1000)[1]; got > 60 {
			t.Errorf("%d of 1000 calls went to who refuses", got)
		}
		for range 6000 {
			shares(t, c, 1)
			time.Sleep(9 * time.Millisecond)
		}
		if s := stats(t, c, 1); s.Refusing != 0 {
			t.Errorf("%+v a minute later, want that it refuses nothing", s)
		}
		if got := shares(t, c, 3000)[1]; got < 800 {
			t.Errorf("%d of 3000 calls go to who answers again", got)
		}
	})
}

// P12 while answers are compared.
//
// Case P2b
func TestComparingAllocatesNothing(t *testing.T) {
	onEveryPolicy(t, func(t *testing.T, c *balancertest.Channel, _ int) {
		missing := ended(codes.NotFound)
		one := func() {
			result, _ := c.Picker().Pick(call)
			result.Done(missing)
		}
		for range 100 {
			one()
		}
		if n := testing.AllocsPerRun(1000, one); n != 0 {
			t.Errorf("%v allocations per pick and done, want 0", n)
		}
	})
}
