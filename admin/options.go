package admin

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Option changes what [New] makes.
type Option func(*config)

type config struct {
	gatherer prometheus.Gatherer
	health   func() error
	ready    *func() error   // nil: health
	hosts    map[string]bool // names by which the pages may be called
	pprof    bool
	parts    []part
	actions  []action
	access   access
}

type part struct {
	name  string
	stats func() any
}

// WithGatherer sets whose metrics /metrics shows. Default:
// [prometheus.DefaultGatherer].
func WithGatherer(gatherer prometheus.Gatherer) Option {
	return func(c *config) { c.gatherer = gatherer }
}

// WithHealth sets the check of /healthz: whether the process is alive, or should be
// restarted. Nil is healthy. The text of the error is shown, so it must hold no secret.
// Default: always healthy.
func WithHealth(health func() error) Option {
	return func(c *config) { c.health = health }
}

// WithReadiness sets the check of /readyz: whether the process can be called now, which a
// restart would not change. The error is as that of [WithHealth]. Default: the check of
// /healthz.
func WithReadiness(ready func() error) Option {
	return func(c *config) { c.ready = &ready }
}

func (c *config) readiness() func() error {
	if c.ready == nil {
		return c.health
	}
	return *c.ready
}

// WithHosts adds names by which all pages may be called, beside IP addresses and
// localhost: those of this machine, or of a proxy before it, without ports.
func WithHosts(names ...string) Option {
	return func(c *config) {
		for _, name := range names {
			c.hosts[hostKey(name)] = true
		}
	}
}

// WithPprof adds /debug/pprof/. Profiles reveal much of a process and cost it time.
func WithPprof() Option {
	return func(c *config) { c.pprof = true }
}

// WithStats adds the statistics of a part to /debug/meshlite, under a unique name. stats is
// called for each request, must be safe for concurrent use and return a value that can be
// written as JSON.
func WithStats(name string, stats func() any) Option {
	return func(c *config) { c.parts = append(c.parts, part{name, stats}) }
}

func (c *config) check() error {
	if c.gatherer == nil {
		return errors.New("admin: WithGatherer(nil): give a prometheus.Gatherer, such as prometheus.NewRegistry()")
	}
	if c.health == nil {
		return errors.New("admin: WithHealth(nil): leave the option out to be always healthy")
	}
	if c.ready != nil && *c.ready == nil {
		return errors.New("admin: WithReadiness(nil): leave the option out to be ready while healthy")
	}
	if c.hosts[""] {
		return errors.New(`admin: WithHosts(""): give names, such as "web-1.example.com"`)
	}
	names := map[string]bool{}
	for _, p := range c.parts {
		switch {
		case p.name == "":
			return errors.New(`admin: WithStats(""): give the part a name`)
		case p.stats == nil:
			return fmt.Errorf("admin: WithStats(%q, nil): leave the option out", p.name)
		case names[p.name]:
			return fmt.Errorf("admin: WithStats(%q) is given twice: give each part a name of its own", p.name)
		}
		names[p.name] = true
	}
	if err := c.access.check(); err != nil {
		return err
	}
	return checkActions(c.actions)
}
