package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/identity/intention"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// intentionsWatch is a loop of blocking queries for intentions, paced as those for instances.
type intentionsWatch struct {
	*watch
	had bool // the last answer had intentions

	fallback   intention.Action // the agent's default, as last read; "" is never
	unreadable episode          // of the default
}

func newIntentionsWatch(d *Directory, destination string) *intentionsWatch {
	return &intentionsWatch{watch: newWatch(d, catalog.Query{Service: destination}), unreadable: episode{
		log:    d.log.With("service", destination),
		begins: "the token may not read the agent's default of intentions: it stays as last read, or is deny",
		ends:   "the agent's default of intentions is read again",
	}}
}

func (w *intentionsWatch) run(ctx context.Context, report func(intention.Set, error)) {
	for w.limiter.Wait(ctx) == nil {
		set, a, err := w.next(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errTakeTurns):
			continue
		}
		report(set, err)
		pause(ctx, w.pace(a, err))
	}
}

// next waits for a connection of the pool, and for an answer.
func (w *intentionsWatch) next(ctx context.Context) (intention.Set, answer, error) {
	bounded, wait, release, err := w.directory.pool.acquire(ctx, w.directory.wait)
	if err != nil {
		return intention.Set{}, answer{}, err
	}
	defer release()
	sentAt := time.Now()
	list, index, err := w.match(bounded, &api.QueryOptions{WaitIndex: w.index, WaitTime: wait})
	if err != nil {
		return intention.Set{}, answer{}, err
	}
	a := answer{Snapshot: catalog.Snapshot{Index: index}, early: time.Since(sentAt) < wait, regressed: max(index, 1) < w.index}
	if a.regressed || w.had && len(list) == 0 {
		w.limiter.Reserve()
		if list, a.Index, err = w.match(ctx, &api.QueryOptions{RequireConsistent: true}); err != nil {
			return intention.Set{}, answer{}, err
		}
		a.confirmed, a.early = true, true
	}
	w.had = len(list) > 0
	set, err := w.complete(ctx, list)
	return set, a, err
}

// match sends one query.
func (w *intentionsWatch) match(ctx context.Context, options *api.QueryOptions) ([]intention.Intention, uint64, error) {
	bounded, cancel := context.WithTimeout(ctx, options.WaitTime+options.WaitTime/16+requestTimeout)
	defer cancel()
	var answered map[string]json.RawMessage
	// consul/api would ignore what it does not know, such as a further condition.
	decoded := decoding(bounded, func(body io.Reader) error {
		if err := json.NewDecoder(body).Decode(&answered); err != nil {
			return unreadable(err)
		}
		return nil
	})
	_, meta, err := w.directory.api.Connect().IntentionMatch(
		&api.IntentionMatch{By: api.IntentionMatchDestination, Names: []string{w.query.Service}}, options.WithContext(decoded))
	switch {
	case err != nil && errors.Is(context.Cause(ctx), errTakeTurns):
		return nil, 0, errTakeTurns
	case err != nil:
		return nil, 0, w.directory.explain(err, fmt.Sprintf("intentions:read on %q", w.query.Service))
	}
	list, ok := answered[w.query.Service]
	if !ok {
		return nil, 0, fmt.Errorf("%s answered without the intentions of %q: is that a Consul agent? set CONSUL_HTTP_ADDR", w.directory.Name(), w.query.Service)
	}
	read, err := intention.Parse(list)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", w.directory.Name(), err)
	}
	return read, meta.LastIndex, nil
}

// complete adds what is not in the list of intentions. Both change with a restart of the
// agent, which ends the blocking query.
func (w *intentionsWatch) complete(ctx context.Context, list []intention.Intention) (intention.Set, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	set := intention.Set{Intentions: list}
	var err error
	switch set.Default, err = w.directory.defaultIntention(ctx); {
	case errors.Is(err, errDefaultUnreadable):
		set.Default, set.DefaultReason = intention.Deny, err.Error()
		if w.fallback != "" {
			set.Default = w.fallback
			set.DefaultReason += ": as last read"
		}
	case err != nil:
		return intention.Set{}, err
	default:
		w.fallback = set.Default
	}
	w.unreadable.set(err)
	var roots struct{ TrustDomain string }
	if err := w.directory.get(ctx, "/v1/connect/ca/roots", &roots); err != nil {
		return intention.Set{}, w.directory.explain(err, "no permission at all, so check what is between")
	}
	if roots.TrustDomain == "" {
		return intention.Set{}, fmt.Errorf("%s has no trust domain: turn Connect on, by connect { enabled = true }", w.directory.Name())
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
	switch status := statusOf(err); {
	case status == http.StatusForbidden || status == http.StatusUnauthorized:
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
