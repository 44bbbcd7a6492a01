package consulca

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/hashicorp/consul/proto-public/pbconnectca"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/internal/renewal"
)

// Config says whose certificate is asked for.
type Config struct {
	// Service, of an optional Namespace and Partition (default "default").
	Service, Namespace, Partition string
	// Datacenter is that of the servers: they sign for no other.
	Datacenter string
	// Token returns the ACL token for the next request: it needs service:write on Service. Nil sends
	// none. It is called by one or two goroutines, and its result is sent over the channel as
	// it is: a channel without TLS shows it to the network.
	Token func() string
	// Logger receives failures and their end. Nil is slog.Default().
	Logger *slog.Logger
}

// Source is the identity of one service, signed by Consul's CA: an [identity.Source]. It is
// safe for concurrent use.
type Source struct {
	identity.Feed
	config Config
	log    *slog.Logger
	client pbconnectca.ConnectCAServiceClient
	cancel context.CancelFunc
	done   sync.WaitGroup
	roots  chan *authority // the latest, at most one
	reread chan struct{}   // ends the stream of roots
}

var _ identity.Source = (*Source)(nil)

// New follows the roots of Consul's CA and renews the certificate of a service until Close, over
// a channel to servers, which stays the caller's to close. A channel with keepalive notices a
// server that is gone without a word before the next renewal does.
func New(servers grpc.ClientConnInterface, config Config) (*Source, error) {
	config.Namespace, config.Partition = cmp.Or(config.Namespace, "default"), cmp.Or(config.Partition, "default")
	if servers == nil {
		return nil, errors.New("consulca: the channel is nil: give one to the gRPC port of Consul's servers, such as 8503")
	}
	for _, part := range []struct{ field, value string }{
		{"Service", config.Service}, {"Datacenter", config.Datacenter}, {"Namespace", config.Namespace}, {"Partition", config.Partition},
	} {
		if err := identity.CheckService(part.value); err != nil {
			return nil, fmt.Errorf("consulca: %s %q: write letters, digits and ._- only, at least one", part.field, part.value)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Source{
		config: config, log: cmp.Or(config.Logger, slog.Default()).With("service", config.Service),
		client: pbconnectca.NewConnectCAServiceClient(servers), cancel: cancel, roots: make(chan *authority, 1), reread: make(chan struct{}, 1),
	}
	s.done.Go(func() { s.followRoots(ctx) })
	s.done.Go(func() { s.renew(ctx) })
	return s, nil
}

// Service is the one that the certificates are of, also before there is one: metrics name it.
func (s *Source) Service() string { return s.config.Service }

// Close ends the requests. The last certificates stay.
func (s *Source) Close() {
	s.cancel()
	s.done.Wait()
}

// authorized adds the token.
func (s *Source) authorized(ctx context.Context) context.Context {
	if s.config.Token == nil {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "x-consul-token", s.config.Token())
}

// attempts are those of one loop.
func (s *Source) attempts(of string) *renewal.Attempts {
	return renewal.New(&s.Feed, "Consul", s.log.With("of", of))
}
