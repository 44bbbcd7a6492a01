package consultest

import (
	"net"
	"net/http"
	"sync"
)

// connections counts those to all listeners of an agent.
type connections struct {
	mu         sync.Mutex
	limit      int // per client address, or 0
	open, most int
	from       map[string]int
}

// Connections tells how many connections to the agent's listeners are open, and
// how many were at most at one time, those over a limit included. Transport has none.
func (s *Server) Connections() (open, most int) {
	s.conns.mu.Lock()
	defer s.conns.mu.Unlock()
	return s.conns.open, s.conns.most
}

// add counts c and reports whether its client has too many.
func (cs *connections) add(client string) (over bool) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.open++
	cs.most = max(cs.most, cs.open)
	cs.from[client]++
	return cs.limit > 0 && cs.from[client] > cs.limit
}

func (cs *connections) remove(client string) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.open--
	if cs.from[client]--; cs.from[client] == 0 {
		delete(cs.from, client)
	}
}

// clientOf is the address without its port, which is another for every connection.
func clientOf(c net.Conn) string {
	host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
	return host
}

// ServeHTTP answers requests of the listener. A connection over the limit gets
// Consul's words for that, once its request is there to be answered.
func (l *listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(*conn); ok && c.over {
		w.Header().Set("Connection", "close")
		write(w, http.StatusTooManyRequests, "text/plain",
			[]byte("Your IP is issuing too many concurrent connections, please rate limit your calls\n"))
		return
	}
	l.owner.ServeHTTP(w, r)
}
