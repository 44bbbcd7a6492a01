package consulca

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/consul/proto-public/pbconnectca"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/identity"
)

// authority is Consul's CA as a server has reported it.
type authority struct {
	trustDomain string
	active      string // the id of the root that signs
	roots       []*x509.Certificate
}

var (
	errReread = errors.New("consulca: the roots are read again")
	errSilent = fmt.Errorf("consulca: a server has sent no roots in %v", requestTimeout)
)

// followRoots keeps a stream open.
func (s *Source) followRoots(ctx context.Context) {
	for attempts := s.attempts("roots"); ctx.Err() == nil; {
		err := s.readRoots(ctx, attempts.Record)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, io.EOF) {
			err = errors.New("consulca: the server has ended the stream of roots")
		}
		if errors.Is(err, errReread) {
			continue
		}
		attempts.Record(err)
		pause(ctx, attempts.Pause())
	}
}

// readRoots passes on what one stream brings, until it ends.
func (s *Source) readRoots(ctx context.Context, outcome func(error)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// A server that accepts the stream sends the roots at once: silence is a failure.
	silent := time.AfterFunc(requestTimeout, func() { cancel(errSilent) })
	defer silent.Stop()
	ended := make(chan struct{})
	defer close(ended)
	s.done.Go(func() {
		select {
		case <-s.reread:
			cancel(errReread)
		case <-ended:
		}
	})
	stream, err := s.client.WatchRoots(s.authorized(ctx), &pbconnectca.WatchRootsRequest{})
	for err == nil {
		var answer *pbconnectca.WatchRootsResponse
		if answer, err = stream.Recv(); err != nil {
			break
		}
		silent.Stop()
		read, unreadable := s.parse(answer)
		outcome(unreadable)
		if unreadable == nil {
			s.replaceRoots(read)
		}
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return explain("the roots", err)
}

// replaceRoots keeps the latest for renew.
func (s *Source) replaceRoots(latest *authority) {
	select {
	case <-s.roots:
	default:
	}
	s.roots <- latest // of one sender
}

func (s *Source) parse(answer *pbconnectca.WatchRootsResponse) (*authority, error) {
	read := &authority{trustDomain: answer.GetTrustDomain(), active: answer.GetActiveRootId()}
	if _, err := identity.ParseID(s.id(read).String()); err != nil {
		return nil, fmt.Errorf("consulca: the trust domain %.80q: %w", answer.GetTrustDomain(), err)
	}
	for _, root := range answer.GetRoots() {
		certificates, err := identity.RootsFromPEM([]byte(root.GetRootCert()))
		if err != nil {
			return nil, fmt.Errorf("consulca: the root %.80q: %w", root.GetId(), err)
		}
		read.roots = append(read.roots, certificates...)
	}
	if len(read.roots) == 0 {
		return nil, errors.New("consulca: the server has no root: turn Connect on, by connect { enabled = true }")
	}
	return read, nil
}

func (s *Source) id(of *authority) identity.ID {
	return identity.ID{
		TrustDomain: of.trustDomain, Partition: s.config.Partition, Namespace: s.config.Namespace,
		Datacenter: s.config.Datacenter, Service: s.config.Service,
	}
}

// explain adds the fix to an error of a server.
func explain(what string, err error) error {
	switch status.Code(err) {
	case codes.OK:
		return err
	case codes.Unauthenticated, codes.PermissionDenied:
		return fmt.Errorf("consulca: %s: %w: give Config.Token one with service:write on the service", what, err)
	case codes.Unimplemented:
		return fmt.Errorf("consulca: %s: %w: is that the gRPC port of a Consul server? clients have no CA", what, err)
	case codes.FailedPrecondition:
		return fmt.Errorf("consulca: %s: %w: turn Connect on, by connect { enabled = true }", what, err)
	default:
		return fmt.Errorf("consulca: %s: %w", what, err)
	}
}
