package interceptors

import (
	"errors"
	"io"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/balancer/attempt"
)

// responding is a stream that tells its record when there is a response: the latency
// of a stream is the time to the first one, whenever it ends.
type responding struct {
	grpc.ClientStream
	record *attempt.Record
}

// RecvMsg receives. The end of a stream without messages is a response, too.
func (s responding) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err == nil || errors.Is(err, io.EOF) {
		s.record.Latest().Respond() // a stream may have begun anew elsewhere
	}
	return err
}
