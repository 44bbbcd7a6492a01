package consul

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"

	"github.com/hashicorp/consul/api"
	"golang.org/x/time/rate"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/identity/intention"
	"github.com/meshlite-go/meshlite/internal/renewal"
)

// Identity is the identity of one service, signed by Consul's CA: an [identity.Source]. It
// keeps up to date by blocking queries to the agent, which renews leaves well before their
// end. While Consul is away the last certificates stay. It is safe for concurrent use.
type Identity struct {
	identity.Feed
	directory *Directory
	service   string
	cancel    context.CancelFunc
	done      sync.WaitGroup

	mu    sync.Mutex
	renew context.CancelCauseFunc // ends what the leaf's loop waits for
	leaf  *api.LeafCert
	roots string // PEM
}

// Service returns which service the identity is of.
func (i *Identity) Service() string { return i.service }

// WatchIntentions is that of the directory whose CA signs the identity.
func (i *Identity) WatchIntentions(ctx context.Context, destination string, report func(intention.Set, error)) {
	i.directory.WatchIntentions(ctx, destination, report)
}

// Close ends the queries. The last certificates stay.
func (i *Identity) Close() {
	i.cancel()
	i.done.Wait()
}

// follower is one loop of blocking queries.
type follower struct {
	*renewal.Attempts
	index   uint64
	limiter *rate.Limiter
}

func (i *Identity) newFollower(what string) *follower {
	return &follower{renewal.New(&i.Feed, "Consul", i.directory.log.With("service", i.service, "of", what)), 0, rate.NewLimiter(queryRate, queryBurst)}
}

// ask sends one query through the pool. It moves the index.
func (i *Identity) ask(ctx context.Context, f *follower, read func(*api.QueryOptions) (*api.QueryMeta, error)) error {
	if err := f.limiter.Wait(ctx); err != nil {
		return err
	}
	slot, err := i.directory.pool.acquire(ctx, i.directory.wait, f.index == 0)
	if err != nil {
		return err
	}
	defer slot.release()
	bounded, cancel := boundQuery(slot, slot.wait)
	defer cancel()
	meta, err := read((&api.QueryOptions{WaitIndex: f.index, WaitTime: slot.wait}).WithContext(bounded))
	if err != nil && errors.Is(context.Cause(slot), errTakeTurns) {
		return errTakeTurns
	}
	if err != nil {
		f.index = 0
		return i.directory.explain(err, fmt.Sprintf("service:write on %q", i.service))
	}
	before := f.index
	if f.index = max(meta.LastIndex, 1); f.index < before {
		f.index = 0 // "reset the index to 0 if it goes backwards"
	}
	return nil
}

func (i *Identity) followRoots(ctx context.Context) {
	for f := i.newFollower("roots"); ctx.Err() == nil; {
		err := i.ask(ctx, f, func(options *api.QueryOptions) (*api.QueryMeta, error) { return i.readRoots(options) })
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errTakeTurns) {
			continue
		}
		f.Record(err)
		if err != nil {
			pause(ctx, f.Pause())
		} else if err := i.publish(); errors.Is(err, errNotOfTheRoots) {
			i.askAnew()
		}
	}
}

func (i *Identity) readRoots(options *api.QueryOptions) (*api.QueryMeta, error) {
	list, meta, err := i.directory.api.Agent().ConnectCARoots(options)
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	for _, root := range list.Roots {
		text.WriteString(root.RootCertPEM)
		text.WriteByte('\n')
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.roots = text.String()
	return meta, nil
}

func (i *Identity) followLeaf(ctx context.Context) {
	for f := i.newFollower("leaf"); ctx.Err() == nil; {
		waiting, done := i.waiting(ctx)
		i.nextLeaf(waiting, f)
		replaced := errors.Is(context.Cause(waiting), errNotOfTheRoots)
		done()
		if replaced {
			f.index = 0
			pause(ctx, rand.N(renewal.Spread/2))
		}
	}
}

// waiting is the context of one turn, which askAnew ends.
func (i *Identity) waiting(ctx context.Context) (context.Context, context.CancelFunc) {
	waiting, cancel := context.WithCancelCause(ctx)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.renew = cancel
	return waiting, func() { cancel(nil) }
}

// askAnew makes the leaf's loop ask for another leaf, whatever it waits for: one with the
// index of an agent that was started anew might not be answered for a minute.
func (i *Identity) askAnew() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.renew != nil {
		i.renew(errNotOfTheRoots)
	}
}

// nextLeaf asks once, publishes the answer, and rests if need be.
func (i *Identity) nextLeaf(ctx context.Context, f *follower) {
	err := i.ask(ctx, f, func(options *api.QueryOptions) (*api.QueryMeta, error) { return i.readLeaf(options) })
	if ctx.Err() != nil || errors.Is(err, errTakeTurns) {
		return
	}
	if err == nil {
		err = i.publishLeaf(ctx)
	}
	if ctx.Err() != nil {
		return
	}
	f.Record(err)
	if err != nil {
		f.index = 0
		pause(ctx, f.LeafPause())
	} else if f.Overdue() {
		f.index = 0 // a query that does not block makes the agent look again
		pause(ctx, renewal.Spread/2+rand.N(renewal.Spread/2))
	}
}

func (i *Identity) readLeaf(options *api.QueryOptions) (*api.QueryMeta, error) {
	leaf, meta, err := i.directory.api.Agent().ConnectCALeaf(i.service, options)
	if err != nil {
		return nil, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.leaf = leaf
	return meta, nil
}

var errNotOfTheRoots = errors.New("the leaf is not of the roots")

// publishLeaf reads the roots too if the leaf is of a root that is not known yet.
func (i *Identity) publishLeaf(ctx context.Context) error {
	err := i.publish()
	if !errors.Is(err, errNotOfTheRoots) {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err := i.readRoots((&api.QueryOptions{}).WithContext(bounded)); err != nil {
		return i.directory.explain(err, fmt.Sprintf("service:write on %q", i.service))
	}
	return i.publish()
}

// publish makes a snapshot of the latest leaf and roots, if they have changed.
func (i *Identity) publish() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.leaf == nil || i.roots == "" {
		return nil // the other loop will
	}
	next, err := identity.FromPEM([]byte(i.leaf.CertPEM), []byte(i.leaf.PrivateKeyPEM), []byte(i.roots))
	switch {
	case errors.As(err, new(identity.NotOfTheRootsError)):
		return fmt.Errorf("%s: %w: %w", i.directory.Name(), errNotOfTheRoots, err)
	case err != nil:
		return fmt.Errorf("%s: the certificate of %q: %w", i.directory.Name(), i.service, err)
	case next.ID().Service != i.service:
		return fmt.Errorf("%s: the certificate of %q is of %q", i.directory.Name(), i.service, next.ID())
	}
	last, _ := i.Current()
	switch {
	case last != nil && last.Equal(next):
		return nil
	case last != nil && last.ID().TrustDomain != next.ID().TrustDomain:
		i.directory.log.Error("Consul has another CA: processes with a certificate of the old one are refused until they have read theirs",
			"service", i.service, "trust_domain", next.ID().TrustDomain, "before", last.ID().TrustDomain)
	}
	i.Publish(next)
	return nil
}
