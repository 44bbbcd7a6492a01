// Package renewal logs the attempts of a certificate source of package identity to read from
// its authority, and paces them.
//
//	attempts := renewal.New(&source.Feed, "Consul", log)
//	for ctx.Err() == nil {
//		err := ask(ctx)
//		attempts.Record(err)
//		if err != nil {
//			pause(ctx, attempts.Pause())
//		}
//	}
package renewal

import (
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/meshlite-go/meshlite/identity"
)

const (
	// Spread is the time over which processes ask for a leaf that all of them need at once,
	// after a change of roots or an outage: Consul signs 50 a second.
	Spread = 30 * time.Second
	// unhurried is how much of a leaf must be left for its renewal to take Spread.
	unhurried = 10 * time.Minute

	minPause = 500 * time.Millisecond
	maxPause = 15 * time.Second
)

// Attempts are those of one loop, which alone uses them.
type Attempts struct {
	feed     *identity.Feed
	from     string
	log      *slog.Logger
	failures int       // in a row
	overdue  time.Time // the end of the leaf whose overdue renewal was logged
}

// New follows the attempts to read what feed publishes from an authority, by its name in logs.
func New(feed *identity.Feed, from string, log *slog.Logger) *Attempts {
	return &Attempts{feed: feed, from: from, log: log}
}

// Record logs the first failure in a row, and the end of them.
func (a *Attempts) Record(err error) {
	if err == nil {
		if a.failures > 0 {
			a.log.Info("the identity is read from " + a.from + " again")
		}
		a.failures = 0
		return
	}
	a.feed.Fail(err)
	if a.failures++; a.failures > 1 {
		return
	}
	if current, none := a.feed.Current(); none == nil {
		a.log.Warn("the identity cannot be read from "+a.from+": the last certificate stays", "error", err, "valid_until", current.Leaf().NotAfter)
	} else {
		a.log.Warn("the identity cannot be read from "+a.from+": no connection can be secured yet", "error", err)
	}
}

// Pause is when to try again after a failure: it doubles with each one, from half a second to
// 15 s. Jitter over its upper half keeps processes from returning in step.
func (a *Attempts) Pause() time.Duration {
	d := min(minPause<<min(max(a.failures-1, 0), 10), maxPause)
	return d/2 + rand.N(d/2)
}

// LeafPause is Pause for leaves: up to Spread while the last one is good for more than 10 min.
func (a *Attempts) LeafPause() time.Duration {
	if current, err := a.feed.Current(); err == nil && time.Until(current.Leaf().NotAfter) > unhurried {
		return minPause + rand.N(Spread)
	}
	return a.Pause()
}

// Overdue reports whether the latest leaf should have been renewed, which is logged once for
// each leaf.
func (a *Attempts) Overdue() bool {
	current, err := a.feed.Current()
	if err != nil || !current.IsOverdue(time.Now()) {
		return false
	}
	if end := current.Leaf().NotAfter; !a.overdue.Equal(end) {
		a.overdue = end
		a.log.Error(a.from+" does not renew the certificate: see its log", "valid_until", end, "left", time.Until(end).Round(time.Second).String())
	}
	return true
}
