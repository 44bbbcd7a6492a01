// Package random is the policy meshlite_random: an endpoint at random, as often as its weight
// says. Prefer least_request: at random, some endpoint always has several times the mean load.
//
// Import it to register the policy, and name it in a target or a service config:
//
//	consul:///catalog?policy=random
//	{"loadBalancingConfig": [{"meshlite_random": {}}]}
package random

import (
	"time"

	"github.com/meshlite-go/meshlite/balancer"
)

// Name is the policy's name in service configs.
const Name = "meshlite_random"

// Config has no fields: the weights come with the endpoints.
type Config struct{}

func init() {
	balancer.Register(balancer.Policy[Config]{Name: Name, New: func(_ Config, view balancer.View) balancer.Picker { return NewPicker(view) }})
}

type picker struct {
	balancer.View
	schedule balancer.Schedule
}

// NewPicker makes the policy's picker, for policies that have calls with nothing else to go by.
func NewPicker(view balancer.View) balancer.Picker {
	return &picker{view, balancer.NewSchedule(view.Candidates)}
}

// Pick returns an endpoint drawn by weight.
func (p *picker) Pick(time.Duration) *balancer.Candidate {
	return &p.Candidates[p.schedule.At(uint32(p.Random()))]
}

// Odds are the weights'.
func (p *picker) Odds(time.Duration) []float64 { return balancer.WeightOdds(p.Candidates) }
