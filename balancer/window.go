package balancer

import (
	"cmp"
	"slices"
	"time"
)

// samples is how many times the counts are sampled within an interval.
const samples = 10

// count is what an endpoint had done at one time.
type count struct {
	at            time.Duration
	calls, failed uint64 // ever; calls are those that tell something
}

// rate is the part of calls that succeeded.
func (c count) rate() float64 { return 1 - float64(c.failed)/float64(max(c.calls, 1)) }

// minus is what came after other. What is just being counted may not be in both.
func (c count) minus(other count) count {
	return count{c.at, c.calls - min(c.calls, other.calls), c.failed - min(c.failed, other.failed)}
}

func (c count) plus(other count) count {
	return count{c.at, c.calls + other.calls, c.failed + other.failed}
}

// counted is what e has done until now.
func (e *Endpoint) counted(now time.Duration) count {
	ignored := e.ignored.Load() // before what has ended, of which it is a part
	return count{now, max(e.ended.Load()-ignored, e.ejection.failed), e.ejection.failed}
}

// watch begins to sample the counts when the first failure comes: without failures
// there is nothing to find, and nothing is done. The caller holds t.mu, as those of
// all that follows do.
func (t *Table) watch(now time.Duration) {
	if !t.watching(now) {
		for _, e := range t.endpoints {
			e.ejection.counts = nil
		}
		t.sample(now)
		t.wake()
	}
	t.watched = max(now, 1)
}

// watching reports whether there were failures within the interval.
func (t *Table) watching(now time.Duration) bool {
	return t.watched > 0 && now-t.watched <= t.interval
}

// sample notes the counts and forgets those from before the interval. However many
// channels ask for it, it is done ten times in each.
func (t *Table) sample(now time.Duration) {
	t.sampled = now
	for _, e := range t.endpoints {
		x := &e.ejection
		x.counts = append(x.counts, e.counted(now))
		for len(x.counts) > 1 && now-x.counts[1].at >= t.interval {
			x.counts = x.counts[1:]
		}
	}
}

// compares reports whether rates of success are to be looked at.
func (s *Ejection) compares() bool { return !s.Disabled && s.SuccessRateMargin > 0 }

// compare ejects those whose rate of success within the interval is lower than
// that of all others together, the worst first.
func (t *Table) compare(now time.Duration, s *Ejection) {
	if !s.compares() || !t.watching(now) || now-t.sampled < t.interval/samples {
		return
	}
	t.sample(now)
	type one struct {
		*Endpoint
		count
	}
	var worse []one
	var sum count
	for _, e := range t.endpoints {
		if e.users > 0 && !e.ejection.out {
			c := e.ejection.counts[len(e.ejection.counts)-1].minus(e.ejection.counts[0])
			sum = sum.plus(c)
			if c.failed > 0 {
				worse = append(worse, one{e, c})
			}
		}
	}
	slices.SortFunc(worse, func(a, b one) int {
		return cmp.Or(cmp.Compare(a.rate(), b.rate()), cmp.Compare(a.Address, b.Address))
	})
	volume := uint64(s.RequestVolume)
	for _, e := range worse {
		others := sum.minus(e.count)
		if e.calls < volume || others.calls < volume || others.rate()-e.rate() < s.SuccessRateMargin {
			continue
		}
		if t.eject(e.Endpoint, SuccessRate, now, s); e.ejection.out {
			sum = others
		}
	}
}
