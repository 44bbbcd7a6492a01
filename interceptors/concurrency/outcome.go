package concurrency

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/meshlite-go/meshlite/internal/rpc"
)

// outcome is what the end of a call tells of the time that its method takes.
type outcome uint8

const (
	noSample outcome = iota // nothing: it failed, which is often quick, or was given up
	answered                // it takes that long
	expired                 // it would have taken longer
)

// outcomeOf takes a call that is cancelled at its deadline for one that has expired.
// Client and server end it both, and a method of which all callers lose patience must
// not depend on who is first.
func (m *method) outcomeOf(ctx context.Context, began int64, err error) outcome {
	if err == nil {
		return answered
	}
	switch rpc.Code(err) {
	case codes.DeadlineExceeded:
		return expired
	case codes.Canceled:
		deadline, ok := ctx.Deadline()
		if took := m.now() - began; ok && int64(time.Until(deadline)) <= took/10 {
			return expired
		}
	}
	return noSample
}
