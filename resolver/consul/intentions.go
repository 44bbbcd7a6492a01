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

// WatchIntentions reports the intentions about calls to destination, with the default of the
// agent and the trust domain of its CA, until ctx ends: every answer, even if nothing has
// changed, and the error of each attempt that fails. It needs a token with intentions:read on
// destination and agent:read; without the latter the default is taken to be deny.
//
// Intentions that are gone all at once, or of an older index, are read again, consistently,
// before they are reported. The watch shares the connections of [Directory.Watch].
func (d *Directory) WatchIntentions(ctx context.Context, destination string, report func(intention.Set, error)) {
	if err := checkName("destination", destination); err != nil {
		report(intention.Set{}, err)
		<-ctx.Done()
		return
	}
	d.pool.join()
	defer func() {
		if d.pool.leave() {
			d.Close()
		}
	}()
	w := &intentionsWatch{watch: newWatch(d, catalog.Query{Service: destination})}
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

// Intentions reads the intentions about calls to destination once.
func (d *Directory) Intentions(ctx context.Context, destination string) (intention.Set, error) {
	if err := checkName("destination", destination); err != nil {
		return intention.Set{}, err
	}
	w := &intentionsWatch{watch: newWatch(d, catalog.Query{Service: destination})}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	list, _, err := w.match(ctx, &api.QueryOptions{})
	if err != nil {
		return intention.Set{}, err
	}
	return w.complete(ctx, list)
}

// intentionsWatch is a loop of blocking queries for intentions, paced as those for instances.
type intentionsWatch struct {
	*watch
	had bool // the last answer had intentions
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
	if set.Default, set.DefaultReason, err = w.directory.defaultIntention(ctx); err != nil {
		return intention.Set{}, err
	}
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

// defaultIntention is what decides where no intention does, as the agent has it for its
// proxies: default_intention_policy, or else the default policy of ACLs.
func (d *Directory) defaultIntention(ctx context.Context) (_ intention.Action, reason string, _ error) {
	var self struct {
		DebugConfig struct {
			DefaultIntentionPolicy string
			ACLResolverSettings    struct{ ACLDefaultPolicy string }
		}
	}
	err := d.get(ctx, "/v1/agent/self", &self)
	switch status := statusOf(err); {
	case status == http.StatusForbidden || status == http.StatusUnauthorized:
		return intention.Deny, "the token may not read the agent's default: it needs agent:read", nil
	case err != nil:
		return "", "", d.explain(err, "agent:read")
	}
	policy := self.DebugConfig.DefaultIntentionPolicy
	if policy == "" {
		policy = self.DebugConfig.ACLResolverSettings.ACLDefaultPolicy
	}
	if policy == "allow" {
		return intention.Allow, "", nil
	}
	return intention.Deny, "", nil
}
