// Package spire is a certificate source of package identity that reads from SPIRE, or from
// another implementation of the SPIFFE Workload API, at the socket of the local agent:
//
//	source, err := spire.New(spire.Config{})
//	mtls, err := identity.New(source, identity.WithServerIDs(map[string]string{
//		"catalog": "spiffe://example.org/shop/catalog",
//	}))
//
// The agent renews certificates and pushes them. While it is away the last ones stay. Other ends
// must be of the trust domain of one's own certificate: bundles of federated ones are not used.
package spire

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/internal/renewal"
)

const retryPeriod = 5 * time.Second

// Config says where the Workload API is, and which certificate is used.
type Config struct {
	// Address is that of the API: "unix:///run/spire/agent.sock" or "tcp://127.0.0.1:8081". "" is
	// that of SPIFFE_ENDPOINT_SOCKET.
	Address string
	// ID is the SPIFFE id of which to take a certificate, if the agent has several for this
	// process. "" is the first one, which the standard calls the default.
	ID string
	// Logger receives failures and their end. Nil is slog.Default().
	Logger *slog.Logger

	options []workloadapi.ClientOption // of tests
}

// Source is what SPIRE has issued to this process: an [identity.Source]. It is safe for
// concurrent use.
type Source struct {
	identity.Feed
	config Config
	log    *slog.Logger
	client *workloadapi.Client
	cancel context.CancelFunc
	done   sync.WaitGroup
}

var _ identity.Source = (*Source)(nil)

// New follows the Workload API until Close.
func New(config Config) (*Source, error) {
	if config.Address == "" {
		config.Address, _ = workloadapi.GetDefaultAddress()
	}
	if err := workloadapi.ValidateAddress(config.Address); err != nil {
		return nil, fmt.Errorf("spire: Address %.200q: %w: set %s, as unix:///run/spire/agent.sock", config.Address, err, workloadapi.SocketEnv)
	}
	if config.ID != "" {
		if _, err := identity.ParseSPIFFE(config.ID); err != nil {
			return nil, fmt.Errorf("spire: ID: %w", err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	client, err := workloadapi.New(ctx, append([]workloadapi.ClientOption{workloadapi.WithAddr(config.Address)}, config.options...)...)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("spire: Address %.200q: %w", config.Address, err)
	}
	s := &Source{config: config, log: cmp.Or(config.Logger, slog.Default()).With("address", config.Address), client: client, cancel: cancel}
	s.done.Go(func() { s.follow(ctx) })
	return s, nil
}

// Service is the one that Config.ID names in the form of Consul's ids, or else all of it; "" if
// the agent chooses. Metrics name it before there is a certificate.
func (s *Source) Service() string {
	if id, err := identity.ParseID(s.config.ID); err == nil {
		return id.Service
	}
	return s.config.ID
}

// Close ends the stream. The last certificates stay.
func (s *Source) Close() {
	s.cancel()
	s.done.Wait()
	s.client.Close()
}

func (s *Source) follow(ctx context.Context) {
	for w := (&watcher{s, renewal.New(&s.Feed, "SPIRE", s.log), ctx}); ctx.Err() == nil; {
		// It retries but gives up where the agent calls the request itself wrong, which another
		// agent may not.
		_ = s.client.WatchX509Context(ctx, w)
		select {
		case <-time.After(retryPeriod):
		case <-ctx.Done():
		}
	}
}

// watcher is called by one goroutine.
type watcher struct {
	*Source
	*renewal.Attempts
	ctx context.Context
}

// OnX509ContextUpdate implements workloadapi.X509ContextWatcher.
func (w *watcher) OnX509ContextUpdate(update *workloadapi.X509Context) {
	next, err := w.snapshot(update)
	if err != nil {
		w.OnX509ContextWatchError(err)
		return
	}
	w.Record(nil)
	if last, err := w.Current(); err != nil || !last.Equal(next) {
		w.Publish(next)
	}
}

// OnX509ContextWatchError implements workloadapi.X509ContextWatcher.
func (w *watcher) OnX509ContextWatchError(err error) {
	if w.ctx.Err() == nil {
		w.Record(fmt.Errorf("spire: %s: %w", w.config.Address, err))
	}
}

func (w *watcher) snapshot(update *workloadapi.X509Context) (*identity.Snapshot, error) {
	svid, err := w.choose(update.SVIDs)
	if err != nil {
		return nil, err
	}
	bundle, err := update.Bundles.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
	if err != nil {
		return nil, err
	}
	leaf := tls.Certificate{PrivateKey: svid.PrivateKey}
	for _, certificate := range svid.Certificates {
		leaf.Certificate = append(leaf.Certificate, certificate.Raw)
	}
	return identity.NewSPIFFESnapshot(leaf, bundle.X509Authorities())
}

func (w *watcher) choose(svids []*x509svid.SVID) (*x509svid.SVID, error) {
	if len(svids) == 0 {
		return nil, errors.New("the agent has no certificate for this process: register an entry for it")
	}
	if w.config.ID == "" {
		return svids[0], nil
	}
	for _, svid := range svids {
		if svid.ID.String() == w.config.ID {
			return svid, nil
		}
	}
	return nil, fmt.Errorf("the agent has no certificate of %s for this process, but of %s: register an entry, or change ID", w.config.ID, svids[0].ID)
}
