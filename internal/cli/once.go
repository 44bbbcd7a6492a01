package cli

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors/explained"
	"github.com/meshlite-go/meshlite/interceptors/hop"
)

// outcome is how a call ended.
type outcome struct {
	instance        attempt.Instance // zero when none was picked
	status          *status.Status
	duration        time.Duration
	header, trailer metadata.MD
	answer          proto.Message
	explanation     *hop.Hop // nil unless it is asked for
}

// tracker gathers an outcome from below the call.
type tracker struct {
	outcome
	record *attempt.Record
	peer   peer.Peer
	start  time.Time
	asked  *explained.Asked // nil unless the call is to be explained
}

func track() *tracker { return &tracker{record: attempt.New(), start: time.Now()} }

func (t *tracker) context(ctx context.Context, explain bool) context.Context {
	if explain {
		ctx, t.asked = explained.Ask(ctx)
	}
	return attempt.NewContext(ctx, t.record)
}

func (t *tracker) options() []grpc.CallOption {
	return []grpc.CallOption{grpc.Header(&t.header), grpc.Trailer(&t.trailer), grpc.Peer(&t.peer)}
}

// finish fills in the rest. gRPC's own policies write no record, but the peer is in the
// call.
func (t *tracker) finish(err error) outcome {
	t.duration = time.Since(t.start)
	t.status = status.Convert(err)
	if picked := t.record.Latest().Picked(); picked != nil {
		t.instance = *picked
	} else if t.peer.Addr != nil {
		t.instance = attempt.Instance{ID: t.peer.Addr.String(), Address: t.peer.Addr.String()}
	}
	if t.asked != nil {
		if calls := t.asked.Calls(); len(calls) > 0 {
			t.explanation = calls[0]
		}
	}
	return t.outcome
}

// attempt makes one unary call.
func (c *preparedCall) attempt(ctx context.Context) outcome {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	t := track()
	t.answer = c.method.NewAnswer()
	err := c.conn.Invoke(t.context(ctx, c.Explain), c.method.FullMethod(), c.request, t.answer, t.options()...)
	return t.finish(err)
}

// once prints the answer of one call.
func (c *preparedCall) once(ctx context.Context) error {
	o := c.attempt(ctx)
	var answer []byte
	if o.status.Code() == codes.OK {
		var err error
		if answer, err = c.method.JSON(o.answer); err != nil {
			return fmt.Errorf("%s: the answer %w", c.method.Name(), err)
		}
	}
	if err := c.print(o, answer); err != nil {
		return err
	}
	return c.failure(o)
}

func (c *preparedCall) print(o outcome, answer []byte) error {
	if c.Format == JSON {
		r := c.report(o)
		r.Response = answer
		return WriteJSON(c.streams.Out, r)
	}
	if o.status.Code() == codes.OK {
		if err := writePretty(c.streams, answer); err != nil {
			return err
		}
		fmt.Fprintf(c.streams.Err, "OK from %s in %s\n", name(o.instance), short(o.duration))
	}
	return c.printExplanation(o)
}

// printExplanation prints what happened to a call as a tree, if that is asked for.
func (c *preparedCall) printExplanation(o outcome) error {
	if !c.Explain {
		return nil
	}
	return writeHops(c.streams.Out, c.method.Name(), o.explanation)
}

func writePretty(streams Streams, answer []byte) error {
	var text bytes.Buffer
	if err := json.Indent(&text, answer, "", "  "); err != nil {
		return err
	}
	text.WriteByte('\n')
	_, err := text.WriteTo(streams.Out)
	return err
}

// stream prints each answer of a server stream when it comes.
func (c *preparedCall) stream(ctx context.Context) error {
	ctx, cancel := c.streamContext(ctx)
	defer cancel()
	t := track()
	count, err := c.receive(t.context(ctx, c.Explain), t.options())
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
	if c.Format != JSON {
		if err := c.printExplanation(o); err != nil {
			return err
		}
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

// report is a call as JSON.
type report struct {
	Instance   string              `json:"instance"`
	Address    string              `json:"address"`
	Code       string              `json:"code"`
	Message    string              `json:"message"`
	Details    []json.RawMessage   `json:"details,omitempty"`
	DurationMS float64             `json:"duration_ms"`
	Messages   *int                `json:"messages,omitempty"` // of a stream
	Response   json.RawMessage     `json:"response,omitempty"`
	Header     map[string][]string `json:"header,omitempty"`
	Trailer    map[string][]string `json:"trailer,omitempty"`

	Explanation *hop.Hop `json:"explanation,omitempty"`
}

func (c *preparedCall) report(o outcome) report {
	return report{
		Instance: o.instance.ID, Address: o.instance.Address,
		Code: o.status.Code().String(), Message: o.status.Message(), Details: c.details(o.status),
		DurationMS: milliseconds(o.duration),
		Header:     printable(o.header), Trailer: printable(o.trailer), Explanation: o.explanation,
	}
}

// failure is nil for a call that was answered.
func (c *preparedCall) failure(o outcome) error {
	if o.status.Code() == codes.OK {
		return nil
	}
	text := c.method.Name() + ": " + c.words(o.status)
	if o.instance.Address != "" {
		text += "; from " + name(o.instance)
	}
	return fmt.Errorf("%s in %s", text, short(o.duration))
}

// details are those of a status as JSON; one of unknown type stays as it is.
func (c *preparedCall) details(s *status.Status) []json.RawMessage {
	var details []json.RawMessage
	for _, detail := range s.Proto().GetDetails() {
		text, err := c.method.JSON(detail)
		if err != nil {
			text = opaque(detail)
		}
		details = append(details, text)
	}
	return details
}

func opaque(detail *anypb.Any) json.RawMessage {
	text, err := json.Marshal(map[string]string{
		"@type": detail.GetTypeUrl(),
		"value": base64.StdEncoding.EncodeToString(detail.GetValue()),
	})
	if err != nil {
		return json.RawMessage("{}") // strings always marshal
	}
	return text
}

// name is an instance for people.
func name(i attempt.Instance) string {
	if i.ID == i.Address {
		return oneLine(i.Address)
	}
	return oneLine(i.ID + " (" + i.Address + ")")
}
