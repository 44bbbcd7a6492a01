package meshlite

import (
	"errors"
	"fmt"
	"slices"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// registrations are what the admin page shows of a server.
type registrations struct {
	Names     []string              `json:"names"`                // all that are to be registered
	Kept      []consul.Registration `json:"kept"`                 // those that are
	LastError string                `json:"last_error,omitempty"` // of those that are not yet
}

// publish makes the leases visible to the admin page.
func (r *run) publish() {
	leases := slices.Clone(r.leases)
	r.published.Store(&leases)
}

// registrations reads the state of each lease whose directory says so.
func (r *run) registrations() registrations {
	page := registrations{Names: r.config.names, Kept: []consul.Registration{}}
	leases := r.registered()
	for _, lease := range leases {
		if kept, ok := lease.(interface{ Registration() consul.Registration }); ok {
			page.Kept = append(page.Kept, kept.Registration())
		}
	}
	if err := r.startError.Load(); err != nil && len(leases) < len(r.config.names) {
		page.LastError = (*err).Error()
	}
	return page
}

func (r *run) registered() []catalog.Lease {
	if leases := r.published.Load(); leases != nil {
		return *leases
	}
	return nil
}

// ready is the answer of /readyz: the server serves, and its names are registered. An
// outage of Consul later on changes nothing: clients go on with the list that they have.
func (r *run) ready() error {
	err := r.healthy()
	if n := len(r.registered()); n < len(r.config.names) {
		err = errors.Join(err, fmt.Errorf("%d of %d names are registered", n, len(r.config.names)))
	}
	return err
}
