package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// stream prints each answer of a server stream when it comes.
func (c *preparedCall) stream(ctx context.Context) error {
	ctx, cancel := c.streamContext(ctx)
	defer cancel()
	t := track()
	count, err := c.receive(t.context(ctx), t.options())
	var unwritten *writeError
	if errors.As(err, &unwritten) {
		return unwritten.err
	}
	o := t.finish(err)
	switch {
	case c.Format == JSON:
		r := c.report(o)
		r.Messages = &count
		if err := writeLine(c.streams.Out, r); err != nil {
			return err
		}
	case o.status.Code() == codes.OK:
		fmt.Fprintf(c.streams.Err, "OK from %s in %s, %d messages\n", name(o.instance), short(o.duration), count)
	}
	return c.failure(o)
}

// streamContext ends a stream that was not read to its end.
func (c *preparedCall) streamContext(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.LimitStream {
		return context.WithTimeout(ctx, c.Timeout)
	}
	return context.WithCancel(ctx)
}

// writeError marks an error of our output, as opposed to one of the call.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }

// receive counts the answers that it has printed.
func (c *preparedCall) receive(ctx context.Context, options []grpc.CallOption) (int, error) {
	stream, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, c.method.FullMethod(), options...)
	if err != nil {
		return 0, err
	}
	// After io.EOF, RecvMsg returns why the stream ended.
	if err := stream.SendMsg(c.request); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	if err := stream.CloseSend(); err != nil {
		return 0, err
	}
	for count := 0; ; count++ {
		answer := c.method.NewAnswer()
		if err := stream.RecvMsg(answer); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return count, err
		}
		if err := c.printOne(answer); err != nil {
			return count, &writeError{err}
		}
	}
}

func (c *preparedCall) printOne(answer proto.Message) error {
	text, err := c.method.JSON(answer)
	if err != nil {
		return fmt.Errorf("%s: the answer %w", c.method.Name(), err)
	}
	if c.Format == JSON {
		return writeLine(c.streams.Out, map[string]json.RawMessage{"response": text})
	}
	return writePretty(c.streams, text)
}
