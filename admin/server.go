package admin

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

// Server serves a handler until it is closed. It is safe for concurrent use.
type Server struct {
	http     *http.Server
	listener net.Listener
	done     chan struct{}
	err      error // valid once done is closed
}

// Serve serves handler on listener, which the server then owns, with bounds on
// what a slow client can hold. An answer may take 90 seconds, so that a CPU
// profile fits.
func Serve(listener net.Listener, handler http.Handler) *Server {
	s := newServer(listener, handler)
	go s.serve()
	return s
}

func newServer(listener net.Listener, handler http.Handler) *Server {
	return &Server{
		listener: listener,
		done:     make(chan struct{}),
		http: &http.Server{
			Handler:           handler,
			ReadHeaderTimeout: 5 * time.Second,
			ReadTimeout:       10 * time.Second,
			WriteTimeout:      90 * time.Second,
			IdleTimeout:       60 * time.Second,
			MaxHeaderBytes:    16 << 10,
		},
	}
}

func (s *Server) serve() {
	defer close(s.done)
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		s.err = err
	}
}

// Addr is where it listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Shutdown stops listening and waits for requests under way, at most until ctx
// ends; what is left then is cut off. The error is that of ctx, or the one that
// had ended serving before.
func (s *Server) Shutdown(ctx context.Context) error {
	if err := s.http.Shutdown(ctx); err != nil {
		return errors.Join(err, s.Close())
	}
	<-s.done
	return s.err
}

// Close stops at once. The error is the one that had ended serving before.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.done
	return errors.Join(s.err, err)
}
