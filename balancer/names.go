package balancer

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/balancer"
)

const (
	ours   = "meshlite_" // before the names of our policies, so that gRPC's own keep theirs
	theirs = "grpc:"     // before the names of others in a target
)

// registered are the policies of this module that the program has imported. Only
// Register, which runs in init functions, changes it.
var registered []string

// experimental is what gRPC writes behind the names of policies that are not of the
// first ones: "ring_hash_experimental".
const experimental = "_experimental"

// PolicyName turns a policy as people write it into its name in a service
// config: "round_robin" into "meshlite_round_robin", "grpc:ring_hash" into
// "ring_hash_experimental". A policy that is not registered is an error that lists
// those that are.
func PolicyName(policy string) (string, error) {
	if name, foreign := strings.CutPrefix(policy, theirs); foreign {
		if balancer.Get(name) == nil && balancer.Get(name+experimental) != nil {
			name += experimental
		}
		if balancer.Get(name) == nil {
			return "", fmt.Errorf("policy %q: gRPC has no policy %q: import the package that registers it", policy, name)
		}
		return name, nil
	}
	name := ours + strings.TrimPrefix(policy, ours)
	if !slices.Contains(registered, name) {
		var known []string
		for _, r := range registered {
			known = append(known, strings.TrimPrefix(r, ours))
		}
		slices.Sort(known)
		return "", fmt.Errorf("policy %q is not known: write %s, or grpc:NAME for one that is registered with gRPC", policy, strings.Join(known, ", "))
	}
	return name, nil
}
