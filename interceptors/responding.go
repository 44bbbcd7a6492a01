package interceptors

import (
	"errors"
	"io"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/balancer/attempt"
)

// responding is a stream that records its first response: the latency of a stream is the
// time until then, whenever it ends.
type responding struct {
	grpc.ClientStream
	record *attempt.Record
}

// RecvMsg receives. The end of a stream without messages counts as a response.
func (s responding) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err == nil || errors.Is(err, io.EOF) {
		s.record.Latest().Respond() // the stream may have moved to another instance
	}
	return err
}
