package balancer_test

import (
	"encoding/json"
	"fmt"

	"github.com/meshlite-go/meshlite/balancer"
)

// first is a policy that sends every call to the first endpoint.
type first []balancer.Ready

func (f first) Choose() *balancer.Ready { return &f[0] }

func init() {
	balancer.Register(balancer.Policy[struct{}]{
		Name:  "meshlite_first",
		Parse: func(json.RawMessage) (struct{}, error) { return struct{}{}, nil },
		New:   func(_ struct{}, view balancer.View) balancer.Chooser { return first(view.Ready) },
	})
}

// A policy of one's own is a parser of its config and a choice among what is in rotation.
func Example() {
	fmt.Println(balancer.PolicyName("first"))
	// Output: meshlite_first <nil>
}
