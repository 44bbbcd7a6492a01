package balancer_test

import (
	"encoding/json"
	"fmt"

	grpcbalancer "google.golang.org/grpc/balancer"

	"github.com/meshlite-go/meshlite/balancer"
)

// first is a policy that sends every call to the first ready endpoint.
type first []balancer.Ready

func (f first) Pick(info grpcbalancer.PickInfo) (grpcbalancer.PickResult, error) {
	return f[0].Pick(info)
}

func init() {
	balancer.Register("meshlite_first",
		func(json.RawMessage) (struct{}, error) { return struct{}{}, nil },
		func(_ struct{}, ready []balancer.Ready) grpcbalancer.Picker { return first(ready) })
}

// A policy of one's own is a parser of its config and a picker over what is ready.
func Example() {
	fmt.Println(balancer.PolicyName("first"))
	// Output: meshlite_first <nil>
}
