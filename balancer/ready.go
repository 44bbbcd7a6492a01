package balancer

import (
	"google.golang.org/grpc/balancer"

	"github.com/meshlite-go/meshlite/balancer/attempt"
)

// Ready is an endpoint with a connection, as a policy chooses it. Policies keep it
// in their own slice and never change it.
type Ready struct {
	*Endpoint
	Weight uint32 // at least 1

	member *member
	child  balancer.Picker
}

// oneIn is how many attempts there are for each that is measured where the policy does
// not need them all: looking at the clock twice costs more than the pick. The first of
// an endpoint is one.
const oneIn = 16

// pick sends the attempt to r: it counts as in flight until gRPC says that it is
// done. It allocates nothing, but for streams. lease is that of a probe, or 0.
func (r *Ready) pick(info balancer.PickInfo, record *attempt.Record, measured bool, lease lease) (balancer.PickResult, error) {
	result, err := r.child.Pick(info)
	if err != nil {
		return result, err
	}
	n := r.picked.Add(1)
	stream := false
	if record != nil {
		record.Pick(&r.Endpoint.Instance)
		stream = record.Kind() == attempt.Stream
	}
	switch {
	case measured || stream || r.table.comparing.Load() || n%oneIn == 1 || lease != 0 || result.Done != nil:
		result.Done = measure(r, info.FullMethodName, record, lease, result.Done)
	case record != nil:
		result.Done = report(r, record)
	default:
		result.Done = r.member.done
	}
	return result, nil
}
