package transcode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/meshlite-go/meshlite/gateway/problem"
)

// firstCloseCode and up are the close codes of calls that have failed: 4000 plus the gRPC code
// (RFC 6455, 7.4.2, leaves these to applications).
const firstCloseCode = 4000

// refuseClientStream answers a request that cannot carry a stream of messages.
func refuseClientStream(w http.ResponseWriter, method *method) {
	w.Header().Set("Upgrade", "websocket")
	problem.Write(w, problem.Problem{
		Status: http.StatusNotImplemented, Code: "UNIMPLEMENTED",
		Detail: fmt.Sprintf("%s takes a stream of messages: open a WebSocket at %s, send each message as JSON text, and an empty text after the last", method.desc.FullName(), method.path),
	})
}

// errCallerGone is a socket that carries nothing any more.
var errCallerGone = errors.New("the caller has gone")

// socketCall is a call over a WebSocket, with a stream of requests. Each text is a message as
// JSON; an empty one ends the caller's messages. Before a close code that is an error, the last
// text is {"error":{...}} with the problem.
type socketCall struct {
	mux    *Mux
	w      http.ResponseWriter
	r      *http.Request
	method *method
	socket *websocket.Conn
	stream grpc.ClientStream
}

func (c *socketCall) serve() {
	if !strings.EqualFold(c.r.Header.Get("Upgrade"), "websocket") {
		refuseClientStream(c.w, c.method)
		return
	}
	ctx, cancel, err := c.mux.callContext(c.w, c.r, c.mux.metadataOf(c.r), c.mux.config.MaxTimeout)
	if err != nil {
		c.mux.shows.writeError(c.w, c.r, answer{err: err})
		return
	}
	defer cancel()
	if c.socket, err = websocket.Accept(&handshakeWriter{ResponseWriter: c.w}, c.r, &websocket.AcceptOptions{OriginPatterns: c.mux.config.Origins}); err != nil {
		return // it is answered
	}
	defer c.socket.CloseNow()
	c.socket.SetReadLimit(int64(c.mux.config.MaxRequestBytes))
	if c.stream, err = c.method.service.Conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: c.method.desc.IsStreamingServer()}, c.method.path); err != nil {
		c.close(err)
		return
	}
	// The context of the call is not that of the socket, which closes when that of a read or a
	// write ends, before the reason is written.
	reading, stopReading := context.WithCancel(c.r.Context())
	requests := make(chan error, 1)
	go func() {
		requests <- c.readRequests(reading)
		cancel()
	}()
	err = c.writeAnswers()
	select {
	case refused := <-requests: // which has cancelled the call
		err = refused
		requests <- refused
	default:
	}
	c.close(err)
	stopReading()
	<-requests
}

// readRequests passes on one message at a time: SendMsg waits for a slow backend.
func (c *socketCall) readRequests(ctx context.Context) (err error) {
	defer func() {
		if reason := recover(); reason != nil { // in a goroutine, which would end the program
			c.mux.logPanic(c.r, reason)
			err = status.Error(codes.Internal, "a panic")
		}
	}()
	for {
		kind, text, err := c.socket.Read(ctx)
		if err != nil {
			return errCallerGone
		}
		if len(text) == 0 {
			if err := c.stream.CloseSend(); err != nil {
				return err
			}
			// Nothing else may come but the end, which has to be read.
			if _, _, err := c.socket.Read(ctx); err != nil {
				return errCallerGone
			}
			return refuse(http.StatusBadRequest, "a message after the empty text, which was the last")
		}
		in := dynamicpb.NewMessage(c.method.desc.Input())
		if kind != websocket.MessageText {
			return refuse(http.StatusUnsupportedMediaType, "a binary message: send JSON as text")
		}
		if offset, err := c.mux.config.scanJSON(text); err != nil {
			return wrongField(fieldAt(text, offset, in.Descriptor()), "%s", err)
		}
		if err := c.method.unmarshal(text, in); err != nil {
			return err
		}
		if err := c.stream.SendMsg(in); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
}

// writeAnswers passes on one message at a time: the next one is read when this one is taken.
func (c *socketCall) writeAnswers() error {
	var buffer bytes.Buffer
	out := dynamicpb.NewMessage(c.method.desc.Output())
	for {
		if err := c.stream.RecvMsg(out); err != nil {
			return err
		}
		buffer.Reset()
		if err := c.method.appendJSON(&buffer, out); err != nil {
			return err
		}
		if err := c.write(buffer.Bytes()); err != nil {
			return errCallerGone
		}
		if !c.method.desc.IsStreamingServer() {
			return io.EOF // there is one answer
		}
	}
}

func (c *socketCall) write(text []byte) error {
	ctx, cancel := context.WithTimeout(c.r.Context(), c.mux.config.WriteTimeout)
	defer cancel()
	return c.socket.Write(ctx, websocket.MessageText, text)
}

// close ends the WebSocket with the code that says why the call has ended.
func (c *socketCall) close(err error) {
	var refused *refusal
	switch {
	case errors.Is(err, io.EOF):
		_ = c.socket.Close(websocket.StatusNormalClosure, "")
	case errors.Is(err, errCallerGone):
	case errors.As(err, &refused) && refused.Status == http.StatusUnsupportedMediaType:
		c.closeWith(websocket.StatusUnsupportedData, refused.Problem)
	case errors.As(err, &refused):
		c.closeWith(websocket.StatusInvalidFramePayloadData, refused.Problem)
	default:
		failure := status.Convert(err)
		c.mux.shows.logHidden(c.r, c.method, failure)
		c.closeWith(firstCloseCode+websocket.StatusCode(failure.Code()), c.mux.shows.problemOf(c.method, failure))
	}
}

func (c *socketCall) closeWith(code websocket.StatusCode, p problem.Problem) {
	_ = c.write(bytes.Join([][]byte{[]byte(`{"error":`), p.JSON(), []byte("}")}, nil))
	_ = c.socket.Close(code, p.Code)
}

// handshakeWriter answers a refused handshake with a problem.
type handshakeWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader keeps the status of a refusal until its text comes.
func (w *handshakeWriter) WriteHeader(status int) {
	if w.status = status; status < 400 {
		w.ResponseWriter.WriteHeader(status)
	}
}

func (w *handshakeWriter) Write(text []byte) (int, error) {
	problem.Write(w.ResponseWriter, problem.Problem{Status: w.status, Detail: shortened(strings.TrimSpace(string(text)))})
	return len(text), nil
}

// Unwrap is for whoever takes over the connection.
func (w *handshakeWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
