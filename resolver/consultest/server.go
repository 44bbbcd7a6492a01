package consultest

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"
)

// maxQueries bounds the memory of Queries in an agent that runs for long.
const maxQueries = 16384

// Server is one agent. All methods are safe for concurrent use.
type Server struct {
	config
	mux     *http.ServeMux
	started time.Time
	work    sync.WaitGroup // handlers, probes, timers, the accept loop

	mu        sync.Mutex // never held while waiting
	st        *state
	closed    bool
	reachable bool
	intercept func(http.ResponseWriter, *http.Request) bool
	queries   []Query
	peers     map[string]*Server // of other datacenters, by name
	listeners []*listener
	life      context.Context // ends when the agent dies or is cut off
	kill      context.CancelFunc

	faults faultSet
	conns  connections
	ended  chan struct{} // closed by Close
}

// New makes an agent that knows no services and listens nowhere. Close it.
func New(opts ...Option) *Server {
	s := &Server{config: newConfig(opts), started: time.Now(), reachable: true, ended: make(chan struct{})}
	s.st = newState(&s.config)
	s.conns = connections{limit: s.maxConnections, from: make(map[string]int)}
	s.mux = s.routes()
	s.life, s.kill = context.WithCancel(context.Background())
	s.faults.turn()
	return s
}

// Close stops the agent: checks end, listeners close, open queries fail as if
// the process had been killed. It waits for all of them, and may be called again.
func (s *Server) Close() {
	s.mu.Lock()
	if !s.closed {
		close(s.ended)
	}
	s.closed = true
	s.kill()
	s.stopAllChecks()
	listeners := s.listeners
	s.listeners = nil
	s.mu.Unlock()
	s.faults.end()
	for _, l := range listeners {
		_ = l.server.Close()
	}
	s.work.Wait()
}

// Restart is an agent that was killed and came back with nothing: services,
// checks and keys are gone, indexes start low again, open queries and
// connections break. Faults, Queries and joined agents stay.
func (s *Server) Restart() {
	s.cut(func() {
		s.stopAllChecks()
		s.st = newState(&s.config)
	})
}

// SetReachable cuts the agent off, or connects it again. While it is cut off it
// keeps its state, its checks go on, requests through Transport fail as with
// nobody listening, and connections to its listeners are dropped.
func (s *Server) SetReachable(reachable bool) {
	if !reachable {
		s.cut(func() { s.reachable = false })
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reachable = true
}

// cut makes a change, with s.mu held, at which every open request and connection breaks.
func (s *Server) cut(change func()) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	change()
	kill, listeners := s.kill, s.listeners
	s.life, s.kill = context.WithCancel(context.Background())
	s.mu.Unlock()
	for _, l := range listeners {
		l.drop() // before the handlers end, who would close connections in their own way
	}
	kill()
}

// Intercept lets answer see every request before the agent does; the agent
// leaves those alone for which it returns true. Within answer, s.ServeHTTP(w, r)
// gives the agent's own answer, which may be altered on its way. Nil ends it.
// answer must return when the request's context ends. Faults that are injected
// meet a request before answer does, and alter what it writes. When they change, a
// query that waits in s.ServeHTTP comes by again: answer is left by a panic, as with
// [http.ErrAbortHandler], and called anew.
func (s *Server) Intercept(answer func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intercept = answer
}

// Queries returns the latest requests for /v1/health/service, oldest first, up
// to some ten thousand of them. A blocking query is there once it has arrived.
func (s *Server) Queries() []Query {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Query(nil), s.queries...)
}

// record keeps r if it asks for the health of a service. The caller holds s.mu.
func (s *Server) record(r *http.Request, refused bool) {
	service, ok := strings.CutPrefix(r.URL.Path, "/v1/health/service/")
	if !ok {
		return
	}
	if len(s.queries) == maxQueries {
		s.queries = append(s.queries[:0], s.queries[maxQueries/2:]...)
	}
	opts, _ := parseQuery(r) // a bad one is still a query
	s.queries = append(s.queries, Query{
		Time: time.Now(), Service: service, Index: opts.index, Wait: opts.wait,
		RawQuery: r.URL.RawQuery, HasToken: tokenOf(r) != "", Refused: refused,
	})
}

// ServeHTTP answers one request of Consul's HTTP API.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if v := s.visitOf(r.Context()); v != nil {
		if s.answer(w, r); v.again {
			panic(errAgain) // whoever intercepts must not take nothing for the answer
		}
		return
	}
	s.mu.Lock()
	if s.closed || !s.reachable {
		s.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	s.record(r, false)
	life, intercept := s.life, s.intercept
	s.work.Add(1)
	s.mu.Unlock()
	defer s.work.Done()

	v := &visit{server: s, client: w}
	ctx, cancel := context.WithCancel(context.WithValue(r.Context(), own{s}, v))
	defer cancel()
	defer context.AfterFunc(life, cancel)()
	v.request = r.WithContext(ctx)
	v.serve(func(w http.ResponseWriter) {
		if intercept == nil || !intercept(w, v.request) {
			s.answer(w, v.request)
		}
	})
	if life.Err() != nil {
		panic(http.ErrAbortHandler) // a killed agent finishes no answer
	}
}
