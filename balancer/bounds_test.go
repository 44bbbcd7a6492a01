package balancer_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/balancer"
	"github.com/meshlite-go/meshlite/balancer/leastrequest"
	"github.com/meshlite-go/meshlite/internal/balancertest"
)

// Both ends of each range are accepted, and what is just beyond them is refused.
func TestTheEndsOfEachRangeAreAccepted(t *testing.T) {
	for _, setting := range []struct{ config, below, least, most, above string }{
		{`{"slowStart": {"window": %s}}`, `"-1ns"`, `"0s"`, `"24h"`, `"24h0m0.000000001s"`},
		{`{"slowStart": {"aggression": %s}}`, `0.09`, `0.1`, `10`, `10.01`},
		{`{"slowStart": {"minWeightPercent": %s}}`, `0.99`, `1`, `100`, `100.01`},
		{`{"ejection": {"consecutiveFailures": %s}}`, `-1`, `0`, `1000000`, `1000001`},
		{`{"ejection": {"successRateMargin": %s}}`, `-0.01`, `0`, `1`, `1.01`},
		{`{"ejection": {"requestVolume": %s}}`, `0`, `1`, `1000000`, `1000001`},
		{`{"ejection": {"interval": %s}}`, `"999ms"`, `"1s"`, `"24h"`, `"24h0m0.000000001s"`},
		{`{"ejection": {"maxEjectionTime": "24h", "baseEjectionTime": %s}}`, `"999us"`, `"1ms"`, `"24h"`, `"24h0m0.000000001s"`},
		{`{"ejection": {"baseEjectionTime": "10s", "maxEjectionTime": %s}}`, `"9999ms"`, `"10s"`, `"24h"`, `"24h0m0.000000001s"`},
		{`{"ejection": {"maxEjectionPercent": %s}}`, `-1`, `0`, `100`, `100.01`},
		{`{"ejection": {"panicPercent": %s}}`, `-1`, `0`, `100`, `100.01`},
		{`{"zone": {"callers": %s}}`, `-0.01`, `0`, `1`, `1.01`},
	} {
		c := balancertest.New(t, leastrequest.Name)
		for value, accepted := range map[string]bool{setting.below: false, setting.least: true, setting.most: true, setting.above: false} {
			config := fmt.Sprintf(setting.config, value)
			switch err := c.Update(config, 1, 1); {
			case accepted && err != nil:
				t.Errorf("%s: %v, want it accepted", config, err)
			case !accepted && (err == nil || !strings.Contains(err.Error(), "is not in")):
				t.Errorf("%s: error is %v, want the range", config, err)
			}
		}
	}
}

// The defaults are those that the comments of the fields give.
func TestDefaultSettings(t *testing.T) {
	want := balancer.Settings{
		SlowStart: balancer.SlowStart{Window: balancer.Duration(10 * time.Second), Aggression: 1, MinWeightPercent: 10},
		Ejection: balancer.Ejection{
			ConsecutiveFailures: 5, SuccessRateMargin: 0.2, RequestVolume: 20,
			Interval: balancer.Duration(10 * time.Second), BaseEjectionTime: balancer.Duration(10 * time.Second),
			MaxEjectionTime: balancer.Duration(5 * time.Minute), MaxEjectionPercent: 50, PanicPercent: 30,
		},
	}
	if got := balancer.DefaultSettings(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
