package consul

import (
	"fmt"
	"time"
)

// Registration is the state of one that is kept.
type Registration struct {
	Service     string    `json:"service"`
	ID          string    `json:"id"`
	Address     string    `json:"address"`
	Agent       string    `json:"agent"`
	Check       string    `json:"check"`      // what Consul does to find out about the health
	Registered  bool      `json:"registered"` // the agent has it, as of the last look
	Since       time.Time `json:"since"`      // when it was registered
	Confirmed   time.Time `json:"confirmed"`  // when the agent has last had it
	LastError   string    `json:"last_error"` // of a look, or of registering again; "" is none so far
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
}

// Registration is the state of the lease. It is zero but for what was registered once
// the lease was given back. It is safe for concurrent use.
func (l *lease) Registration() Registration {
	c := l.directory.counters.services.of(l.registration.Service, l)
	r := Registration{
		Service: l.registration.Service, ID: l.registration.ID, Address: l.registration.Address,
		Agent: l.directory.address, Check: l.checked(),
		Registered: c.has, Since: c.since, Confirmed: c.at, LastErrorAt: c.errAt,
	}
	if c.err != nil {
		r.LastError = c.err.Error()
	}
	return r
}

// checked says how Consul finds out about the health.
func (l *lease) checked() string {
	check := l.service.Check
	switch {
	case check.TTL != "":
		return "TTL of " + check.TTL
	case check.GRPCUseTLS:
		return fmt.Sprintf("gRPC health of %s over TLS every %s", check.GRPC, check.Interval)
	default:
		return fmt.Sprintf("gRPC health of %s every %s", check.GRPC, check.Interval)
	}
}
