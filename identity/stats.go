package identity

import "time"

// Stats describes the identity of a process and what it has refused.
type Stats struct {
	ID         string    `json:"id"`                   // "" before the first certificate
	ValidUntil time.Time `json:"valid_until,omitzero"` // the end of the leaf
	Roots      int       `json:"roots"`
	Error      string    `json:"error,omitempty"` // why there is no certificate, or none that is used

	Connections int               `json:"connections"` // secured and open now
	Clients     uint64            `json:"clients"`     // handshakes as a client that succeeded
	Servers     uint64            `json:"servers"`     // and as a server
	Refused     map[Reason]uint64 `json:"refused"`     // handshakes that failed
	Replaced    uint64            `json:"replaced"`    // connections that a client replaced in time
	Cut         uint64            `json:"cut"`         // connections closed at the end of a certificate

	Plaintext PlaintextStats `json:"plaintext"` // of a permissive server
}

// PlaintextStats counts the callers that [WithPermissive] has let in.
type PlaintextStats struct {
	Open        int               `json:"open"`        // connections, now
	Connections uint64            `json:"connections"` // since the start
	Callers     []PlaintextCaller `json:"callers"`     // up to 256 addresses, the latest first
}

// Stats returns the stats of all clones together.
func (c *Credentials) Stats() Stats {
	stats := Stats{
		Connections: c.conns.size(), Clients: c.clients.Load(), Servers: c.servers.Load(), Refused: c.refusals.byReason(),
		Replaced: c.conns.replaced.Load(), Cut: c.conns.cut.Load(), Plaintext: c.plaintext.stats(),
	}
	if err := c.Ready(); err != nil {
		stats.Error = err.Error()
	}
	if s, err := c.source.Current(); err == nil {
		stats.ID, stats.ValidUntil, stats.Roots = s.id.String(), s.Leaf().NotAfter, len(s.roots)
	}
	return stats
}
