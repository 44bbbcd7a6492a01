package meshlite

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/interceptors"
)

// ownStreams bounds the streams of gRPC's own services, or the call streams. No policy limits them,
// and a health watch never ends by itself.
type ownStreams struct {
	what                     string
	perConnection, perServer int
	stopping                 context.Context
	end                      context.CancelFunc // ends those that obey their context, as watches do

	mu   sync.Mutex
	all  int
	open map[*peer.Peer]int // gRPC makes one peer for each connection
}

func newOwnStreams(what string, perConnection, perServer int) *ownStreams {
	s := &ownStreams{what: what, perConnection: perConnection, perServer: perServer, open: map[*peer.Peer]int{}}
	s.stopping, s.end = context.WithCancel(context.Background())
	return s
}

// inside bounds the handlers of gRPC's own services inside of chain, which counts those
// that are refused, too.
func (s *ownStreams) inside(chain grpc.StreamServerInterceptor) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		service, _, _ := strings.Cut(strings.TrimPrefix(info.FullMethod, "/"), "/")
		if srv != nil && interceptors.Infrastructure(service) {
			handler = s.bound(handler)
		}
		return chain(srv, stream, info, handler)
	}
}

func (s *ownStreams) bound(handler grpc.StreamHandler) grpc.StreamHandler {
	return func(srv any, stream grpc.ServerStream) error {
		connection, _ := peer.FromContext(stream.Context())
		if err := s.begin(connection); err != nil {
			return err
		}
		defer s.ended(connection)
		ctx, cancel := context.WithCancel(stream.Context())
		defer cancel()
		defer context.AfterFunc(s.stopping, cancel)()
		return handler(srv, ownStream{stream, ctx})
	}
}

func (s *ownStreams) begin(connection *peer.Peer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.open[connection] >= s.perConnection:
		return s.refusal(s.perConnection, "connection")
	case s.all >= s.perServer:
		return s.refusal(s.perServer, "server")
	}
	s.open[connection]++
	s.all++
	return nil
}

func (s *ownStreams) refusal(most int, of string) error {
	return status.Error(codes.ResourceExhausted, fmt.Sprintf("%s are limited to %d per %s", s.what, most, of))
}

func (s *ownStreams) ended(connection *peer.Peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.open[connection]--; s.open[connection] == 0 {
		delete(s.open, connection)
	}
}

// ownStream ends when the server stops.
type ownStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s ownStream) Context() context.Context { return s.ctx }
