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
	"math/rand/v2"
	"sync/atomic"

	grpcbalancer "google.golang.org/grpc/balancer"

	"github.com/meshlite-go/meshlite/balancer"
)

// Name is the policy's name in service configs.
const Name = "meshlite_round_robin"

// Config has no fields: the weights come with the endpoints.
type Config struct{}

func init() { balancer.Register(Name, parseConfig, newPicker) }

func parseConfig(text json.RawMessage) (Config, error) {
	var config Config
	err := json.Unmarshal(text, &config)
	return config, err
}

// picker walks through a schedule that is made once, so a pick is one atomic
// addition.
type picker struct {
	ready    []balancer.Ready
	schedule balancer.Schedule
	next     atomic.Uint32
}

func newPicker(_ Config, ready []balancer.Ready) grpcbalancer.Picker {
	p := &picker{ready: ready, schedule: balancer.NewSchedule(ready)}
	p.next.Store(rand.Uint32()) // so that clients started together do not walk in step
	return p
}

// Pick takes the next endpoint of the schedule.
func (p *picker) Pick(info grpcbalancer.PickInfo) (grpcbalancer.PickResult, error) {
	return p.ready[p.schedule.At(p.next.Add(1))].Pick(info)
}
