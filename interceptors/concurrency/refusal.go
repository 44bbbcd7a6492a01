package concurrency

import (
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/wire"
)

// newRefusal is made once for a method, since refusals come in floods. It says
// nothing of when to come again: another instance may have room now.
func newRefusal(meta *interceptors.CallMeta) error {
	s := status.New(codes.Unavailable, fmt.Sprintf("%s runs as often as this instance can bear: try another one, or later", meta.FullMethod))
	detailed, err := s.WithDetails(&errdetails.ErrorInfo{Reason: wire.ReasonOverloaded, Domain: wire.ErrorDomain})
	if err != nil {
		return s.Err()
	}
	return detailed.Err()
}
