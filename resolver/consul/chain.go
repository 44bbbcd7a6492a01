package consul

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/route"
)

// newChainWatch is a watch of the chain of service that is compiled for datacenter.
func newChainWatch(d *Directory, service, datacenter string) *entryWatch[compiled] {
	w := newEntryWatch[compiled](d, service)
	w.slots = &chainSlots{Directory: d, service: service}
	logged := false
	w.read = func(ctx context.Context, options *api.QueryOptions) (compiled, bool, uint64, error) {
		read, err := d.readChain(ctx, service, datacenter, options)
		if none := withoutChains(err); none != "" && !w.had {
			if !logged {
				d.log.Warn("calls go to all instances of the service: its discovery chain cannot be read", "service", service, "reason", none, "error", d.explainChain(err, service))
			}
			logged = true
			return compiled{unreadable: &route.UnreadableError{Service: service, Reason: none}}, true, 0, nil
		}
		if err != nil {
			return compiled{}, false, 0, d.explainChain(err, service)
		}
		return read, read.plain(), read.index, nil
	}
	return w
}

// compiled is an answer: a chain, or why it is refused, or plain discovery.
type compiled struct {
	chain   *route.Chain
	refused error
	index   uint64
	// unreadable is why nothing is known; nil if something is.
	unreadable *route.UnreadableError
}

func (c compiled) plain() bool { return c.chain == nil && c.refused == nil }

// readChain sends one query.
func (c *client) readChain(ctx context.Context, service, datacenter string, options *api.QueryOptions) (compiled, error) {
	var body json.RawMessage
	// consul/api drops fields that it does not have, such as the headers that a split sets.
	decoded := decodingInto(ctx, &body)
	compile := &api.DiscoveryChainOptions{EvaluateInDatacenter: datacenter}
	_, meta, err := c.api.DiscoveryChain().Get(service, compile, options.WithContext(decoded))
	if err != nil {
		return compiled{}, err
	}
	read := compiled{index: meta.LastIndex}
	read.chain, read.refused, err = decodeChain(body, read.index)
	return read, err
}

// withoutChains is why the agent has no chain to show, "" for another error.
func withoutChains(err error) string {
	switch status := statusOf(err); {
	case isDenied(err):
		return "the token may not read it"
	case status == http.StatusNotFound:
		return "the agent has no discovery chains"
	case status != 0 && strings.Contains(err.Error(), "Connect must be enabled"):
		return "Connect is not enabled"
	}
	return ""
}

func (c *client) explainChain(err error, service string) error {
	if withoutChains(err) == "Connect is not enabled" {
		return fmt.Errorf("%s has no discovery chains: turn Connect on, by connect { enabled = true }", c.name())
	}
	return c.explain(err, fmt.Sprintf("service:read on %q", service))
}
