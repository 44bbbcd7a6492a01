package balancer_test

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/meshlite-go/meshlite/balancer"
)

// first is a policy that sends every call to the first endpoint.
type first []balancer.Candidate

func (f first) Pick(time.Duration) *balancer.Candidate { return &f[0] }

func init() {
	balancer.Register(balancer.Policy[struct{}]{
		Name:  "meshlite_first",
		Parse: func(json.RawMessage) (struct{}, error) { return struct{}{}, nil },
		New:   func(_ struct{}, view balancer.View) balancer.Picker { return first(view.Candidates) },
	})
}

// A custom policy is a parser of its config and a picker over the endpoints in rotation.
func Example() {
	fmt.Println(balancer.PolicyName("first"))
	// Output: meshlite_first <nil>
}
