package interceptors

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Sleep waits unless ctx ends before. Its error is that of [Ended].
func Sleep(ctx context.Context, wait time.Duration, last error) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return Ended(ctx, last)
	case <-timer.C:
		return nil
	}
}

// Ended returns the error of a call whose context ended while it waited: CANCELED or
// DEADLINE_EXCEEDED. Its message ends with last, the failure that the call waited to retry,
// which may be nil.
func Ended(ctx context.Context, last error) error {
	code, why := codes.Canceled, "the caller gave up"
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		code, why = codes.DeadlineExceeded, "the deadline of the call passed"
	}
	if last == nil {
		return status.Error(code, fmt.Sprintf("%s while it waited", why))
	}
	s := status.Convert(last)
	if s.Code() == code {
		return last
	}
	return status.Error(code, fmt.Sprintf("%s while it waited to try again after %v: %s", why, s.Code(), s.Message()))
}

// Logged marks err, which is not nil, as logged already with more detail than the line of
// the call has: package logging does not log it as a failure again. Its status and what
// it wraps stay.
func Logged(err error) error { return logged{err} }

// IsLogged reports whether err is marked by [Logged].
func IsLogged(err error) bool {
	var l logged
	return errors.As(err, &l)
}

type logged struct{ error }

// GRPCStatus is the status of the marked error.
func (l logged) GRPCStatus() *status.Status { return status.Convert(l.error) }

// Unwrap returns the marked error.
func (l logged) Unwrap() error { return l.error }
