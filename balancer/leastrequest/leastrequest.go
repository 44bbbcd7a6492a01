// Package leastrequest is the policy meshlite_least_request: the endpoint with the fewest
// attempts in flight for its weight. Recent failures count as load. It is the default policy.
//
// Up to fullScan endpoints are all compared, from a random one on, so the pick is the true
// minimum. Of more, choiceCount distinct ones are drawn at random; gRPC's least_request may draw
// the same one twice.
//
//	consul:///catalog?policy=least_request
//	{"loadBalancingConfig": [{"meshlite_least_request": {"choiceCount": 3}}]}
package leastrequest

import (
	"encoding/json"
	"fmt"
	"math"
	"math/bits"
	"time"

	"github.com/meshlite-go/meshlite/balancer"
)

// Name is the policy's name in service configs.
const Name = "meshlite_least_request"

const (
	defaultFullScan    = 16
	maxFullScan        = 1024
	defaultChoiceCount = 3
	maxChoiceCount     = 10 // as in gRFC A48
)

// Config is the policy's part of a service config.
type Config struct {
	// FullScan is the largest number of endpoints that are all compared: 1 to 1024.
	// Default: 16.
	FullScan int `json:"fullScan"`
	// ChoiceCount is how many of more endpoints are compared: 2 to 10 (gRFC A48). Default: 3.
	ChoiceCount int `json:"choiceCount"`
}

func init() {
	balancer.Register(balancer.Policy[Config]{Name: Name, Parse: parseConfig, New: newPicker})
}

func parseConfig(text json.RawMessage) (Config, error) {
	config := Config{FullScan: defaultFullScan, ChoiceCount: defaultChoiceCount}
	if err := json.Unmarshal(text, &config); err != nil {
		return Config{}, err
	}
	if config.FullScan < 1 || config.FullScan > maxFullScan {
		return Config{}, fmt.Errorf("fullScan %d is not in 1 to %d", config.FullScan, maxFullScan)
	}
	if config.ChoiceCount < 2 || config.ChoiceCount > maxChoiceCount {
		return Config{}, fmt.Errorf("choiceCount %d is not in 2 to %d", config.ChoiceCount, maxChoiceCount)
	}
	return config, nil
}

func newPicker(config Config, view balancer.View) balancer.Picker {
	schedule := balancer.NewSchedule(view.Candidates)
	if len(view.Candidates) > max(config.FullScan, config.ChoiceCount) {
		return &sample{view, schedule, config.ChoiceCount}
	}
	equal := len(view.Candidates) <= maxTies
	for i := range view.Candidates {
		equal = equal && view.Candidates[i].Weight == view.Candidates[0].Weight
	}
	return &scan{view, schedule, equal}
}

// scan compares all endpoints.
type scan struct {
	balancer.View
	schedule balancer.Schedule
	equal    bool // they have one weight, and are few
}

// Pick returns the least loaded endpoint; of equal ones each as often as its weight says. An
// idle endpoint drawn by weight cannot be beaten.
func (s *scan) Pick(time.Duration) *balancer.Candidate {
	random := s.Random()
	if drawn := &s.Candidates[s.schedule.At(uint32(random))]; drawn.Load() == 0 {
		return drawn
	}
	if s.equal {
		return s.lightestOfEqual(uint32(random >> 32))
	}
	return s.lightest(random)
}

// maxTies is how many endpoints with the least load a word holds.
const maxTies = 64

// lightestOfEqual compares all, and draws one of those with the least load. Which are equal is
// kept without a branch, since it cannot be predicted.
func (s *scan) lightestOfEqual(random uint32) *balancer.Candidate {
	least, ties := int64(math.MaxInt64), uint64(0)
	for i := range s.Candidates {
		c := &s.Candidates[i]
		n := c.InFlight()
		if c.Impaired() {
			n = c.Load()
		}
		bit := uint64(1) << (i % maxTies)
		if n == least {
			ties |= bit
		}
		if n < least {
			ties = bit
		}
		least = min(least, n)
	}
	for skip := uint64(random) * uint64(bits.OnesCount64(ties)) >> 32; skip > 0; skip-- {
		ties &= ties - 1
	}
	return &s.Candidates[bits.TrailingZeros64(ties)]
}

// lightest compares all. The k-th of equally loaded ones replaces those before with the
// probability of its part in their weight (reservoir sampling).
func (s *scan) lightest(random uint64) *balancer.Candidate {
	best := &s.Candidates[0]
	load, weights := best.Load(), uint64(best.Weight)
	for i := 1; i < len(s.Candidates); i++ {
		c := &s.Candidates[i]
		n := c.Load()
		switch mine, least := n*int64(best.Weight), load*int64(c.Weight); {
		case mine < least:
			best, load, weights = c, n, uint64(c.Weight)
		case mine == least:
			weights += uint64(c.Weight)
			random = random*6364136223846793005 + 1442695040888963407 // Knuth's MMIX generator
			if (random>>32)*weights>>32 < uint64(c.Weight) {
				best, load = c, n
			}
		}
	}
	return best
}

// Odds are the weights' among those that are equally and least loaded.
func (s *scan) Odds(time.Duration) []float64 {
	odds, sum := make([]float64, len(s.Candidates)), 0.0
	var least *balancer.Candidate
	var load int64
	for i := range s.Candidates {
		c := &s.Candidates[i]
		n := c.Load()
		switch {
		case least == nil || n*int64(least.Weight) < load*int64(c.Weight):
			least, load, sum = c, n, 0
			clear(odds)
			fallthrough
		case n*int64(least.Weight) == load*int64(c.Weight):
			odds[i] = float64(c.Weight)
			sum += odds[i]
		}
	}
	for i := range odds {
		odds[i] /= sum
	}
	return odds
}

// sample compares a few distinct endpoints.
type sample struct {
	balancer.View
	schedule balancer.Schedule
	count    int
}

// Pick compares endpoints drawn by weight; of equally loaded ones the first drawn wins.
func (s *sample) Pick(time.Duration) *balancer.Candidate {
	var drawn [maxChoiceCount]int
	var best *balancer.Candidate
	var load int64
	for k := range s.count {
		drawn[k] = s.schedule.Draw(drawn[:k], s.Random)
		c := &s.Candidates[drawn[k]]
		if n := c.Load(); best == nil || n*int64(best.Weight) < load*int64(c.Weight) {
			best, load = c, n
		}
		if load == 0 {
			break // it cannot be beaten
		}
	}
	return best
}
