package transcode

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"
)

// streamFormat is how the messages of a stream follow each other in a body.
type streamFormat struct {
	contentType                    string
	before, beforeError, beforeEnd string // a message, the last event that is an error, the one that is none
	after, afterError              string
}

var (
	ndjson = streamFormat{contentType: "application/x-ndjson", after: "\n", beforeError: `{"error":`, afterError: "}\n"}
	// A browser calls again when a stream of events ends, unless the page closes it: so the
	// last event says which one it is.
	serverSentEvents = streamFormat{contentType: "text/event-stream", before: "data: ", after: "\n\n", beforeError: "event: error\ndata: ", afterError: "\n\n", beforeEnd: "event: end\ndata: {}\n\n"}
)

// streamFormatOf chooses by Accept: server-sent events only if they are named.
func streamFormatOf(accept []string) (streamFormat, bool) {
	for _, line := range accept {
		for item := range strings.SplitSeq(line, ",") {
			if kind, params, err := mime.ParseMediaType(item); err == nil && kind == serverSentEvents.contentType && params["q"] != "0" {
				return serverSentEvents, true
			}
		}
	}
	return ndjson, accepts(accept, ndjson.contentType)
}

// streamBody is an answer that is a stream.
type streamBody struct {
	mux     *Mux
	w       http.ResponseWriter
	r       *http.Request
	control *http.ResponseController
	route   *route
	format  streamFormat
	began   bool
}

// serve makes the call, and writes each message when it comes. The next one is read only when
// the caller has taken this one, so that a slow caller holds back the backend.
func (b *streamBody) serve(params map[string]string) {
	shows := &b.mux.shows
	var ok bool
	if b.format, ok = streamFormatOf(b.r.Header["Accept"]); !ok {
		shows.writeError(b.w, b.r, answer{err: refuse(http.StatusNotAcceptable, "the answer is a stream: accept %s or %s", ndjson.contentType, serverSentEvents.contentType)})
		return
	}
	in, err := b.route.decode(b.w, b.r, params)
	if err != nil {
		shows.writeError(b.w, b.r, answer{err: err})
		return
	}
	if _, isHead := b.w.(headWriter); isHead {
		b.w.Header().Set("Content-Type", b.format.contentType)
		return
	}
	ctx, cancel, err := b.mux.callContext(b.w, b.r, b.mux.metadataOf(b.r), b.mux.config.MaxTimeout)
	if err != nil {
		shows.writeError(b.w, b.r, answer{err: err})
		return
	}
	defer cancel()
	method := b.route.method
	stream, err := method.service.Conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method.path)
	if err == nil {
		err = sendOnly(stream, in)
	}
	if err != nil {
		shows.writeError(b.w, b.r, answer{method: method, err: err})
		return
	}
	b.copy(stream)
}

// sendOnly sends the one message of a call.
func sendOnly(stream grpc.ClientStream, in proto.Message) error {
	if err := stream.SendMsg(in); err != nil && !errors.Is(err, io.EOF) { // EOF: RecvMsg has the error
		return err
	}
	return stream.CloseSend()
}

// copy writes the messages of stream until it ends, or the caller takes no more.
func (b *streamBody) copy(stream grpc.ClientStream) {
	// The next request on this connection has a deadline of its own.
	defer func() { _ = b.control.SetWriteDeadline(time.Time{}) }()
	buffer := getBuffer()
	defer putBuffer(buffer)
	out := dynamicpb.NewMessage(b.route.method.desc.Output())
	for {
		err := stream.RecvMsg(out)
		if err == nil {
			buffer.Reset()
			buffer.WriteString(b.format.before)
			err = b.route.encode(buffer, out)
			buffer.WriteString(b.format.after)
		}
		if err != nil {
			b.end(stream, err)
			return
		}
		b.begin(stream)
		if b.write(buffer.Bytes()) != nil {
			return // whoever asked has left, or is stuck
		}
	}
}

// begin writes the headers, which wait for the first message: a call may fail before it.
func (b *streamBody) begin(stream grpc.ClientStream) {
	if b.began {
		return
	}
	b.began = true
	header, _ := stream.Header()
	b.mux.shows.setHeaders(b.w.Header(), answer{header: header})
	setContentType(b.w.Header(), b.format.contentType)
	b.w.Header().Set("Cache-Control", "no-store")
	b.w.Header().Set("X-Accel-Buffering", "no") // a proxy in front must not collect messages
}

// end writes why the stream has ended.
func (b *streamBody) end(stream grpc.ClientStream, err error) {
	if errors.Is(err, io.EOF) {
		b.begin(stream)
		_ = b.write([]byte(b.format.beforeEnd))
		return
	}
	header, _ := stream.Header()
	got := answer{method: b.route.method, header: header, trailer: stream.Trailer(), err: err}
	if !b.began {
		b.mux.shows.writeError(b.w, b.r, got)
		return
	}
	failure := status.Convert(err)
	b.mux.shows.logHidden(b.r, got.method, failure)
	text := b.mux.shows.problemOf(got.method, failure).JSON()
	_ = b.write(bytes.Join([][]byte{[]byte(b.format.beforeError), text, []byte(b.format.afterError)}, nil))
}

// write has the caller take text, within the time that it has for that.
func (b *streamBody) write(text []byte) error {
	if err := b.control.SetWriteDeadline(time.Now().Add(b.mux.config.WriteTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := b.w.Write(text); err != nil {
		return err
	}
	if err := b.control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("flushing: %w", err)
	}
	return nil
}
