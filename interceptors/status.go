package interceptors

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Sleep waits, as long as ctx lasts. Its error is that of [Ended].
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

// Ended is the error of a call whose context has ended while it waited: CANCELED for
// who gives up, DEADLINE_EXCEEDED for whose time is over. Its message ends with what the
// call waited for: last, the failure before, which may be nil.
func Ended(ctx context.Context, last error) error {
	code, why := codes.Canceled, "the caller gave up"
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		code, why = codes.DeadlineExceeded, "the time of the call was over"
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

// Logged marks err, which is not nil, as one of which the log has a better line already
// than that of the call: logging does not tell of it as a failure once more. Its status
// and what it wraps stay.
func Logged(err error) error { return logged{err} }

// IsLogged reports whether err is marked by [Logged].
func IsLogged(err error) bool {
	var l logged
	return errors.As(err, &l)
}

type logged struct{ error }

// GRPCStatus is the status of what is marked.
func (l logged) GRPCStatus() *status.Status { return status.Convert(l.error) }

// Unwrap is what is marked.
func (l logged) Unwrap() error { return l.error }
