// Package leastrequest is the policy meshlite_least_request: the endpoint with
// the fewest attempts in flight for its weight. It is the policy of a channel
// that names no other.
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
	"math/rand/v2"
	"slices"

	grpcbalancer "google.golang.org/grpc/balancer"

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

func init() { balancer.Register(Name, parseConfig, newPicker) }

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

func newPicker(config Config, ready []balancer.Ready) grpcbalancer.Picker {
	schedule := balancer.NewSchedule(ready)
	if len(ready) <= max(config.FullScan, config.ChoiceCount) {
		return &scan{ready, schedule}
	}
	return &sample{ready, schedule, config.ChoiceCount}
}

// scan compares all endpoints.
type scan struct {
	ready    []balancer.Ready
	schedule balancer.Schedule
}

// Pick takes the lightest endpoint; of equally light ones, each as often as its
// weight says. One that is drawn by weight and idle cannot be beaten.
func (s *scan) Pick(info grpcbalancer.PickInfo) (grpcbalancer.PickResult, error) {
	random := rand.Uint64()
	if drawn := &s.ready[s.schedule.At(uint32(random))]; drawn.InFlight.Load() == 0 {
		return drawn.Pick(info)
	}
	return s.lightest(random).Pick(info)
}

// lightest looks at all of them. The k-th of equally light ones replaces those
// before with the probability of its part in their weight (reservoir sampling).
func (s *scan) lightest(random uint64) *balancer.Ready {
	best := &s.ready[0]
	load, weights := best.InFlight.Load(), uint64(best.Weight)
	for i := 1; i < len(s.ready); i++ {
		r := &s.ready[i]
		n := r.InFlight.Load()
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
	ready    []balancer.Ready
	schedule balancer.Schedule
	count    int
}

// Pick compares endpoints drawn by weight; of equal ones the first drawn wins.
func (s *sample) Pick(info grpcbalancer.PickInfo) (grpcbalancer.PickResult, error) {
	var drawn [maxChoiceCount]int
	var best *balancer.Ready
	var load int64
	for k := range s.count {
		drawn[k] = s.draw(drawn[:k])
		r := &s.ready[drawn[k]]
		if n := r.InFlight.Load(); best == nil || lighter(n, r, load, best) {
			best, load = r, n
		}
		if load == 0 {
			break // it cannot be beaten
		}
	}
	return best.Pick(info)
}

// maxDraws bounds the search for an endpoint not drawn before, which one weight
// above all others could make long.
const maxDraws = 16

// draw is an endpoint that is not among taken.
func (s *sample) draw(taken []int) int {
	i := s.schedule.At(rand.Uint32())
	for range maxDraws {
		if !slices.Contains(taken, i) {
			return i
		}
		i = s.schedule.At(rand.Uint32())
	}
	for slices.Contains(taken, i) {
		i = (i + 1) % len(s.ready)
	}
	return i
}

// lighter compares attempts in flight over weight.
func lighter(inFlightA int64, a *balancer.Ready, inFlightB int64, b *balancer.Ready) bool {
	return inFlightA*int64(b.Weight) < inFlightB*int64(a.Weight)
}
