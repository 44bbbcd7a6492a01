// Package peakewma is the policy meshlite_peak_ewma: the endpoint with the lowest expected
// latency. The cost of an endpoint is its latency to the first response, a moving average that
// follows a rise at once and a fall slowly (Finagle's peak EWMA), times the square root of its
// attempts in flight for its weight.
//
// Use it for services whose instances differ or have slow phases: a slow instance gets only as
// many calls as it takes to detect its recovery. Where all instances are alike, least request is
// as good and cheaper.
//
//	consul:///catalog?policy=peak_ewma
//	{"loadBalancingConfig": [{"meshlite_peak_ewma": {}}]}
//
// Streams are timed to their first response, which the interceptors of this module report.
// Without them only unary calls are samples.
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

	// minLatency in seconds: below it differences are noise.
	minLatency = 100e-6
)

// Config is the policy's part of a service config.
type Config struct {
	// ChoiceCount is how many of more than 16 endpoints are compared: 2 to 10. Default: 3.
	ChoiceCount int `json:"choiceCount"`
}

func init() {
	balancer.Register(balancer.Policy[Config]{Name: Name, Parse: parseConfig, New: newPicker, Latency: true})
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

// picker draws among contenders by cost.
type picker struct {
	balancer.View
	schedule   balancer.Schedule
	contenders int
	weights    []float64 // by candidate; their mean is 1
}

func newPicker(config Config, view balancer.View) balancer.Picker {
	p := &picker{View: view, schedule: balancer.NewSchedule(view.Candidates), contenders: config.ChoiceCount}
	if len(view.Candidates) <= fullScan {
		p.contenders = len(view.Candidates)
	}
	sum, n := 0.0, len(view.Candidates)
	for i := range view.Candidates {
		sum += float64(view.Candidates[i].Weight)
	}
	p.weights = make([]float64, n)
	for i := range view.Candidates {
		p.weights[i] = float64(view.Candidates[i].Weight) * float64(n) / sum
	}
	return p
}

// Pick draws a contender with a probability that falls with the eighth power of its cost. To
// take the cheapest would send all calls of all clients to one that is barely ahead; so equals
// share, and twice the cost has 1/256 of the probability.
func (p *picker) Pick(now time.Duration) *balancer.Candidate {
	var list [fullScan]contender
	contenders := list[:p.contenders]
	sum := p.compare(contenders, now)
	left := float64(p.Random()>>11) / (1 << 53) * sum
	for k := range contenders {
		if left -= contenders[k].probability; left < 0 {
			return &p.Candidates[contenders[k].index]
		}
	}
	return &p.Candidates[contenders[0].index]
}

// compare fills contenders, and returns the sum of their probabilities.
func (p *picker) compare(contenders []contender, now time.Duration) (sum float64) {
	p.draw(contenders, now)
	for k := range contenders {
		contenders[k].probability = p.probability(&contenders[k])
		sum += contenders[k].probability
	}
	return sum
}

// Odds are nil where only some of the endpoints are compared.
func (p *picker) Odds(now time.Duration) []float64 {
	if len(p.Candidates) > fullScan {
		return nil
	}
	contenders, odds := make([]contender, len(p.Candidates)), make([]float64, len(p.Candidates))
	sum := p.compare(contenders, now)
	for _, c := range contenders {
		odds[c.index] = c.probability / sum
	}
	return odds
}

// contender is a candidate that is compared.
type contender struct {
	index       int
	latency     float64 // in seconds
	probability float64 // relative to the other contenders
}

// draw takes all candidates, or some by weight, and reads their latency. One without a latency
// gets the mean of the others: if it is slow from the start, its attempts in flight show it.
func (p *picker) draw(contenders []contender, now time.Duration) {
	var taken [maxChoiceCount]int
	sum, samples := 0.0, 0
	for k := range contenders {
		index := k
		if len(p.Candidates) > fullScan {
			index = p.schedule.Draw(taken[:k], p.Random)
			taken[k] = index
		}
		latency := latencyOf(&p.Candidates[index], now)
		contenders[k] = contender{index: index, latency: latency}
		if latency > 0 {
			sum += latency
			samples++
		}
	}
	for k := range contenders {
		if contenders[k].latency == 0 {
			contenders[k].latency = max(sum/float64(max(samples, 1)), minLatency)
		}
	}
}

// latencyOf is the latency of c in seconds, 0 if there is no sample. It decays while nothing is
// in flight, so that a call samples it again.
func latencyOf(c *balancer.Candidate, now time.Duration) float64 {
	seconds, age := c.Latency(now)
	switch {
	case seconds == 0:
		return 0
	case c.InFlight() == 0:
		seconds *= balancer.Decay(age)
	}
	return max(seconds, minLatency)
}

// probability is one over the eighth power of the cost: the latency, times the square root of
// the attempts in flight with the next one, for an endpoint of the mean weight. It is the root,
// since the latency was measured under that load and includes it partly. Idle endpoints share
// by weight, as the drawn ones do already.
func (p *picker) probability(x *contender) float64 {
	weight := p.weights[x.index]
	load := float64(p.Candidates[x.index].Load())
	// The inverse square of the cost, by one division, and so on to the eighth.
	probability := minLatency * minLatency * weight / (x.latency * x.latency * (load + weight))
	probability *= probability
	probability *= probability
	if len(p.Candidates) <= fullScan {
		probability *= weight
	}
	return probability
}
