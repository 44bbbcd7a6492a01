// Package roundrobin is the policy meshlite_round_robin: every endpoint in turn, as
// often as its weight says, evenly spread.
//
// Import it to register the policy, and name it in a target or a service config:
//
//	consul:///catalog?policy=round_robin
//	{"loadBalancingConfig": [{"meshlite_round_robin": {}}]}
package roundrobin

import (
	"sync/atomic"
	"time"

	"github.com/meshlite-go/meshlite/balancer"
)

// Name is the policy's name in service configs.
const Name = "meshlite_round_robin"

// Config has no fields: the weights come with the endpoints.
type Config struct{}

func init() {
	balancer.Register(balancer.Policy[Config]{Name: Name, New: newPicker})
}

// picker takes the turns of a schedule, so a pick is one atomic addition.
type picker struct {
	candidates []balancer.Candidate
	schedule   balancer.Schedule
	next       atomic.Uint32
}

func newPicker(_ Config, view balancer.View) balancer.Picker {
	p := &picker{candidates: view.Candidates, schedule: balancer.NewSchedule(view.Candidates)}
	p.next.Store(uint32(view.Random())) // so that clients started together are not in step
	return p
}

// Pick returns the endpoint with the next turn.
func (p *picker) Pick(time.Duration) *balancer.Candidate {
	return &p.candidates[p.schedule.At(p.next.Add(1))]
}

// Odds are those of a whole round: the weights'.
func (p *picker) Odds(time.Duration) []float64 { return balancer.WeightOdds(p.candidates) }
