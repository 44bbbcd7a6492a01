package balancer

import "github.com/meshlite-go/meshlite/resolver/catalog"

// Picks is how the calls to one target are picked: which endpoints its channels have,
// and what is learned of them. Latencies are in milliseconds, parts of a whole go from
// 0 to 1. The channels of a policy that is not of this module learn nothing and have no
// endpoints here.
type Picks struct {
	Directory string          `json:"directory"` // the name of the one asked
	Service   string          `json:"service"`
	Queries   []catalog.Query `json:"queries"`  // one for each datacenter, in the order of failover
	Channels  int             `json:"channels"` // that share what is learned
	TableStats
}
