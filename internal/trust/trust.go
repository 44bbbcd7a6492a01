// Package trust is the flag of the programs of the shop that says whose claims they use, and to
// whom they explain calls.
package trust

import (
	"fmt"
	"net/netip"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/caller"
)

// Flag and Usage are the name of the flag and its help.
const (
	Flag  = "trust"
	Usage = "trust callers in this `network`, such as 127.0.0.0/8: explain calls to them, and use what they say of caches, priorities and addresses"
)

// Runtime is the option of channels and servers that trust a network. "" trusts nobody.
func Runtime(network string) (meshlite.Option, error) {
	if network == "" {
		return meshlite.Options{}, nil
	}
	prefix, err := netip.ParsePrefix(network)
	if err != nil {
		return nil, fmt.Errorf("--%s %q: write a network such as 127.0.0.0/8", Flag, network)
	}
	callers, err := caller.New(caller.WithTrustedPrefixes(prefix))
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", Flag, err)
	}
	runtime, err := meshlite.NewRuntime(meshlite.RuntimeConfig{Callers: callers})
	if err != nil {
		return nil, err
	}
	return meshlite.WithRuntime(runtime), nil
}
