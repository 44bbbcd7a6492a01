package balancer_test

import (
	"fmt"
	"math"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/internal/balancertest"
	"github.com/meshlite-go/meshlite/internal/racetest"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// in are instances of weight 1, one for each zone.
func in(zones ...string) []*catalog.Instance {
	instances := balancertest.Instances(balancertest.Equal(len(zones))...)
	for i, zone := range zones {
		instances[i].Zone = zone
	}
	return instances
}

// Calls stay in the caller's zone while it has the capacity for its share, and spill
// over in proportion when it has not.
//
// Case zones: Calls stay in their zone while it can carry them.
func TestCallsStayInTheirZoneWhileItCanCarryThem(t *testing.T) {
	racetest.Skip(t)
	for name, test := range map[string]struct {
		zone, config string
		zones        []string
		want         []float64 // part of the calls
	}{
		"as much as the other":          {"a", "{}", []string{"a", "a", "b", "b"}, []float64{.5, .5, 0, 0}},
		"more than the others":          {"a", "{}", []string{"a", "a", "b", "c"}, []float64{.5, .5, 0, 0}},
		"half of what it needs":         {"a", "{}", []string{"a", "b", "b", "b"}, []float64{.5, .5 / 3, .5 / 3, .5 / 3}},
		"spills to who can spare":       {"a", "{}", []string{"a", "b", "b", "b", "c", "c"}, []float64{.5, .5 / 3, .5 / 3, .5 / 3, 0, 0}},
		"spills in proportion":          {"a", `{"zone": {"callers": 0.5}}`, []string{"a", "b", "b", "b", "b", "b", "c", "c", "c", "c"}, []float64{.2, .8 * .25 / .4 / 5, .8 * .25 / .4 / 5, .8 * .25 / .4 / 5, .8 * .25 / .4 / 5, .8 * .25 / .4 / 5, .8 * .15 / .4 / 4, .8 * .15 / .4 / 4, .8 * .15 / .4 / 4, .8 * .15 / .4 / 4}},
		"few callers here":              {"a", `{"zone": {"callers": 0.2}}`, []string{"a", "b", "b", "b"}, []float64{1, 0, 0, 0}},
		"all callers here":              {"a", `{"zone": {"callers": 1}}`, []string{"a", "a", "b"}, []float64{1. / 3, 1. / 3, 1. / 3}},
		"none here":                     {"a", "{}", []string{"b", "b", "c"}, []float64{1. / 3, 1. / 3, 1. / 3}},
		"the caller does not know":      {"", "{}", []string{"a", "b"}, []float64{.5, .5}},
		"the instances have no zone":    {"a", "{}", []string{"", ""}, []float64{.5, .5}},
		"one has no zone":               {"a", "{}", []string{"a", ""}, []float64{1, 0}},
		"off":                           {"a", `{"zone": {"disabled": true}}`, []string{"a", "b"}, []float64{.5, .5}},
		"the same of two with one zone": {"a", "{}", []string{"a", "a"}, []float64{.5, .5}},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, "{}", 0, func(t *testing.T, c *balancertest.Channel) {
				c.Zone = test.zone
				c.ReadyInstances(test.config, in(test.zones...)...)
				const picks = 20_000
				counts := shares(t, c, picks)
				for i, want := range test.want {
					got := float64(counts[i]) / picks
					if math.Abs(got-want) > 0.02 || want == 0 && got > 0 {
						t.Errorf("endpoint %d in zone %q has %.3f of the calls, want %.3f", i, test.zones[i], got, want)
					}
				}
			})
		})
	}
}

// Zones of one name in two regions are two.
//
// Case zones
func TestARegionIsPartOfTheZone(t *testing.T) {
	inTime(t, "{}", 0, func(t *testing.T, c *balancertest.Channel) {
		c.Region, c.Zone = "eu", "a"
		instances := in("a", "a", "a")
		instances[0].Region, instances[1].Region = "eu", "us"
		c.ReadyInstances("{}", instances...)
		if counts := shares(t, c, 1000); counts[0] == 0 || counts[1] != 0 || counts[2] == 0 {
			t.Errorf("calls of eu/a go to %v, of eu, us and no region", counts)
		}
	})
}

// What cannot be used carries nothing: the zone's calls spill over.
//
// Case zones
func TestAZoneThatLosesAnEndpointSpillsOver(t *testing.T) {
	for name, lose := range map[string]func(t *testing.T, c *balancertest.Channel){
		"ejected": func(t *testing.T, c *balancertest.Channel) { fail(t, c, 0, 5, codes.Unavailable); settle() },
		"broken":  func(_ *testing.T, c *balancertest.Channel) { c.Break(0) },
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, `{"slowStart": {"window": "0s"}}`, 0, func(t *testing.T, c *balancertest.Channel) {
				c.Zone = "a"
				c.ReadyInstances("{}", in("a", "a", "b", "b")...)
				shares(t, c, 100)
				lose(t, c)
				counts := shares(t, c, 6000) // of three in rotation one is here: 2/3 of what it needs
				if here := float64(counts[1]) / 6000; math.Abs(here-2./3) > 0.03 || counts[0] != 0 {
					t.Errorf("calls go to %v, want two thirds to endpoint 1", fmt.Sprint(counts))
				}
			})
		})
	}
}
