package interceptors

import (
	"errors"

	"google.golang.org/grpc/status"
)

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
