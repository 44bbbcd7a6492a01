package retry_test

import (
	"context"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/retry"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// gRPC is asked for the trailer only while the picker does not record it, and a pushback is
// obeyed on either way.
func TestTheTrailerIsAskedForOnlyWhereNoPickerRecordsIt(t *testing.T) {
	var verdicts []retry.Verdict
	r, err := retry.New(retry.WithObserver(interceptors.ObserverFunc(func(_ context.Context, _ *interceptors.CallMeta, e interceptors.Event) {
		verdicts = append(verdicts, e.(*retry.Attempt).Verdict)
	})))
	if err != nil {
		t.Fatal(err)
	}
	rule := attempts(3)
	rule.AllowSideEffects = ptr(true)
	interceptor := r.UnaryClient(meta(rule))
	pushback := metadata.MD{"grpc-retry-pushback-ms": {"-1"}}
	refused := status.Error(codes.Unavailable, "down")
	for i, step := range []struct {
		records bool // the picker
		err     error
		asks    bool
		verdict retry.Verdict
	}{
		{records: true, asks: true, verdict: retry.Answered}, // nothing is known yet
		{records: true, asks: false, verdict: retry.Answered},
		{records: true, err: refused, asks: false, verdict: retry.Refused},
		{records: false, asks: false, verdict: retry.Answered}, // another picker, and nothing to read
		{records: true, err: refused, asks: false, verdict: retry.Refused},
		{records: false, err: status.Error(codes.NotFound, "no"), asks: false, verdict: retry.Final},
		{records: false, err: refused, asks: true, verdict: retry.Refused},
	} {
		verdicts = nil
		asked := false
		got := interceptor(t.Context(), "/shop.Catalog/GetSweet", nil, &catalogv1.GetSweetResponse{}, nil,
			func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
				if record := attempt.FromContext(ctx); step.records {
					if step.err != nil {
						record.SetTrailer(pushback)
					}
					record.SetEnd(attempt.Over)
				}
				for _, option := range opts {
					if trailer, ok := option.(grpc.TrailerCallOption); ok {
						asked = true
						*trailer.TrailerAddr = pushback
					}
				}
				return step.err
			})
		if asked != step.asks || got != step.err || !slices.Equal(verdicts, []retry.Verdict{step.verdict}) {
			t.Errorf("call %d: the trailer is asked for: %v, want %v; verdicts %v, want %v; error %v", i, asked, step.asks, verdicts, step.verdict, got)
		}
	}
}
