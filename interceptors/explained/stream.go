package explained

import (
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/internal/wire"
)

// askedStream is a stream whose server is asked. Its trailer is there when RecvMsg has returned
// the last message: the record has no end of a stream that is not read so far.
type askedStream struct {
	grpc.ClientStream
	*attempted
	single bool // the server sends one message
	opts   []grpc.CallOption
	ended  bool // RecvMsg is not called concurrently
}

// RecvMsg records the end of the stream.
func (s *askedStream) RecvMsg(message any) error {
	err := s.ClientStream.RecvMsg(message)
	if s.ended || err == nil && !s.single {
		return err
	}
	s.ended = true
	failure := err
	if errors.Is(err, io.EOF) {
		failure = nil
	}
	s.end(failure, s.ClientStream.Trailer())
	withhold(s.opts)
	return err
}

// Trailer is without the explanation.
func (s *askedStream) Trailer() metadata.MD {
	md := s.ClientStream.Trailer()
	delete(md, wire.ExplainedKey) // gRPC returns a copy
	return md
}
