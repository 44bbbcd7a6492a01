package identity

import (
	"cmp"
	"time"
)

// Stats describes the identity of a process and what it has refused.
type Stats struct {
	Service    string      `json:"service"`              // of this process, the whole id in other forms than Consul's; "" before the first certificate, unless the source names it
	ID         string      `json:"id"`                   // "" before the first certificate
	ValidFrom  time.Time   `json:"valid_from,omitzero"`  // the begin of the leaf
	ValidUntil time.Time   `json:"valid_until,omitzero"` // the end of the leaf
	Roots      int         `json:"roots"`
	Error      string      `json:"error,omitempty"` // why there is no certificate, or none that is used
	Source     SourceStats `json:"source"`

	Connections int               `json:"connections"` // secured and open now
	Clients     uint64            `json:"clients"`     // handshakes as a client that succeeded
	Servers     uint64            `json:"servers"`     // and as a server
	Refused     map[Reason]uint64 `json:"refused"`     // handshakes that failed
	Replaced    uint64            `json:"replaced"`    // connections that a client replaced in time
	Cut         uint64            `json:"cut"`         // connections closed at the end of a certificate

	Plaintext PlaintextStats `json:"plaintext"` // of a permissive server
}

// SourceStats counts what a [Source] has published. It is that of sources with a method
// SourceStats, as [Feed] and [PEMFiles] have it.
type SourceStats struct {
	Published uint64 `json:"published"` // certificates or roots that were other ones than before
	Failed    uint64 `json:"failed"`    // attempts to get them
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
		stats.ID, stats.Roots = s.id.String(), len(s.roots)
		stats.Service = cmp.Or(s.id.Service, stats.ID)
		stats.ValidFrom, stats.ValidUntil = s.Leaf().NotBefore, s.Leaf().NotAfter
	} else if named, ok := c.source.(interface{ Service() string }); ok {
		stats.Service = named.Service()
	}
	if counting, ok := c.source.(interface{ SourceStats() SourceStats }); ok {
		stats.Source = counting.SourceStats()
	}
	return stats
}
