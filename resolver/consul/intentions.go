package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/identity/intention"
)

func newIntentionsWatch(d *Directory, destination string) *entryWatch[intention.Set] {
	w := newEntryWatch[intention.Set](d, destination)
	w.read = func(ctx context.Context, options *api.QueryOptions) (intention.Set, bool, uint64, error) {
		list, index, err := d.matchIntentions(ctx, destination, options)
		return intention.Set{Intentions: list}, len(list) == 0, index, err
	}
	w.complete = newDefaults(d, destination).complete
	return w
}

// defaults adds to intentions what is not in their list.
type defaults struct {
	*client
	last       intention.Action // the agent's default, as last read; "" is never
	unreadable episode          // of the default
}

func newDefaults(d *Directory, destination string) *defaults {
	return &defaults{client: d.client, unreadable: episode{
		log:    d.log.With("service", destination),
		begins: "the token may not read the agent's default of intentions: it stays as last read, or is deny",
		ends:   "the agent's default of intentions is read again",
	}}
}

// matchIntentions sends one query.
func (c *client) matchIntentions(ctx context.Context, destination string, options *api.QueryOptions) ([]intention.Intention, uint64, error) {
	var answered map[string]json.RawMessage
	// consul/api would ignore fields that it does not have, such as a further condition.
	decoded := decodingInto(ctx, &answered)
	_, meta, err := c.api.Connect().IntentionMatch(
		&api.IntentionMatch{By: api.IntentionMatchDestination, Names: []string{destination}}, options.WithContext(decoded))
	if err != nil {
		return nil, 0, c.explain(err, fmt.Sprintf("intentions:read on %q", destination))
	}
	list, ok := answered[destination]
	if !ok {
		return nil, 0, fmt.Errorf("%s answered without the intentions of %q: is that a Consul agent? set CONSUL_HTTP_ADDR", c.name(), destination)
	}
	read, err := intention.Parse(list)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", c.name(), err)
	}
	return read, meta.LastIndex, nil
}

// complete adds the default and the trust domain. Both change with a restart of the agent, which
// ends the blocking query.
func (c *defaults) complete(ctx context.Context, set intention.Set) (intention.Set, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var err error
	switch set.Default, err = c.defaultIntention(ctx); {
	case errors.Is(err, errDefaultUnreadable):
		set.Default, set.DefaultReason = intention.Deny, err.Error()
		if c.last != "" {
			set.Default = c.last
			set.DefaultReason += ": as last read"
		}
	case err != nil:
		return intention.Set{}, err
	default:
		c.last = set.Default
	}
	c.unreadable.set(err)
	var roots struct{ TrustDomain string }
	if err := c.get(ctx, "/v1/connect/ca/roots", &roots); err != nil {
		return intention.Set{}, c.explain(err, "no permission at all, so check what is between")
	}
	if roots.TrustDomain == "" {
		return intention.Set{}, fmt.Errorf("%s has no trust domain: turn Connect on, by connect { enabled = true }", c.name())
	}
	set.TrustDomain = roots.TrustDomain
	return set, nil
}

var errDefaultUnreadable = errors.New("the token may not read the agent's default: it needs agent:read")

// defaultIntention is what decides where no intention does, as the agent has it for its
// proxies: default_intention_policy, or else the default policy of ACLs.
func (c *client) defaultIntention(ctx context.Context) (intention.Action, error) {
	var self struct {
		DebugConfig struct {
			DefaultIntentionPolicy string
			ACLResolverSettings    struct{ ACLDefaultPolicy string }
		}
	}
	err := c.get(ctx, "/v1/agent/self", &self)
	switch {
	case isDenied(err):
		return "", errDefaultUnreadable
	case err != nil:
		return "", c.explain(err, "agent:read")
	}
	policy := self.DebugConfig.DefaultIntentionPolicy
	if policy == "" {
		policy = self.DebugConfig.ACLResolverSettings.ACLDefaultPolicy
	}
	if policy == "allow" {
		return intention.Allow, nil
	}
	return intention.Deny, nil
}
