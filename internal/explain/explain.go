// Package explain defines what the admin page of a client reports about one call without making
// it: where it would go, by which policy, and why. Programs write its JSON, and the meshlite tool
// reads it and shows it as a tree.
package explain

import (
	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/interceptors/mirror"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/interceptors/retry"
)

// Action is the name of the action that explains a call.
const Action = "explain"

// The values of the action. Metadata repeats, as "key:value"; Data is the request as JSON.
const (
	Target   = "target"
	Method   = "method"
	Metadata = "metadata"
	Data     = "data"
)

// The bounds of its values, in bytes but for MaxMetadata, which is how many there may be.
const (
	MaxMethod        = 1024
	MaxMetadata      = 64
	MaxMetadataBytes = 8 << 10 // of all together
	MaxData          = 32 << 10
)

// Explanation is what would happen to one call. Durations are in milliseconds. Odds and parts go
// from 0 to 1, shares and weights of arms are percent.
type Explanation struct {
	Client   string   `json:"client"`   // the address of its admin page; "" is the tool's own channel
	Target   string   `json:"target"`   // of the channel
	Channels int      `json:"channels"` // of the client to that target; the one with connections is explained
	Method   string   `json:"method"`   // "package.Service/Method"
	Contract Contract `json:"contract"`
	// Notes are what the explanation lacks, and why.
	Notes []string `json:"notes"`
	// Policy are the fields of the method's policy, each with what has set it.
	Policy []interceptors.PolicyField `json:"policy"`
	// Timeout is that of the policy on the client; 0 is none. Route and caller may have one, too: the
	// shortest applies.
	Timeout float64    `json:"timeout_ms"`
	Retry   retry.Plan `json:"retry"`
	// Mirror is what is copied of such calls, nil without a rule.
	Mirror *mirror.Plan `json:"mirror"`
	// Cache has one element for each destination that the call may go to.
	Cache   []cache.Standing       `json:"cache"`
	Limits  []ratelimit.LimitState `json:"limits"`
	Routing routes.Explanation     `json:"routing"`
	// Identity is nil where the channel has no certificates of a mesh.
	Identity *Identity `json:"identity"`
	// Intentions decide on the servers, one for each service that the call may go to. The tool adds
	// them, from its agent.
	Intentions []Intention `json:"intentions"`
}

// Identity is that of the client, and those that servers must prove.
type Identity struct {
	Service string   `json:"service"` // of the client; "" before its first certificate
	ID      string   `json:"id"`
	Error   string   `json:"error,omitempty"` // why there is no certificate that is used
	Servers []Server `json:"servers"`
}

// Server is the identity that the servers of a service must prove.
type Server struct {
	Service string `json:"service"`
	ID      string `json:"id"`
	Error   string `json:"error,omitempty"` // why none can be called
}

// Intention is what decides about the call on the servers of a service.
type Intention struct {
	Destination string `json:"destination"`
	Allowed     bool   `json:"allowed"`
	Rule        string `json:"rule"`
	Reason      string `json:"reason,omitempty"`
	Error       string `json:"error,omitempty"` // why it is not known: the agent does not let it be read
}

// Contract is what the client knows of the method.
type Contract struct {
	Known     bool   `json:"known"`
	Kind      string `json:"kind,omitempty"` // "unary", "server stream", "client stream" or "stream of both"
	Cacheable bool   `json:"cacheable"`      // an answer may be served again
	Retryable bool   `json:"retryable"`      // a call may run twice
}
