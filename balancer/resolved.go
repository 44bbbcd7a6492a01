package balancer

import (
	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/experimental/balancer/weight"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/ringhash"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

type instanceKey struct{}

// held wraps an instance so that attributes can compare it: pick_first and gRPC
// ask whether an endpoint has changed.
type held struct{ *catalog.Instance }

// Equal reports whether both are the same instance as of one snapshot.
func (h held) Equal(other any) bool {
	o, ok := other.(held)
	return ok && h.Instance == o.Instance
}

// NewEndpoint is what gRPC is told of an instance: one address, and the rest as
// attributes of the endpoint. Attributes of the address would make gRPC reconnect
// whenever a tag changes. The weight is also where gRPC's own policies look for it,
// and so is the key by which ring_hash places the instance, wherever it listens.
// serverName is what the instance must prove to be under TLS; empty is the channel's
// authority.
func NewEndpoint(instance *catalog.Instance, serverName string) resolver.Endpoint {
	endpoint := resolver.Endpoint{
		Addresses:  []resolver.Address{{Addr: instance.Address, ServerName: serverName}},
		Attributes: attributes.New(instanceKey{}, held{instance}),
	}
	endpoint = ringhash.SetHashKey(endpoint, instance.Node+"/"+instance.ID)
	return weight.Set(endpoint, weight.EndpointInfo{Weight: instance.Weight})
}

// InstanceOf is the instance behind endpoint, or nil when another resolver than
// ours has made it.
func InstanceOf(endpoint resolver.Endpoint) *catalog.Instance {
	h, _ := endpoint.Attributes.Value(instanceKey{}).(held)
	return h.Instance
}

// weightOf is at least 1: resolvers that know no weight leave it out.
func weightOf(endpoint resolver.Endpoint) uint32 {
	return max(weight.FromEndpoint(endpoint).Weight, 1)
}
