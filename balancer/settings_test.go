package balancer_test

import (
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/meshlite-go/meshlite/balancer/leastrequest"
	"github.com/meshlite-go/meshlite/internal/balancertest"
)

// X10: Malformed balancer config: refused with the field named, the old one stays.
//
// Case X10 (chain, balancer)
func TestSettingsAreChecked(t *testing.T) {
	for config, want := range map[string]string{
		`{"slowStart": {"window": "-1s"}}`:                                   "slowStart.window -1s is not in 0s to 24h0m0s",
		`{"slowStart": {"window": 10}}`:                                      `duration 10: write text such as "10s"`,
		`{"slowStart": {"window": "ten"}}`:                                   `duration "ten": write a number and a unit`,
		`{"slowStart": {"aggression": 0}}`:                                   "slowStart.aggression 0 is not in 0.1 to 10",
		`{"slowStart": {"minWeightPercent": 101}}`:                           "slowStart.minWeightPercent 101",
		`{"ejection": {"consecutiveFailures": -1}}`:                          "ejection.consecutiveFailures -1",
		`{"ejection": {"successRateMargin": 1.5}}`:                           "ejection.successRateMargin 1.5 is not in 0 to 1",
		`{"ejection": {"requestVolume": 0}}`:                                 "ejection.requestVolume 0",
		`{"ejection": {"interval": "1ms"}}`:                                  "ejection.interval 1ms is not in 1s to",
		`{"ejection": {"baseEjectionTime": "0s"}}`:                           "ejection.baseEjectionTime 0s",
		`{"ejection": {"baseEjectionTime": "10s", "maxEjectionTime": "5s"}}`: "ejection.maxEjectionTime 5s is not in 10s to",
		`{"ejection": {"maxEjectionPercent": 200}}`:                          "ejection.maxEjectionPercent 200",
		`{"ejection": {"panicPercent": -3}}`:                                 "ejection.panicPercent -3",
		`{"zone": {"callers": 2}}`:                                           "zone.callers 2 is not in 0 to 1",
		`{"zone": "a"}`:                                                      "zone",
	} {
		for _, policy := range policies {
			c := balancertest.New(t, policy)
			c.Ready("{}", 1, 1)
			if err := c.Update(config, 1, 1); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), policy) {
				t.Errorf("config %s: error is %v, want one that names %s and says %q", config, err, policy, want)
			}
			pick(t, c) // the old one stays
		}
	}
}

// The picker is replaced, with another config and other endpoints, while it is used.
//
// Case swap
func TestPickersAreReplacedWhileInUse(t *testing.T) {
	for _, policy := range policies {
		t.Run(policy, func(t *testing.T) {
			c := balancertest.New(t, policy)
			c.Ready("{}", 1, 1, 1)
			stop := make(chan struct{})
			var picks atomic.Int64
			var callers sync.WaitGroup
			for caller := range 4 {
				callers.Go(func() {
					for i := 0; ; i++ {
						select {
						case <-stop:
							return
						default:
						}
						result, err := c.Picker().Pick(call)
						if err != nil {
							t.Error(err)
							return
						}
						if balancertest.IndexOf(result) == 1 && i%3 == caller%3 {
							result.Done(ended(14))
						} else {
							result.Done(success)
						}
						picks.Add(1)
					}
				})
			}
			for i := range 60 {
				for before := picks.Load(); picks.Load() == before; { // each picker is in use when it is replaced
					runtime.Gosched()
				}
				config := []string{"{}", `{"ejection": {"baseEjectionTime": "1ms", "maxEjectionTime": "2ms"}}`, `{"slowStart": {"window": "0s"}}`}[i%3]
				c.Ready(config, []uint32{uint32(i%5 + 1), 1, 2, 3}[:3+i%2]...)
				c.Table.Stats()
			}
			close(stop)
			callers.Wait()
			for _, e := range c.Table.Stats().Endpoints {
				if e.InFlight != 0 {
					t.Errorf("%s has %d in flight, and all is over", e.Address, e.InFlight)
				}
			}
		})
	}
}

// Case X10 (chain, balancer)
func FuzzSettings(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"slowStart": {"window": "40s", "aggression": 2}}`, `{"ejection": {"maxEjectionPercent": 100, "panicPercent": 100}}`,
		`{"zone": {"callers": 1e-300}}`, `null`, `{"ejection": null}`, `{"slowStart": {"window": "1e9h"}}`, `[`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, config string) {
		c := balancertest.New(t, leastrequest.Name)
		c.Zone = "a"
		if err := c.UpdateInstances(config, in("a", "b", "b")...); err != nil {
			return
		}
		c.ReadyInstances(config, in("a", "b", "b", "b")...)
		for i := range 20 {
			result := pick(t, c)
			result.Done(ended(14))
			if i == 10 {
				settle()
			}
		}
		c.Table.Stats()
	})
}
