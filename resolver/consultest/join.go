package consultest

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Join connects datacenters, each with each: a request to one of the agents with
// ?dc= naming another is answered there, with that one's catalog, keys, indexes,
// tokens and faults. Faults that alter indexes act there only. One that is
// unreachable or closed answers 500, as Consul does when the servers of a datacenter
// do not respond. Two agents of the same datacenter cannot be joined.
func (s *Server) Join(others ...*Server) error {
	all := append([]*Server{s}, others...)
	names := make(map[string]bool)
	for _, one := range all {
		if names[one.datacenter] {
			return fmt.Errorf("consultest: cannot join two agents of datacenter %q: name one with WithDatacenter", one.datacenter)
		}
		names[one.datacenter] = true
	}
	for _, one := range all {
		for _, other := range all {
			if one != other {
				one.know(other)
			}
		}
	}
	return nil
}

func (s *Server) know(other *Server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.peers == nil {
		s.peers = make(map[string]*Server)
	}
	s.peers[other.datacenter] = other
}

// datacenters are the own one, then the others.
func (s *Server) datacenters() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{s.datacenter}, slices.Sorted(maps.Keys(s.peers))...)
}

// datacenterOf is the one a request asks for, or empty.
func datacenterOf(q url.Values) string {
	if dc := q.Get("datacenter"); dc != "" {
		return dc
	}
	return q.Get("dc")
}

// elsewhere finds the agent of another datacenter that a request is for.
// Endpoints of the agent itself know no datacenter.
func (s *Server) elsewhere(r *http.Request) *Server {
	if strings.HasPrefix(r.URL.Path, "/v1/agent/") || r.URL.Path == "/v1/catalog/datacenters" {
		return nil
	}
	dc := datacenterOf(r.URL.Query())
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peers[dc]
}

// forward lets other answer. What goes wrong between the datacenters is told in
// Consul's words.
func (s *Server) forward(other *Server, w http.ResponseWriter, r *http.Request) {
	v := s.visitOf(r.Context())
	s.writeCommon(w.Header())
	for {
		if !other.isUp() {
			text := "rpc error getting client: failed to get conn: dial tcp 127.0.0.1:0->" + other.nodeAddress + ":8300: connect: connection refused"
			write(w, http.StatusInternalServerError, typeText, []byte(text))
			return
		}
		rec, broken := v.ask(other, r)
		switch {
		case !broken:
			maps.Copy(w.Header(), rec.header)
			w.WriteHeader(rec.status)
			_, _ = w.Write(rec.body.Bytes())
		case r.Context().Err() != nil:
			panic(http.ErrAbortHandler)
		case v.changed.Err() != nil && !v.turned():
			continue
		case !v.again:
			write(w, http.StatusServiceUnavailable, typeText, []byte("error reading from server: EOF"))
		}
		return
	}
}

// ask passes a request on until it is answered, the connection between the
// datacenters breaks, or the faults here change.
func (v *visit) ask(other *Server, r *http.Request) (rec *recorder, broken bool) {
	ctx, cancel := context.WithCancel(context.WithValue(r.Context(), connKey{}, nil)) // the client's connection is not the other's to break
	defer cancel()
	defer context.AfterFunc(v.changed, cancel)()
	rec = &recorder{header: make(http.Header), status: http.StatusOK}
	r = r.Clone(ctx)
	if v.hurry {
		q := r.URL.Query()
		q.Del("index")
		r.URL.RawQuery = q.Encode()
	}
	err := serve(other, rec, r)
	return rec, err != nil
}

func (s *Server) isUp() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reachable && !s.closed
}
