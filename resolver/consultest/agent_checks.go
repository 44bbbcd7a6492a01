package consultest

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// newCheck makes the check of an instance, or of the node if in is nil.
func newCheck(def Check, in *instance, id string, show func(time.Duration) string) *check {
	c := &check{Check: def, id: id, kind: def.kind(), status: HealthCritical,
		interval: show(def.Interval), timeout: show(def.Timeout)}
	if def.Status != "" {
		c.status = def.Status
	}
	if in != nil {
		c.serviceID, c.serviceName, c.serviceTags = in.ID, in.Name, in.Tags
		if c.Name == "" {
			c.Name = fmt.Sprintf("Service '%s' check", in.Name)
		}
	}
	return c
}

func unknownCheck(id string) error {
	return httpError{http.StatusNotFound, fmt.Sprintf("Unknown check ID %q. Ensure that the check ID is passed, not the check name.", id)}
}

func (s *Server) agentChecks(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := noFilter(r); err != nil {
		return nil, err
	}
	if _, err := s.allowed(r); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]checkJSON)
	for id, c := range s.st.checks {
		if !c.catalogOnly {
			all[id] = c.agentJSON(s.nodeName)
		}
	}
	if s.filter(w, r, len(all)) {
		clear(all)
	}
	return all, nil
}

func (s *Server) agentCheckRegister(_ http.ResponseWriter, r *http.Request) (any, error) {
	var body checkDefinition
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	id := body.ID
	if id == "" {
		id = body.Name
	}
	def, serviceID := body.check(id), body.ServiceID+body.ServiceIDSnake
	switch {
	case body.Name == "":
		return nil, badRequest("Missing check name")
	case def.Status != "" && !validStatus(def.Status):
		return nil, badRequest("Bad check status")
	}
	if err := body.unsupported(); err != nil {
		return nil, err
	}
	if err := def.validate(); err != nil {
		return nil, badRequest("Invalid check: %v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.own(serviceID)
	if in == nil && serviceID != "" {
		return nil, httpError{http.StatusNotFound, fmt.Sprintf("ServiceID %q does not exist", serviceID)}
	}
	if err := s.mayWriteCheck(r, in); err != nil {
		return nil, err
	}
	if old := s.st.checks[id]; old != nil && old.catalogOnly {
		return nil, badRequest("check ID %q is Consul's own: take another", id)
	}
	if full := s.st.full(0, 1); full != "" {
		return nil, httpError{http.StatusInsufficientStorage, full}
	}
	s.addCheck(newCheck(def, in, id, time.Duration.String))
	return nil, nil
}

func (s *Server) mayWriteCheck(r *http.Request, in *instance) error {
	if in == nil {
		return s.require(r, "node:write", s.nodeName)
	}
	return s.require(r, "service:write", in.Name)
}

// findCheck finds an agent's check that the request may change. The caller holds s.mu.
func (s *Server) findCheck(r *http.Request, id string) (*check, error) {
	if _, err := s.allowed(r); err != nil {
		return nil, err
	}
	c := s.st.checks[id]
	if c == nil || c.catalogOnly {
		return nil, unknownCheck(id)
	}
	return c, s.mayWriteCheck(r, s.own(c.serviceID))
}

func (s *Server) agentCheckDeregister(_ http.ResponseWriter, r *http.Request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.findCheck(r, after(r, "/v1/agent/check/deregister/"))
	if err != nil {
		return nil, err
	}
	s.removeCheck(c)
	return nil, nil
}

// agentCheckUpdate is the heartbeat of a TTL check, in its four spellings.
func (s *Server) agentCheckUpdate(_ http.ResponseWriter, r *http.Request) (any, error) {
	verb, id, _ := strings.Cut(after(r, "/v1/agent/check/"), "/")
	update := struct{ Status, Output string }{Output: r.URL.Query().Get("note")}
	switch verb {
	case "pass":
		update.Status = HealthPassing
	case "warn":
		update.Status = HealthWarning
	case "fail":
		update.Status = HealthCritical
	default:
		if err := decode(r, &update); err != nil {
			return nil, err
		}
	}
	if !validStatus(update.Status) {
		return nil, badRequest("Invalid check status: '%s'", update.Status)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.findCheck(r, id)
	if err != nil {
		return nil, err
	}
	if c.TTL <= 0 {
		return nil, httpError{http.StatusInternalServerError, fmt.Sprintf("CheckID %q does not have associated TTL", id)}
	}
	s.renew(c, update.Status, update.Output)
	return nil, nil
}
