package metrics

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// registration registers collectors until one is refused.
type registration struct {
	registerer prometheus.Registerer
	added      []prometheus.Collector
	err        error
}

// register adds c, or gives the equal collector that is there already.
func register[C prometheus.Collector](r *registration, name string, c C) C {
	if r.err != nil {
		return c
	}
	err := r.registerer.Register(c)
	if err == nil {
		r.added = append(r.added, c)
		return c
	}
	var already prometheus.AlreadyRegisteredError
	if errors.As(err, &already) {
		if existing, ok := already.ExistingCollector.(C); ok {
			return existing
		}
		err = fmt.Errorf("a %T of that name is registered", already.ExistingCollector)
	}
	r.err = fmt.Errorf("metrics: %s: %w: give WithRegisterer another registerer, or remove the other collector", name, err)
	return c
}

// undo takes back what was added before the refusal.
func (r *registration) undo() {
	for _, c := range r.added {
		r.registerer.Unregister(c)
	}
}
