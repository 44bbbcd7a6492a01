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
	pprof    bool
	parts    []part
	actions  []action
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

// WithHealth sets what /healthz asks: it is healthy when the error is nil. The
// text of the error is shown, so it must hold no secret. Default: always healthy.
func WithHealth(health func() error) Option {
	return func(c *config) { c.health = health }
}

// WithPprof adds /debug/pprof/. Profiles tell much of a process and cost it time:
// ask for it on loopback only.
func WithPprof() Option {
	return func(c *config) { c.pprof = true }
}

// WithStats adds what a part says of itself to /debug/meshlite, under a name of its
// own. stats is called for each request, must be safe for concurrent use and give
// what can be written as JSON.
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
	return c.checkActions()
}
