package balancer_test

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/roundrobin"
	"github.com/meshlite-go/meshlite/internal/balancertest"
	"github.com/meshlite-go/meshlite/internal/racetest"
)

// P4: A new or returning backend stays within its slow-start share in its first window
// and gets at least one call.
//
// Case P4: A new or returning endpoint stays within its slow-start share and gets a call.
func TestANewEndpointStartsSlowly(t *testing.T) {
	racetest.Skip(t)
	comes := map[string]func(t *testing.T, c *balancertest.Channel){
		"new": func(_ *testing.T, c *balancertest.Channel) { c.Ready("{}", balancertest.Equal(4)...) },
		"back after it was gone": func(_ *testing.T, c *balancertest.Channel) {
			c.Ready("{}", balancertest.Equal(4)...)
			c.Ready("{}", balancertest.Equal(3)...)
			time.Sleep(time.Minute)
			c.Ready("{}", balancertest.Equal(4)...)
		},
		"back after it was away": func(_ *testing.T, c *balancertest.Channel) {
			c.Ready("{}", balancertest.Equal(4)...)
			time.Sleep(time.Minute)
			c.Break(3)
			c.Reconnect(3)
		},
		"back after it was ejected": func(t *testing.T, c *balancertest.Channel) {
			c.Ready("{}", balancertest.Equal(4)...)
			time.Sleep(time.Minute)
			fail(t, c, 3, 5, codes.Unavailable)
			time.Sleep(11 * time.Second)
			on(t, c, 3)(success)
		},
	}
	for name, come := range comes {
		t.Run(name, func(t *testing.T) {
			inTime(t, "{}", 3, func(t *testing.T, c *balancertest.Channel) {
				shares(t, c, 100)
				come(t, c)
				settle()
				calls := 0
				for step := range 10 { // the window is 10 s
					counts := shares(t, c, 1000)
					calls += counts[3]
					// The curve's value at the end of this second, and what chance adds.
					part := float64(step+1) / 10
					most := 1000*part/(3+part)*1.2 + 15
					if got := float64(counts[3]); got > most {
						t.Errorf("second %d: %v calls of 1000, want at most %.0f", step+1, got, most)
					}
					if step == 0 && counts[3] == 0 {
						t.Error("not one call in the first tenth of the window")
					}
				}
				settle()
				if s := stats(t, c, 3); s.State != balancer.InRotation || s.Warm != 1 {
					t.Errorf("after the window: %+v", s)
				}
				if counts := shares(t, c, 4000); counts[3] < 800 {
					t.Errorf("after the window it has %d of 4000 calls", counts[3])
				}
			})
		})
	}
}

// Envoy's curve, from its documentation: weight * max(min, (time/window)^(1/aggression)).
//
// Case P4
func TestSlowStartFollowsTheCurve(t *testing.T) {
	for config, part := range map[string]func(x float64) float64{
		`{"slowStart": {"window": "40s"}}`:                                          func(x float64) float64 { return max(0.1, x) },
		`{"slowStart": {"window": "40s", "aggression": 2}}`:                         func(x float64) float64 { return max(0.1, math.Sqrt(x)) },
		`{"slowStart": {"window": "40s", "aggression": 0.5}}`:                       func(x float64) float64 { return max(0.1, x*x) },
		`{"slowStart": {"window": "40s", "aggression": 1, "minWeightPercent": 50}}`: func(x float64) float64 { return max(0.5, x) },
		`{"slowStart": {"window": "0s"}}`:                                           func(float64) float64 { return 1 },
	} {
		synctest.Test(t, func(t *testing.T) {
			c := balancertest.New(t, roundrobin.Name)
			c.Ready(config, 1)
			c.Ready(config, 1, 1)
			for step := range 20 {
				settle()
				want := part(float64(step) / 20)
				if got := stats(t, c, 1).Part; math.Abs(got-want/(1+want)) > 0.005 {
					t.Errorf("%s: at %d/20 its part is %.3f, want %.3f", config, step, got, want/(1+want))
				}
				time.Sleep(2 * time.Second)
			}
			c.Policy.Close()
		})
	}
}

// The servers are not new because the client is.
//
// Case P4
func TestTheFirstEndpointsDoNotStartSlowly(t *testing.T) {
	inTime(t, "{}", 3, func(t *testing.T, c *balancertest.Channel) {
		for _, s := range c.Table.Stats().Endpoints {
			if s.State != balancer.InRotation {
				t.Errorf("%+v", s)
			}
		}
	})
}

// P3: Adding, removing or flapping one backend leaves the figures of all others
// unchanged; so does an idle cycle shorter than the expiry.
//
// Case P3: Figures outlive changes of others, reconnects and idleness.
func TestFiguresOutliveUpdatesAndIdleness(t *testing.T) {
	inTime(t, "{}", 3, func(t *testing.T, c *balancertest.Channel) {
		stuck := pick(t, c)
		at := balancertest.IndexOf(stuck)
		send(t, c, 200, (at+1)%3, 3, codes.ResourceExhausted)
		figures := func() [2]balancer.EndpointStats {
			s := [2]balancer.EndpointStats{stats(t, c, 0), stats(t, c, 1)}
			for i := range s {
				// Of what a channel makes of it now, not what is known of it.
				s[i].Part, s[i].State, s[i].Share, s[i].Failing = 0, "", 0, math.Round(s[i].Failing*10)/10
			}
			return s
		}
		before := figures()
		for name, change := range map[string]func(){
			"one more":    func() { c.Ready("{}", 1, 1, 1, 1) },
			"one less":    func() { c.Ready("{}", 1, 1) },
			"flaps":       func() { c.Ready("{}", 1, 1, 1); c.Break(2); c.Reconnect(2) },
			"reconnected": func() { c.Reconnect(0) },
			"idle": func() {
				c.Policy.Close()
				time.Sleep(time.Second)
				c.Reopen()
				c.Ready("{}", 1, 1, 1)
			},
		} {
			change()
			settle()
			if after := figures(); after != before {
				t.Errorf("%s: figures are\n%+v, were\n%+v", name, after, before)
			}
		}
		stuck.Done(success)
		time.Sleep(2 * time.Hour)
		c.Ready("{}", 1, 1)
		time.Sleep(2 * time.Hour)
		c.Ready("{}", 1, 1, 1)
		if s := stats(t, c, 2); s.Picks != 0 || s.Latency != 0 {
			t.Errorf("an endpoint that was gone for two hours is remembered: %+v", s)
		}
	})
}
