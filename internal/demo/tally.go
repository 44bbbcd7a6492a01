package demo

import (
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// lateAfter is by how much a call may miss its time before that is counted.
const lateAfter = 50 * time.Millisecond

// maxReasons bounds how many different errors are kept.
const maxReasons = 5

// counts are what became of the calls of ordinary customers.
type counts struct {
	sent, orders, done, failed uint64
	door                       uint64 // sent through the gateway
	late                       uint64 // sent, but not when they were due
	latency                    histogram
}

// abuse is what became of the calls of the abusive customer.
type abuse struct {
	admitted, refused uint64
	first, last       time.Time // first call sent, last one answered
}

// tally counts the calls of all customers. It is safe for concurrent use.
type tally struct {
	mu      sync.Mutex
	phases  [phases]counts
	abuse   abuse
	reasons map[string]uint64 // of failures
}

func newTally() *tally { return &tally{reasons: map[string]uint64{}} }

func (t *tally) sent(p phase, w wish, behind time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := &t.phases[p]
	c.sent++
	if w.order != nil {
		c.orders++
	}
	if w.door {
		c.door++
	}
	if behind > lateAfter {
		c.late++
	}
}

func (t *tally) done(p phase, latency time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := &t.phases[p]
	c.done++
	c.latency.add(latency)
	if err == nil {
		return
	}
	c.failed++
	reason := fmt.Sprintf("%s in phase %s: %.200s", status.Code(err), p, status.Convert(err).Message())
	if _, known := t.reasons[reason]; known || len(t.reasons) < maxReasons {
		t.reasons[reason]++
	}
}

// abused counts a call of the abusive customer. One that failed otherwise than
// by a limit was let through by the limit.
func (t *tally) abused(sent time.Time, err error) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	a := &t.abuse
	if a.first.IsZero() || sent.Before(a.first) {
		a.first = sent
	}
	a.last = now
	if status.Code(err) == codes.ResourceExhausted {
		a.refused++
	} else {
		a.admitted++
	}
}

// progress is a tally at one moment.
type progress struct {
	phases [phases]counts
	abuse  abuse
}

func (t *tally) read() progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	return progress{t.phases, t.abuse}
}

// total adds the phases up.
func (p *progress) total() counts {
	var sum counts
	for i := range p.phases {
		c := &p.phases[i]
		sum.sent += c.sent
		sum.orders += c.orders
		sum.door += c.door
		sum.done += c.done
		sum.failed += c.failed
		sum.late += c.late
		sum.latency.merge(&c.latency)
	}
	return sum
}
