// Package peakewma is the policy meshlite_peak_ewma: the endpoint with the lowest expected
// latency. The cost of an endpoint is its latency to the first response, a moving average that
// follows a rise at once (Finagle's peak EWMA) and a fall over some 16 lower samples, times the square root of its
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
	var indexes [fullScan]int
	var numbers [fullScan]float64 // latencies in seconds, then sums of probabilities
	drawn, values := indexes[:p.contenders], numbers[:p.contenders]
	p.draw(drawn)
	p.latencies(drawn, values, now)
	sum := p.sums(drawn, values)
	at, before := float64(p.Random()>>11)/(1<<53)*sum, 0
	for _, sum := range values[:len(values)-1] {
		if sum <= at {
			before++
		}
	}
	return &p.Candidates[drawn[before]]
}

// Odds are nil where only some of the endpoints are compared.
func (p *picker) Odds(now time.Duration) []float64 {
	if len(p.Candidates) > fullScan {
		return nil
	}
	drawn, values, odds := make([]int, len(p.Candidates)), make([]float64, len(p.Candidates)), make([]float64, len(p.Candidates))
	p.draw(drawn)
	p.latencies(drawn, values, now)
	sum, before := p.sums(drawn, values), 0.0
	for k, upTo := range values {
		odds[drawn[k]] = (upTo - before) / sum
		before = upTo
	}
	return odds
}

// draw takes all candidates, or some by weight.
func (p *picker) draw(drawn []int) {
	for k := range drawn {
		drawn[k] = k
		if len(p.Candidates) > fullScan {
			drawn[k] = p.schedule.Draw(drawn[:k], p.Random)
		}
	}
}

// latencies reads the latencies. A candidate without one gets the mean of the others: if it is
// slow from the start, its attempts in flight show it.
func (p *picker) latencies(drawn []int, latencies []float64, now time.Duration) {
	unknown := 0
	for k, i := range drawn {
		if latencies[k] = latencyOf(&p.Candidates[i], now); latencies[k] == 0 {
			unknown++
		}
	}
	if unknown == 0 {
		return
	}
	sum := 0.0
	for _, latency := range latencies {
		sum += latency
	}
	mean := max(sum/float64(max(len(drawn)-unknown, 1)), minLatency)
	for k := range latencies {
		if latencies[k] == 0 {
			latencies[k] = mean
		}
	}
}

// latencyOf is the latency of c in seconds, 0 if there is no sample. It decays while nothing is
// in flight, so that a call samples it again.
func latencyOf(c *balancer.Candidate, now time.Duration) float64 {
	seconds, age := c.Latency(now)
	if seconds > minLatency && c.InFlight() == 0 {
		seconds *= balancer.Decay(age)
	}
	if seconds > 0 && seconds < minLatency {
		return minLatency
	}
	return seconds
}

// sums replaces each latency by the sum of the probabilities until it, and returns the last. A
// probability is one over the eighth power of the cost: the latency, times the square root of the attempts in flight
// with the next one, for an endpoint of the mean weight. It is the root, since the latency was
// measured under that load and includes it partly. Idle endpoints share by weight, as the drawn
// ones do already.
func (p *picker) sums(drawn []int, values []float64) (sum float64) {
	for k, i := range drawn {
		c, weight, latency := &p.Candidates[i], p.weights[i], values[k]
		load := c.InFlight()
		if c.Impaired() {
			load = c.Load()
		}
		// The inverse square of the cost, by one division, and so on to the eighth.
		probability := minLatency * minLatency * weight / (latency * latency * (float64(load) + weight))
		probability *= probability
		probability *= probability
		if len(p.Candidates) <= fullScan {
			probability *= weight
		}
		sum += probability
		values[k] = sum
	}
	return sum
}
