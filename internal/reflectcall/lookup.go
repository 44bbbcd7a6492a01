package reflectcall

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ErrNoReflection is the error of a server that does not answer reflection.
var ErrNoReflection = errors.New("the server does not answer reflection")

// Finder finds contracts: those of a server, by reflection, and else those of Files,
// which the user names. What this program is compiled with, such as grpc.health.v1,
// stands in for a server that keeps its contracts to itself.
type Finder struct {
	Conn  grpc.ClientConnInterface
	Files *Files // nil is none
}

// Lookup finds a method of the server at conn. It is [Finder.Method] without files.
func Lookup(ctx context.Context, conn grpc.ClientConnInterface, name string) (*Method, error) {
	return Finder{Conn: conn}.Method(ctx, name)
}

// Method finds a method, named as [SplitName] takes it. A service is an error that
// lists its methods.
func (f Finder) Method(ctx context.Context, name string) (*Method, error) {
	service, method, err := f.Find(ctx, name)
	if err == nil && method == nil {
		err = service.Unfinished()
	}
	return method, err
}

// Find finds a method, or a service and no method if that is what name is. What does
// not exist is an error that lists what there is, closest first. An error of the call
// to the server keeps its gRPC status.
func (f Finder) Find(ctx context.Context, name string) (*Service, *Method, error) {
	service, method, err := SplitName(name)
	if err != nil {
		return nil, nil, err
	}
	var found *Service
	var m *Method
	find := func(s source) (err error) { found, m, err = find(s, service, method); return err }

	err = f.reflect(ctx, find)
	var unknown *unknownError
	missing := errors.As(err, &unknown)
	if err == nil || !missing && unreached(err) {
		return found, m, err
	}
	if f.Files != nil {
		if ours := find(f.Files); !errors.As(ours, &unknown) {
			return found, m, ours
		}
	}
	if !missing && keptBack(err) {
		if ours := find(compiledIn()); !errors.As(ours, &unknown) {
			return found, m, ours
		}
	}
	if f.Files != nil && !missing {
		err = fmt.Errorf("%w, and the files that were given have no service %q: they have %s", err, service, offer(service, f.Files.names()))
	}
	return nil, nil, err
}

// Services lists the names of all services, in the order of the server or the alphabet.
func (f Finder) Services(ctx context.Context) (names []string, err error) {
	err = f.reflect(ctx, func(s source) (err error) { names, err = s.services(); return err })
	if err == nil || f.Files == nil || unreached(err) {
		return names, err
	}
	return f.Files.services()
}

// reflect asks the server, in the newest version of the service that it has.
func (f Finder) reflect(ctx context.Context, ask func(source) error) error {
	for _, version := range versions {
		err := in(ctx, f.Conn, version, ask)
		if status.Code(err) != codes.Unimplemented || isHTTP(err) {
			return err
		}
	}
	return ErrNoReflection
}

func in(ctx context.Context, conn grpc.ClientConnInterface, version string, ask func(source) error) error {
	s, err := open(ctx, conn, version)
	if err != nil {
		return err
	}
	defer s.close()
	return ask(s)
}

// isHTTP reports an answer that no gRPC server gave: gRPC makes Unimplemented of
// HTTP's 404.
func isHTTP(err error) bool {
	return strings.HasPrefix(status.Convert(err).Message(), "unexpected HTTP status code")
}

// unreached reports an error with which a call would end as well.
func unreached(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return true
	default:
		return isHTTP(err)
	}
}

// keptBack reports that the server does not show its contracts, or not to us.
func keptBack(err error) bool {
	code := status.Code(err)
	return errors.Is(err, ErrNoReflection) || code == codes.PermissionDenied || code == codes.Unauthenticated
}

// source is where contracts come from.
type source interface {
	// service is nil without an error when name is none of a service.
	service(name string) (*Service, error)
	services() ([]string, error)
}

// unknownError is of a source that has no such service.
type unknownError struct {
	service string
	names   []string // that it has
}

func (e *unknownError) Error() string {
	return fmt.Sprintf("the server has no service %q: it offers %s", e.service, offer(e.service, e.names))
}

// find is a service of s and its method, which is nil if a service was named.
func find(s source, service, method string) (*Service, *Method, error) {
	found, err := s.service(service)
	if err != nil {
		return nil, nil, err
	}
	if found != nil && method != "" {
		m, err := found.method(method)
		return found, m, err
	}
	if found == nil && method != "" { // a dot stands before a method and within a service
		found, err = s.service(service + "." + method)
	}
	if found != nil || err != nil {
		return found, nil, err
	}
	names, err := s.services()
	if err != nil {
		return nil, nil, err
	}
	return nil, nil, &unknownError{service, names}
}
