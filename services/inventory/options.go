package inventory

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/status"
)

const (
	defaultGrams = 1_000_000   // a tonne
	maxWait      = time.Minute // far beyond what a caller waits for
)

// Options are what replicas may differ in. The zero value is a full shop that
// answers at once.
type Options struct {
	Latency time.Duration // every call takes this long, a minute at most
	Jitter  time.Duration // and up to this much longer, at random
	Grams   uint32        // of each sweet at the start; 0 is a tonne
}

func (o Options) check() error {
	if o.Latency < 0 || o.Latency > maxWait {
		return fmt.Errorf("latency is %v: want 0s to %v, such as 2ms", o.Latency, maxWait)
	}
	if o.Jitter < 0 || o.Jitter > maxWait {
		return fmt.Errorf("jitter is %v: want 0s to %v, such as 2ms", o.Jitter, maxWait)
	}
	return nil
}

// wait takes as long as a call does, or until its context ends.
func (o Options) wait(ctx context.Context) error {
	timer := time.NewTimer(o.Latency + rand.N(o.Jitter+1))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}
