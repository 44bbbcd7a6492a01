package consultest

import (
	"fmt"
	"net/http"
)

// Register adds an instance, or replaces the one with the same id, as a PUT to
// /v1/agent/service/register does. A check that was there before keeps its state,
// and checks that svc does not mention stay. The error is what the agent would answer.
func (s *Server) Register(svc Service) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.register(svc, false)
}

// Deregister removes an instance and its checks.
func (s *Server) Deregister(serviceID string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deregister(serviceID)
}

// SetStatus puts the checks of an instance into a state; one without checks gets
// a check for that. The state stays until a heartbeat, a missed one or a probe
// says otherwise.
func (s *Server) SetStatus(serviceID, status string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.setServiceStatus(serviceID, status)
}

// setServiceStatus is SetStatus with s.mu held.
func (s *Server) setServiceStatus(serviceID, status string) error {
	in := s.st.instances[serviceID]
	if in == nil {
		return unknownService(serviceID)
	}
	if !validStatus(status) {
		return badRequest("Invalid check status: '%s'", status)
	}
	if len(in.checks) == 0 {
		s.addCheck(newCheck(Check{Status: status}, in, "service:"+serviceID, text))
		return nil
	}
	for _, c := range in.checks {
		s.setStatus(c, status, "")
	}
	return nil
}

func unknownService(id string) error {
	return httpError{http.StatusNotFound, fmt.Sprintf("Unknown service ID %q. Ensure that the service ID is passed, not the service name.", id)}
}

// own reports the agent's instance, which a catalog entry of Consul itself is not.
func (s *Server) own(id string) *instance {
	if in := s.st.instances[id]; in != nil && !in.catalogOnly {
		return in
	}
	return nil
}

// register is Register with s.mu held, as are all below. With replace, checks
// that svc does not mention go.
func (s *Server) register(svc Service, replace bool) error {
	svc, err := svc.normalize()
	if err != nil {
		return err
	}
	old := s.st.instances[svc.ID]
	if old != nil && old.catalogOnly {
		return badRequest("service ID %q is Consul's own: take another", svc.ID)
	}
	for i, def := range svc.Checks {
		if old := s.st.checks[checkID(def, svc, i)]; old != nil && old.catalogOnly {
			return badRequest("check ID %q is Consul's own: take another", old.id)
		}
	}
	added := 0
	if old == nil {
		added = 1
	}
	if full := s.st.full(added, len(svc.Checks)); full != "" {
		return httpError{http.StatusInsufficientStorage, full}
	}
	idx := s.st.index + 1
	changed := s.st.put(svc, idx)
	in := s.st.instances[svc.ID]
	mentioned := make(map[string]bool)
	for i, def := range svc.Checks {
		c := newCheck(def, in, checkID(def, svc, i), text)
		mentioned[c.id] = true
		changed = s.replaceCheck(c, idx) || changed
	}
	for id, c := range in.checks {
		if replace && !mentioned[id] {
			s.stopCheck(c)
			s.st.removeCheck(c, idx)
			changed = true
		}
	}
	if changed {
		s.st.index = idx
		s.st.wake()
	}
	return nil
}

func checkID(def Check, svc Service, i int) string {
	switch {
	case def.CheckID != "":
		return def.CheckID
	case len(svc.Checks) > 1:
		return fmt.Sprintf("service:%s:%d", svc.ID, i+1)
	default:
		return "service:" + svc.ID
	}
}

// replaceCheck starts c in place of a check with the same id, whose state it
// inherits, and reports whether the catalog changed.
func (s *Server) replaceCheck(c *check, idx uint64) bool {
	if old := s.st.checks[c.id]; old != nil {
		s.stopCheck(old)
		c.status, c.output, c.catalogOutput, c.criticalSince = old.status, old.output, old.catalogOutput, old.criticalSince
	}
	changed := s.st.putCheck(c, idx)
	s.startCheck(c)
	return changed
}

// addCheck is replaceCheck as a write of its own.
func (s *Server) addCheck(c *check) {
	idx := s.st.index + 1
	if s.replaceCheck(c, idx) {
		s.st.index = idx
		s.st.wake()
	}
}

func (s *Server) removeCheck(c *check) {
	s.stopCheck(c)
	s.st.removeCheck(c, s.st.next())
	s.st.wake()
}

func (s *Server) deregister(id string) error {
	in := s.own(id)
	if in == nil {
		return unknownService(id)
	}
	for _, c := range in.checks {
		s.stopCheck(c)
	}
	s.st.remove(in, s.st.next())
	s.st.wake()
	return nil
}
