package consultest

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// Times of a Consul agent with its default configuration.
const (
	minInterval     = time.Second
	defaultTimeout  = 10 * time.Second
	reapInterval    = 30 * time.Second
	minReapAfter    = time.Minute
	outputSyncAfter = 5 * time.Minute
	maxOutput       = 4096
)

// check is a check of the agent and its image in the catalog.
type check struct {
	Check
	id, kind, interval, timeout string
	serviceID, serviceName      string
	serviceTags                 []string
	catalogOnly                 bool

	status        string
	output        string // as the agent knows it
	catalogOutput string // as the catalog does: Consul writes mere output back late
	create        uint64
	modify        uint64

	criticalSince      time.Time
	expire, reap, sync alarm
	stop               context.CancelFunc // of the probe
	failures, success  int                // in a row
}

// alarm is a timer whose callback Server.Close waits for. Guarded by Server.mu.
type alarm struct {
	timer *time.Timer
	set   int // which setting a late callback belongs to
}

// setAlarm runs ring after d, with s.mu held, unless cleared or set anew before.
func (s *Server) setAlarm(a *alarm, d time.Duration, ring func()) {
	s.clearAlarm(a)
	if s.closed {
		return
	}
	set := a.set
	s.work.Add(1)
	a.timer = time.AfterFunc(d, func() {
		defer s.work.Done()
		s.mu.Lock()
		defer s.mu.Unlock()
		if a.set == set && !s.closed {
			a.timer = nil
			ring()
		}
	})
}

func (s *Server) clearAlarm(a *alarm) {
	a.set++
	if a.timer != nil && a.timer.Stop() {
		s.work.Done()
	}
	a.timer = nil
}

// startCheck sets c going. Like all below but watch, it is called with s.mu held.
func (s *Server) startCheck(c *check) {
	if c.status == HealthCritical && c.criticalSince.IsZero() {
		c.criticalSince = time.Now()
	}
	s.armReaper(c)
	if c.TTL > 0 {
		s.setAlarm(&c.expire, c.TTL, func() { s.expired(c) })
	}
	if c.Interval == 0 || s.closed {
		return
	}
	c.success, c.failures = c.SuccessBeforePassing, c.FailuresBeforeCritical
	ctx, cancel := context.WithCancel(context.Background())
	c.stop = cancel
	s.work.Go(func() { s.watch(ctx, c) })
}

func (s *Server) stopCheck(c *check) {
	s.clearAlarm(&c.expire)
	s.clearAlarm(&c.reap)
	s.clearAlarm(&c.sync)
	if c.stop != nil {
		c.stop()
	}
}

func (s *Server) stopAllChecks() {
	for _, c := range s.st.checks {
		s.stopCheck(c)
	}
}

// renew stores what the owner of a TTL check says, and starts its time again.
func (s *Server) renew(c *check, status, output string) {
	if len(output) > maxOutput {
		output = fmt.Sprintf("%s ... (captured %d of %d bytes)", output[:maxOutput], maxOutput, len(output))
	}
	s.setStatus(c, status, output)
	if c.TTL > 0 {
		s.setAlarm(&c.expire, c.TTL, func() { s.expired(c) })
	}
}

func (s *Server) expired(c *check) {
	output := "TTL expired"
	if c.output != "" {
		output += " (last output before timeout follows): " + c.output
	}
	s.setStatus(c, HealthCritical, output)
}

// setStatus records a result. A change of state is written to the catalog at
// once; a change of output alone only after minutes, so that heartbeats do not
// wake everybody (Consul: check_update_interval).
func (s *Server) setStatus(c *check, status, output string) {
	if status == HealthCritical && c.criticalSince.IsZero() {
		c.criticalSince = time.Now()
	} else if status != HealthCritical {
		c.criticalSince = time.Time{}
	}
	same := c.status == status
	if same && c.output == output {
		return
	}
	c.status, c.output = status, output
	if !same {
		s.armReaper(c)
		s.syncCheck(c)
		return
	}
	if c.sync.timer == nil {
		s.setAlarm(&c.sync, outputSyncAfter/2+rand.N(outputSyncAfter), func() { s.syncCheck(c) })
	}
}

// syncCheck writes the agent's view of c to the catalog.
func (s *Server) syncCheck(c *check) {
	s.clearAlarm(&c.sync)
	idx := s.st.next()
	c.catalogOutput, c.modify = c.output, idx
	s.st.touchCheck(c, idx)
	s.st.wake()
}

// armReaper removes the service of a check that stays critical. Consul looks
// every 30 seconds; the alarm rings when that would be.
func (s *Server) armReaper(c *check) {
	s.clearAlarm(&c.reap)
	if c.DeregisterCriticalServiceAfter <= 0 || c.serviceID == "" || c.criticalSince.IsZero() {
		return
	}
	due := c.criticalSince.Add(max(c.DeregisterCriticalServiceAfter, minReapAfter))
	looks := due.Sub(s.started)/reapInterval + 1
	look := s.started.Add(looks * reapInterval)
	s.setAlarm(&c.reap, time.Until(look), func() { s.deregister(c.serviceID) })
}

// watch probes until ctx ends. The first probe comes after a random part of the
// interval, so that the checks of an agent do not run in step.
func (s *Server) watch(ctx context.Context, c *check) {
	interval := max(c.Interval, minInterval)
	timer := time.NewTimer(rand.N(interval))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		probe, cancel := context.WithTimeout(ctx, cmp.Or(c.Timeout, defaultTimeout))
		status, output := s.probe(probe, c.Check)
		cancel()
		s.mu.Lock()
		if ctx.Err() == nil {
			s.probed(c, status, output)
		}
		s.mu.Unlock()
		timer.Reset(interval)
	}
}

// probed counts results until enough of them agree. The counters start at their
// thresholds, so that the very first result counts.
func (s *Server) probed(c *check, status, output string) {
	if status == HealthPassing || status == HealthWarning {
		c.success, c.failures = c.success+1, 0
		if c.success >= c.SuccessBeforePassing {
			s.setStatus(c, status, output)
		}
		return
	}
	c.success, c.failures = 0, c.failures+1
	switch {
	case c.failures >= c.FailuresBeforeCritical:
		s.setStatus(c, HealthCritical, output)
	case c.failures >= cmp.Or(c.FailuresBeforeWarning, c.FailuresBeforeCritical):
		s.setStatus(c, HealthWarning, output)
	}
}

// sameCheck reports whether the catalog would see no difference.
func sameCheck(a, b *check) bool {
	return a.Name == b.Name && a.Notes == b.Notes && a.status == b.status && a.catalogOutput == b.catalogOutput &&
		a.kind == b.kind && a.interval == b.interval && a.timeout == b.timeout &&
		a.serviceID == b.serviceID && a.serviceName == b.serviceName
}
