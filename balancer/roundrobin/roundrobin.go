// Package roundrobin is the policy meshlite_round_robin: every endpoint in turn,
// as often as its weight says, and evenly spread.
//
// Import it to make the policy known to gRPC, and name it in a target or a
// service config:
//
//	consul:///catalog?policy=round_robin
//	{"loadBalancingConfig": [{"meshlite_round_robin": {}}]}
package roundrobin

import (
	"encoding/json"
	"sync/atomic"

	"github.com/meshlite-go/meshlite/balancer"
)

// Name is the policy's name in service configs.
const Name = "meshlite_round_robin"

// Config has no fields: the weights come with the endpoints.
type Config struct{}

func init() {
	balancer.Register(balancer.Policy[Config]{Name: Name, Parse: parseConfig, New: newChooser})
}

func parseConfig(text json.RawMessage) (Config, error) {
	var config Config
	err := json.Unmarshal(text, &config)
	return config, err
}

// turns walks through a schedule that is made once, so a choice is one atomic
// addition.
type turns struct {
	ready    []balancer.Ready
	schedule balancer.Schedule
	next     atomic.Uint32
}

func newChooser(_ Config, view balancer.View) balancer.Chooser {
	t := &turns{ready: view.Ready, schedule: balancer.NewSchedule(view.Ready)}
	t.next.Store(uint32(view.Random())) // so that clients started together do not walk in step
	return t
}

// Choose takes the next endpoint of the schedule.
func (t *turns) Choose() *balancer.Ready {
	return &t.ready[t.schedule.At(t.next.Add(1))]
}
