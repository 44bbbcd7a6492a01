package chaos

import (
	"fmt"
	"maps"
	"sync"
	"time"

	"google.golang.org/grpc/status"
)

const (
	lateAfter   = 50 * time.Millisecond // a call that misses its time by more is counted
	maxReasons  = 5                     // different errors that are remembered
	maxFailures = 1000                  // failed calls that are remembered one by one
)

// call is one call that has ended.
type call struct {
	due, sent time.Time
	instance  string // its address, empty if none was picked
	err       error
}

// figures are what became of the calls of one client.
type figures struct {
	calls, failed uint64
	late          uint64 // sent, but not when they were due
	worst         time.Duration
}

// tally counts calls and connections of one client. It is safe for concurrent use.
type tally struct {
	mu       sync.Mutex
	figures  figures
	failures []call
	reasons  map[string]uint64
	answered map[string]time.Time // by address: when the call was sent that it answered last
	dialed   map[string]int       // by address: connections made
	shares   map[string]uint64    // by address: calls answered
}

func newTally() *tally {
	return &tally{reasons: map[string]uint64{}, answered: map[string]time.Time{}, dialed: map[string]int{}, shares: map[string]uint64{}}
}

// done counts a call. Its latency counts from when it was due.
func (t *tally) done(c call) {
	took := time.Since(c.due)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.figures.calls++
	t.figures.worst = max(t.figures.worst, took)
	if c.sent.Sub(c.due) > lateAfter {
		t.figures.late++
	}
	if c.err == nil {
		t.shares[c.instance]++
		if c.sent.After(t.answered[c.instance]) {
			t.answered[c.instance] = c.sent
		}
		return
	}
	t.fail(c)
}

// fail counts a failed call. The caller holds t.mu.
func (t *tally) fail(c call) {
	t.figures.failed++
	if len(t.failures) < maxFailures {
		t.failures = append(t.failures, c)
	}
	reason := fmt.Sprintf("%s: %.200s", status.Code(c.err), status.Convert(c.err).Message())
	if _, known := t.reasons[reason]; known || len(t.reasons) < maxReasons {
		t.reasons[reason]++
	}
}

// dial counts a connection that is about to be made.
func (t *tally) dial(address string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dialed[address]++
}

func (t *tally) dials(address string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.dialed[address]
}

// answers reports whether the instance has answered a call that was sent after since.
func (t *tally) answers(address string, since time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.answered[address].After(since)
}

// lastAnswered is when the last call was sent that the instance has answered, zero for none.
func (t *tally) lastAnswered(address string) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.answered[address]
}

// answeredBy is how many calls each instance has answered, by address.
func (t *tally) answeredBy() map[string]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.shares)
}

func (t *tally) read() figures {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.figures
}

// failedSince is how many of the calls that were sent after since have failed.
func (t *tally) failedSince(since time.Time) (n uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.failures {
		if c.sent.After(since) {
			n++
		}
	}
	return n
}

// inFlight are the failed calls that were on their way to an instance when it
// ended. The client could not have known.
func (t *tally) inFlight(address string, ended time.Time) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	var n uint64
	for _, c := range t.failures {
		if c.instance == address && c.sent.Before(ended) {
			n++
		}
	}
	return n
}
