// Package peakewma is the policy meshlite_peak_ewma: the endpoint where the next
// response is likely to come first. What counts is the latency to the first response,
// a moving average that rises at once and falls slowly (Finagle's peak EWMA), times the
// square root of the attempts in flight for the weight.
//
// It is for services whose instances differ, or whose bad moments matter: a slow
// instance gets a call now and then, enough to see it recover, and no more. Where all
// are alike least request is as good and cheaper.
//
//	consul:///catalog?policy=peak_ewma
//	{"loadBalancingConfig": [{"meshlite_peak_ewma": {}}]}
//
// Streams count with their first response where the interceptors of this module tell
// of it; used without them, only unary calls are samples.
package peakewma

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/meshlite-go/meshlite/balancer"
)

// Name is the policy's name in service configs.
const Name = "meshlite_peak_ewma"

const (
	defaultChoiceCount = 3
	maxChoiceCount     = 10
	fullScan           = 16 // endpoints that are all compared

	// floor is the latency in seconds below which differences are noise.
	floor = 100e-6
)

// Config is the policy's part of a service config.
type Config struct {
	// ChoiceCount is how many endpoints of more than 16 are compared: 2 to 10.
	// Default: 3.
	ChoiceCount int `json:"choiceCount"`
}

func init() {
	balancer.Register(balancer.Policy[Config]{Name: Name, Parse: parseConfig, New: newChooser, Latency: true})
}

func parseConfig(text json.RawMessage) (Config, error) {
	config := Config{ChoiceCount: defaultChoiceCount}
	if err := json.Unmarshal(text, &config); err != nil {
		return Config{}, err
	}
	if config.ChoiceCount < 2 || config.ChoiceCount > maxChoiceCount {
		return Config{}, fmt.Errorf("choiceCount %d is not in 2 to %d", config.ChoiceCount, maxChoiceCount)
	}
	return config, nil
}

// chooser draws among candidates by how soon they are likely to answer.
type chooser struct {
	balancer.View
	schedule balancer.Schedule
	count    int     // of candidates
	mean     float64 // of the weights
}

func newChooser(config Config, view balancer.View) balancer.Chooser {
	c := &chooser{View: view, schedule: balancer.NewSchedule(view.Ready), count: config.ChoiceCount}
	if len(view.Ready) <= fullScan {
		c.count = len(view.Ready)
	}
	for i := range view.Ready {
		c.mean += float64(view.Ready[i].Weight) / float64(len(view.Ready))
	}
	return c
}

// Choose draws one of the candidates with a chance that falls with the eighth power
// of its cost. To take the cheapest would send all calls of all clients to whoever is
// ahead by a hair; so equals share, and twice the cost has a 256th of the chance.
func (c *chooser) Choose() *balancer.Ready {
	var list [fullScan]candidate
	candidates := list[:c.count]
	c.draw(candidates)
	sum := 0.0
	for k := range candidates {
		sum += c.chance(&candidates[k])
	}
	left := float64(c.Random()>>11) / (1 << 53) * sum
	for k := range candidates {
		if left -= candidates[k].chance; left < 0 {
			return &c.Ready[candidates[k].at]
		}
	}
	return &c.Ready[candidates[0].at]
}

// candidate is an endpoint that is compared.
type candidate struct {
	at      int
	latency float64 // in seconds
	chance  float64
}

// draw takes all, or some by weight, and looks up their latency. Who has answered
// nothing yet is taken to be like the others: an endpoint that is slow from the start
// shows that by what it has in flight.
func (c *chooser) draw(candidates []candidate) {
	now := c.Now()
	var taken [maxChoiceCount]int
	sum, known := 0.0, 0
	for k := range candidates {
		at := k
		if len(c.Ready) > fullScan {
			at = c.schedule.Draw(taken[:k], c.Random)
			taken[k] = at
		}
		latency := latencyOf(&c.Ready[at], now)
		candidates[k] = candidate{at: at, latency: latency}
		if latency > 0 {
			sum += latency
			known++
		}
	}
	for k := range candidates {
		if candidates[k].latency == 0 {
			candidates[k].latency = max(sum/float64(max(known, 1)), floor)
		}
	}
}

// latencyOf is that of r in seconds, 0 if it is not known. While nothing is under way
// that could tell, it falls over the decay time: then one call finds out.
func latencyOf(r *balancer.Ready, now time.Duration) float64 {
	seconds, age := r.Latency(now)
	switch {
	case seconds == 0:
		return 0
	case r.InFlight() == 0:
		seconds *= balancer.Kept(age)
	}
	return max(seconds, floor)
}

// chance is one over the eighth power of the cost: the latency, times the square root
// of the attempts that stand before the next one and that one, for an endpoint of the mean
// weight. It is the root because a latency was measured under such load and tells of it
// already. Idle endpoints share by weight, as those that are drawn do already.
func (c *chooser) chance(x *candidate) float64 {
	r := &c.Ready[x.at]
	weight := float64(r.Weight) / c.mean
	load := 1 / (float64(r.Load())/weight + 1)
	chance := floor / x.latency
	chance *= chance * load // to the second, and so on to the eighth
	chance *= chance
	chance *= chance
	if len(c.Ready) <= fullScan {
		chance *= weight
	}
	x.chance = chance
	return chance
}
