package callstream

import (
	"context"
	"io"
	"time"

	"google.golang.org/grpc"

	callv1 "github.com/meshlite-go/meshlite/proto/meshlite/call/v1"
)

// stream carries calls, one at a time, so its messages are used again.
type stream struct {
	connection *connection
	ctx        context.Context
	cancel     context.CancelFunc
	opened     grpc.ClientStream // nil before the first call
	opens      time.Time
	since      time.Time // without a call

	request  callv1.ServeRequest
	response callv1.ServeResponse
}

func newStream(c *connection) *stream {
	s := &stream{connection: c, opens: time.Now()}
	// Not below the context of the connection, at whose end calls that run go on.
	s.ctx, s.cancel = context.WithCancel(c.pinned(context.Background()))
	return s
}

var serve = &callv1.CallService_ServiceDesc.Streams[0]

// progress is how far a call has come on a stream that ended under it.
type progress int

const (
	notSent progress = iota // no server has read it: it may go another way
	refused                 // so it is, and the server serves no such streams
	sent
	answered
)

// exchange sends the request and waits for the response. Unless the call was answered the
// stream is lost.
func (s *stream) exchange(cc *grpc.ClientConn) (progress, error) {
	if s.opened == nil {
		// It would wait for a connection that is lost.
		stop := context.AfterFunc(s.connection.ctx, s.cancel)
		opened, err := cc.NewStream(s.ctx, serve, callv1.CallService_Serve_FullMethodName)
		if !stop() || err != nil {
			return notSent, err
		}
		s.opened = opened
	}
	if err := s.opened.SendMsg(&s.request); err != nil {
		return notSent, err // the stream had ended before, or the request is too large
	}
	err := s.opened.RecvMsg(&s.response)
	switch {
	case err == nil:
		return answered, nil
	case err == io.EOF || isLost(err): // the server ends a stream between two requests only
		return notSent, err
	case s.wasRefused():
		return refused, err
	default:
		return sent, err
	}
}

// wasRefused reports whether a server has answered that it does not serve this stream: an
// interceptor of its own is against it, or another server has the connection.
func (s *stream) wasRefused() bool {
	header, _ := s.opened.Header()
	return len(header[serves]) == 0 && len(s.opened.Trailer()["content-type"]) > 0
}
