package meshlite

import (
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/internal/wire"
)

// unknown answers calls of methods that the server does not have in gRPC's own words, and
// marks the answer: no handler ran, so a client may try another instance. Without it no
// interceptor would see such calls: none would be counted, limited or authorized.
func (s *Server) unknown(_ any, stream grpc.ServerStream) error {
	name, _ := grpc.MethodFromServerStream(stream)
	name = strings.TrimPrefix(name, "/")
	i := max(strings.LastIndexByte(name, '/'), 0)
	service, method := name[:i], strings.TrimPrefix(name[i:], "/")
	if _, known := s.GRPC().GetServiceInfo()[service]; known {
		stream.SetTrailer(metadata.Pairs(wire.UnhandledKey, wire.UnhandledMethod))
		return status.Errorf(codes.Unimplemented, "unknown method %v for service %v", method, service)
	}
	stream.SetTrailer(metadata.Pairs(wire.UnhandledKey, wire.UnhandledService))
	return status.Errorf(codes.Unimplemented, "unknown service %v", service)
}
