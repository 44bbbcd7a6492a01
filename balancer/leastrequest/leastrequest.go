// Package leastrequest is the policy meshlite_least_request: the endpoint with
// the fewest attempts in flight for its weight, where one that has failed of late
// counts as busier than it is. It is the policy of a channel that names no other.
//
// Up to fullScan endpoints are all looked at, from a random one on, so the
// choice is the true minimum. Among more, choiceCount distinct ones are drawn
// at random; drawing the same one twice, as gRPC's least_request may, would be
// no choice at all.
//
//	consul:///catalog?policy=least_request
//	{"loadBalancingConfig": [{"meshlite_least_request": {"choiceCount": 3}}]}
package leastrequest

import (
	"encoding/json"
	"fmt"

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
	// FullScan is the largest number of endpoints that are all compared: 1 to
	// 1024. Default: 16.
	FullScan int `json:"fullScan"`
	// ChoiceCount is how many endpoints of a larger number are compared: 2 to 10
	// (gRFC A48). Default: 3.
	ChoiceCount int `json:"choiceCount"`
}

func init() {
	balancer.Register(balancer.Policy[Config]{Name: Name, Parse: parseConfig, New: newChooser})
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

func newChooser(config Config, view balancer.View) balancer.Chooser {
	schedule := balancer.NewSchedule(view.Ready)
	if len(view.Ready) <= max(config.FullScan, config.ChoiceCount) {
		return &scan{view, schedule}
	}
	return &sample{view, schedule, config.ChoiceCount}
}

// scan compares all endpoints.
type scan struct {
	balancer.View
	schedule balancer.Schedule
}

// Choose takes the lightest endpoint; of equally light ones, each as often as its
// weight says. One that is drawn by weight and idle cannot be beaten.
func (s *scan) Choose() *balancer.Ready {
	random := s.Random()
	if drawn := &s.Ready[s.schedule.At(uint32(random))]; drawn.Load() == 0 {
		return drawn
	}
	return s.lightest(random)
}

// lightest looks at all of them. The k-th of equally light ones replaces those
// before with the probability of its part in their weight (reservoir sampling).
func (s *scan) lightest(random uint64) *balancer.Ready {
	best := &s.Ready[0]
	load, weights := best.Load(), uint64(best.Weight)
	for i := 1; i < len(s.Ready); i++ {
		r := &s.Ready[i]
		n := r.Load()
		switch mine, least := n*int64(best.Weight), load*int64(r.Weight); {
		case mine < least:
			best, load, weights = r, n, uint64(r.Weight)
		case mine == least:
			weights += uint64(r.Weight)
			random = random*6364136223846793005 + 1442695040888963407 // Knuth's MMIX generator
			if (random>>32)*weights>>32 < uint64(r.Weight) {
				best, load = r, n
			}
		}
	}
	return best
}

// sample compares a few distinct endpoints.
type sample struct {
	balancer.View
	schedule balancer.Schedule
	count    int
}

// Choose compares endpoints drawn by weight; of equal ones the first drawn wins.
func (s *sample) Choose() *balancer.Ready {
	var drawn [maxChoiceCount]int
	var best *balancer.Ready
	var load int64
	for k := range s.count {
		drawn[k] = s.schedule.Draw(drawn[:k], s.Random)
		r := &s.Ready[drawn[k]]
		if n := r.Load(); best == nil || n*int64(best.Weight) < load*int64(r.Weight) {
			best, load = r, n
		}
		if load == 0 {
			break // it cannot be beaten
		}
	}
	return best
}
