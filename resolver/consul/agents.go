package consul

import (
	"net/http"
	"sync"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// maxAgents caps the other agents that are remembered. Beyond it each [Directory.At]
// makes a directory of its own.
const maxAgents = 64

// agents are the directories of other agents than the configured one, so that all
// who ask one of them share its connections and statistics.
type agents struct {
	mu    sync.Mutex
	known map[string]*Directory
}

func (a *agents) all() []*Directory {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []*Directory
	for _, d := range a.known {
		all = append(all, d)
	}
	return all
}

// At is the directory of another agent, "host:port", which is asked in the same
// way and over the same transport. Asked for its own agent it is d itself, so that
// two crowds do not fight over the connections to one.
func (d *Directory) At(agent string) (catalog.Watcher, error) {
	if agent == d.address {
		return d, nil
	}
	d.agents.mu.Lock()
	defer d.agents.mu.Unlock()
	if known := d.agents.known[agent]; known != nil {
		return known, nil
	}
	other, err := d.at(agent)
	if err == nil && len(d.agents.known) < maxAgents {
		d.agents.known[agent] = other
	}
	return other, err
}

func (d *Directory) at(agent string) (*Directory, error) {
	other := *d
	settings := d.settings
	settings.Address, settings.PathPrefix = agent, ""
	settings.HttpClient = &http.Client{Transport: d.base}
	if d.socket {
		settings.HttpClient = nil // it dials the socket, whatever it is asked for
	}
	if err := other.connect(settings); err != nil {
		return nil, err
	}
	return &other, nil
}
