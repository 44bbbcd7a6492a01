package logging_test

import (
	"io"
	"log/slog"
	"testing"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/interceptors/logging"
)

// gone is a stream whose peer has gone.
type gone struct{ stream }

func (gone) SendMsg(any) error { return io.ErrClosedPipe }
func (gone) RecvMsg(any) error { return io.EOF }

// Counting messages hides no error from a handler, or it would never end.
func TestHandlersReceiveTheErrorsOfTheirStreams(t *testing.T) {
	l, err := logging.New(logging.WithLogger(slog.New(slog.NewTextHandler(io.Discard, nil))))
	if err != nil {
		t.Fatal(err)
	}
	var sent, received error
	_ = l.StreamServerInterceptor()(nil, gone{stream{t.Context()}}, &grpc.StreamServerInfo{FullMethod: "/a.B/C", IsClientStream: true, IsServerStream: true},
		func(_ any, s grpc.ServerStream) error {
			sent, received = s.SendMsg(nil), s.RecvMsg(nil)
			return nil
		})
	if sent != io.ErrClosedPipe || received != io.EOF {
		t.Errorf("sending %v, receiving %v: want the errors of the stream", sent, received)
	}
}
