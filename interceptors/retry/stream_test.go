package retry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/retry"
)

var errUnhandled = status.Error(codes.Unimplemented, "unknown service")

// instance is one of those that a stream may go to.
type instance struct {
	grpc.ClientStream
	opening, send error // what opening and sending bring
	receive       []error
	options       []grpc.CallOption
	sent          []any
	closed        bool
	end           func()
}

func (i *instance) SendMsg(m any) error {
	i.sent = append(i.sent, m)
	return i.send
}

func (i *instance) CloseSend() error { i.closed = true; return nil }

// RecvMsg brings what there is, one after the other, the last for ever.
func (i *instance) RecvMsg(any) error {
	err := i.receive[0]
	if i.receive = i.receive[min(1, len(i.receive)-1):]; err != nil {
		i.end()
		i.finish(err)
	}
	return err
}

func (i *instance) finish(err error) {
	if errors.Is(err, io.EOF) {
		err = nil
	}
	for _, o := range i.options {
		if f, ok := o.(grpc.OnFinishCallOption); ok {
			f.OnFinish(err)
		}
	}
}

func (i *instance) Header() (metadata.MD, error) {
	return metadata.Pairs("from", fmt.Sprintf("%p", i)), nil
}

// unhandling are instances that lack the service, of which the last has it. No handler ran
// where the first end says so.
func unhandling(n int) []*instance {
	all := make([]*instance, n)
	for i := range all {
		all[i] = &instance{receive: []error{errUnhandled}}
	}
	all[n-1].receive = []error{nil, io.EOF}
	return all
}

// open opens a stream whose attempts go to one of all after the other.
func open(t *testing.T, all []*instance, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	t.Helper()
	r, err := retry.New()
	if err != nil {
		t.Fatal(err)
	}
	m := meta(nil)
	m.Side = interceptors.Client
	n := 0
	streamer := func(ctx context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		to := all[n]
		record := attempt.FromContext(ctx)
		record.SetCandidates(len(all))
		record.SetPicked(&attempt.Instance{Address: fmt.Sprint(n)})
		to.options = opts
		to.end = func() {
			record.SetEnd(attempt.Over | attempt.Sent | attempt.Received | attempt.Answer | attempt.Unhandled)
		}
		n++
		if to.opening != nil {
			to.end()
			to.finish(to.opening)
			return nil, to.opening
		}
		return to, nil
	}
	return r.StreamClient(m)(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, nil, m.FullMethod, streamer, opts...)
}

// What was sent before an instance has said that no handler ran is sent to the next, in
// order, and the end of sending with it. OnFinish runs for the last attempt alone.
func TestAStreamBeginsAnewWhereNoHandlerRan(t *testing.T) {
	for _, closes := range []bool{true, false} {
		all := unhandling(3)
		var finished []error
		stream, err := open(t, all, grpc.OnFinish(func(err error) { finished = append(finished, err) }))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			if err := stream.SendMsg(i); err != nil {
				t.Fatal(err)
			}
		}
		if closes {
			if err := stream.CloseSend(); err != nil {
				t.Fatal(err)
			}
		}
		if err := stream.RecvMsg(nil); err != nil {
			t.Fatal(err)
		}
		for n, i := range all {
			if fmt.Sprint(i.sent) != "[0 1 2]" || i.closed != closes {
				t.Errorf("instance %d received %v, and the end of sending %v: want [0 1 2], %v", n, i.sent, i.closed, closes)
			}
		}
		want, _ := all[2].Header()
		if got, err := stream.Header(); err != nil || got.Get("from")[0] != want.Get("from")[0] {
			t.Errorf("the header is %v, %v: want that of the last attempt", got, err)
		}
		if len(finished) > 0 {
			t.Errorf("OnFinish was called before the end, with %v", finished)
		}
		if err := stream.RecvMsg(nil); !errors.Is(err, io.EOF) || len(finished) != 1 || finished[0] != nil {
			t.Errorf("at the end %v, OnFinish called with %v: want EOF, and one call without an error", err, finished)
		}
	}
}

// A stream that cannot be opened is opened elsewhere, three times in all.
func TestAStreamIsOpenedElsewhere(t *testing.T) {
	for attempts, want := range map[int]error{2: nil, 3: nil, 4: errUnhandled} {
		all := unhandling(attempts)
		for _, i := range all[:attempts-1] {
			i.opening = errUnhandled
		}
		calls := 0
		stream, err := open(t, all, grpc.OnFinish(func(error) { calls++ }))
		if !errors.Is(err, want) || (stream == nil) != (want != nil) {
			t.Errorf("%d instances of which the last has the service: %v, want %v", attempts, err, want)
		}
		if want != nil && calls != 1 {
			t.Errorf("OnFinish was called %d times for a stream that does not open, want 1", calls)
		}
	}
}

// A stream stays where it is once a message has come, once more was sent than is kept, and
// when there is nobody left to try: the caller receives the error, and OnFinish once.
func TestAStreamStays(t *testing.T) {
	const kept = 16
	for name, test := range map[string]struct {
		instances int
		sends     int
		first     []error // what the first instance brings
		attempts  int
	}{
		"as many as are kept":   {3, kept, []error{errUnhandled}, 3},
		"more than are kept":    {3, kept + 1, []error{errUnhandled}, 1},
		"after a first message": {3, 1, []error{nil, errUnhandled}, 1},
		"nobody left":           {1, 1, []error{errUnhandled}, 1},
	} {
		all := unhandling(test.instances)
		all[0].receive = test.first
		var finished []error
		stream, err := open(t, all, grpc.OnFinish(func(err error) { finished = append(finished, err) }))
		if err != nil {
			t.Fatal(err)
		}
		for i := range test.sends {
			if err := stream.SendMsg(i); err != nil {
				t.Fatal(err)
			}
		}
		for err == nil {
			err = stream.RecvMsg(nil)
		}
		attempts := 0
		for _, i := range all {
			if len(i.sent) == test.sends {
				attempts++
			} else if len(i.sent) > 0 {
				t.Errorf("%s: an instance received %d messages, want all %d or none", name, len(i.sent), test.sends)
			}
		}
		if attempts != test.attempts {
			t.Errorf("%s: %d attempts, want %d", name, attempts, test.attempts)
		}
		stays := test.attempts == 1
		if errors.Is(err, errUnhandled) != stays || len(finished) != 1 || (finished[0] != nil) != stays {
			t.Errorf("%s: received %v, and OnFinish with %v", name, err, finished)
		}
	}
}

// SendMsg reports the end of a stream that has begun anew elsewhere only where it stays.
func TestTheEndOfAStreamIsLeftToTheReceiver(t *testing.T) {
	all := unhandling(2)
	all[0].send = io.EOF // the instance has ended the stream, and the status is not read yet
	stream, err := open(t, all)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SendMsg("one"); err != nil {
		t.Errorf("sending: %v, want the end left to the receiver", err)
	}
	if err := stream.RecvMsg(nil); err != nil || fmt.Sprint(all[1].sent) != "[one]" {
		t.Errorf("received %v, and the other instance %v: want [one]", err, all[1].sent)
	}
}
