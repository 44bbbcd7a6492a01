package consul

import (
	"context"
	"errors"
	"time"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// Agent is what an agent says of itself.
type Agent struct {
	Version     string        `json:"version"`
	Node        string        `json:"node"`
	NodeAddress string        `json:"node_address"`
	Datacenter  string        `json:"datacenter"`
	ACLs        bool          `json:"acls"`   // whether it enforces access control
	Leader      string        `json:"leader"` // empty: there is none, so nothing can be written
	Clock       time.Duration `json:"clock"`  // how far its clock is ahead of ours, to about a second
}

// Check is one health check of an instance.
type Check struct {
	Name   string         `json:"name"`
	Status catalog.Status `json:"status"`
	Output string         `json:"output"` // one line of what the check said
}

// Entry is an instance as it is registered, callable or not.
type Entry struct {
	catalog.Instance
	Checks []Check
}

// Service is a name that is registered, and the state of its instances.
type Service struct {
	Name                       string   `json:"name"`
	Tags                       []string `json:"tags"` // of all instances, sorted
	Passing, Warning, Critical int
}

// Agent asks the agent about itself.
func (d *Directory) Agent(ctx context.Context) (Agent, error) {
	return Agent{}, errors.New("to be written")
}

// CheckToken says whether the agent takes the token of this directory: nil also
// where there is no access control.
func (d *Directory) CheckToken(ctx context.Context) error { return errors.New("to be written") }

// Services lists what is registered in a datacenter, sorted by name; empty is the
// agent's own.
func (d *Directory) Services(ctx context.Context, datacenter string) ([]Service, error) {
	return nil, errors.New("to be written")
}

// Entries lists all instances that q asks for, whatever their status, sorted by
// address and id. Those without an address are among them.
func (d *Directory) Entries(ctx context.Context, q catalog.Query) ([]Entry, error) {
	return nil, errors.New("to be written")
}
