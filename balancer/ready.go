package balancer

import (
	"google.golang.org/grpc/balancer"

	"github.com/meshlite-go/meshlite/balancer/attempt"
)

// Ready is an endpoint with a connection, as a picker chooses it. Pickers keep
// it in their own slice and never change it.
type Ready struct {
	*Endpoint
	Weight uint32 // at least 1

	child balancer.Picker
	done  func(balancer.DoneInfo) // made once, so that a pick allocates nothing
}

func newReady(e *Endpoint, weight uint32, child balancer.Picker) Ready {
	return Ready{
		Endpoint: e, Weight: weight, child: child,
		done: func(balancer.DoneInfo) { e.InFlight.Add(-1) },
	}
}

// Pick sends the attempt to r: it counts as in flight until gRPC says that it is
// done. It allocates nothing.
func (r *Ready) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	result, err := r.child.Pick(info)
	if err != nil {
		return result, err
	}
	r.InFlight.Add(1)
	if record := attempt.FromContext(info.Ctx); record != nil {
		record.Pick(&r.Endpoint.Instance)
	}
	if inner := result.Done; inner != nil {
		result.Done = func(d balancer.DoneInfo) { inner(d); r.done(d) }
	} else {
		result.Done = r.done
	}
	return result, nil
}
