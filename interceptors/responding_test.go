package interceptors_test

import (
	"context"
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
)

// scripted is a stream that receives one error after the other; nil is a message.
type scripted struct {
	grpc.ClientStream
	errs []error
}

func (s *scripted) RecvMsg(any) error {
	err := s.errs[0]
	s.errs = s.errs[1:]
	return err
}

// P5: for a stream the time to the first response counts, which the chain reports to the
// picker: a message or a clean end, and no error.
//
// Case P5
func TestTheChainRecordsTheFirstResponse(t *testing.T) {
	broken := errors.New("broken")
	for name, test := range map[string]struct {
		errs []error
		want int // the RecvMsg that is the first response; 0 is none
	}{
		"messages":     {[]error{nil, nil, io.EOF}, 1},
		"an empty one": {[]error{io.EOF}, 1},
		"broken":       {[]error{broken}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			received, respondedAt := 0, 0
			streamer := func(ctx context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
				record := attempt.FromContext(ctx) // as a picker does
				if record == nil || record.Kind() != attempt.Stream {
					t.Fatalf("the picker gets the record %v, want one of a stream", record)
				}
				record.OnResponse(func() { respondedAt = received })
				return &scripted{errs: test.errs}, nil
			}
			chain := chainOf(t, interceptors.Client, newPolicies(t, nil))
			stream, err := chain.StreamClient()(context.Background(), &grpc.StreamDesc{}, nil, browse, streamer)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range test.errs {
				received++
				if err := stream.RecvMsg(nil); !errors.Is(err, want) {
					t.Errorf("received %v, want %v", err, want)
				}
			}
			if respondedAt != test.want {
				t.Errorf("the first response was respondedAt at message %d, want %d", respondedAt, test.want)
			}
		})
	}
}
