package consultest

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// after is the part of the path behind prefix: an id, which may contain slashes.
func after(r *http.Request, prefix string) string { return strings.TrimPrefix(r.URL.Path, prefix) }

func (s *Server) agentServiceRegister(_ http.ResponseWriter, r *http.Request) (any, error) {
	var def serviceDefinition
	if err := decode(r, &def); err != nil {
		return nil, err
	}
	svc, err := def.service()
	if def.Name == "" || err != nil {
		return nil, firstError(err, badRequest("Missing service name"))
	}
	if err := s.require(r, "service:write", def.Name); err != nil {
		return nil, err
	}
	replace := r.URL.Query()["replace-existing-checks"]
	s.mu.Lock()
	defer s.mu.Unlock()
	return nil, s.register(svc, len(replace) > 0 && (replace[0] == "" || replace[0] == "true"))
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// mayChange finds the agent's instance and checks that the request may change it.
// The caller holds s.mu.
func (s *Server) mayChange(r *http.Request, id string) (*instance, error) {
	if _, err := s.allowed(r); err != nil {
		return nil, err
	}
	in := s.own(id)
	if in == nil {
		return nil, unknownService(id)
	}
	return in, s.require(r, "service:write", in.Name)
}

func (s *Server) agentServiceDeregister(_ http.ResponseWriter, r *http.Request) (any, error) {
	id := after(r, "/v1/agent/service/deregister/")
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.mayChange(r, id); err != nil {
		return nil, err
	}
	return nil, s.deregister(id)
}

func (s *Server) agentServiceMaintenance(_ http.ResponseWriter, r *http.Request) (any, error) {
	id, q := after(r, "/v1/agent/service/maintenance/"), r.URL.Query()
	if id == "" {
		return nil, badRequest("Missing service ID")
	}
	if !q.Has("enable") {
		return nil, badRequest("Missing value for enable")
	}
	enable, err := strconv.ParseBool(q.Get("enable"))
	if err != nil {
		return nil, badRequest("Invalid value for enable: %q", q.Get("enable"))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	in, err := s.mayChange(r, id)
	if err != nil {
		return nil, err
	}
	s.maintain(in, enable, q.Get("reason"))
	return nil, nil
}

// maintain puts in into maintenance mode, which is a critical check, or takes it
// out. The caller holds s.mu.
func (s *Server) maintain(in *instance, enable bool, reason string) {
	id := "_service_maintenance:" + in.ID
	old := s.st.checks[id]
	switch {
	case enable && old == nil:
		if reason == "" {
			reason = "Maintenance mode is enabled for this service, but no reason was provided. This is a default message."
		}
		c := newCheck(Check{Name: "Service Maintenance Mode", Notes: reason}, in, id, text)
		c.kind = "maintenance"
		s.addCheck(c)
	case !enable && old != nil:
		s.removeCheck(old)
	}
}

// agentService shows one instance. With ?hash it blocks until the hash of what
// it shows is another one.
func (s *Server) agentService(w http.ResponseWriter, r *http.Request) (any, error) {
	id := after(r, "/v1/agent/service/")
	opts, err := parseQuery(r)
	if err != nil {
		return nil, err
	}
	var timeout time.Duration
	hash := r.URL.Query().Get("hash")
	if hash != "" {
		timeout = opts.timeout()
	}
	var shown *agentServiceJSON
	again := s.block(r.Context(), timeout, func(*state) bool {
		shown, err = s.showService(r, id)
		return err != nil || shown.ContentHash != hash
	})
	if err := firstError(again, err); err != nil {
		return nil, err
	}
	w.Header().Set("X-Consul-ContentHash", shown.ContentHash)
	return shown, nil
}

func (s *Server) showService(r *http.Request, id string) (*agentServiceJSON, error) {
	if _, err := s.allowed(r); err != nil {
		return nil, err
	}
	in := s.own(id)
	if in == nil {
		return nil, httpError{http.StatusNotFound, "unknown service ID: " + id}
	}
	if err := s.require(r, "service:read", in.Name); err != nil {
		return nil, err
	}
	shown := in.agentJSON(s.datacenter)
	body, err := json.Marshal(shown)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	shown.ContentHash = fmt.Sprintf("%x", sum[:8])
	return shown, nil
}

func (s *Server) agentServices(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := noFilter(r); err != nil {
		return nil, err
	}
	if _, err := s.allowed(r); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]*agentServiceJSON)
	for id, in := range s.st.instances {
		if !in.catalogOnly {
			all[id] = in.agentJSON(s.datacenter)
		}
	}
	if s.filter(w, r, len(all)) {
		clear(all)
	}
	return all, nil
}

func (s *Server) agentSelf(_ http.ResponseWriter, r *http.Request) (any, error) {
	if err := s.require(r, "agent:read", s.nodeName); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.node()
	return map[string]any{
		"Config": map[string]any{
			"Datacenter": s.datacenter, "PrimaryDatacenter": s.datacenter, "NodeName": s.nodeName, "NodeID": s.nodeID,
			"Revision": "consultest", "Server": true, "Version": version, "BuildDate": "1970-01-01T00:00:01Z", "BindAddr": s.nodeAddress,
		},
		"DebugConfig": map[string]any{"ACLsEnabled": s.aclEnabled, "BindAddr": s.nodeAddress, "Datacenter": s.datacenter,
			"DevMode": true, "NodeName": s.nodeName, "Version": version},
		"Coord":  map[string]any{"Vec": make([]float64, 8), "Error": 1.5, "Adjustment": 0, "Height": 0.00001},
		"Member": s.member(),
		"Stats": map[string]any{
			"agent": map[string]string{"checks": strconv.Itoa(len(s.st.checks) - 1), "services": strconv.Itoa(len(s.st.instances) - 1)},
			"build": map[string]string{"version": version, "revision": "consultest"},
			"raft":  map[string]string{"applied_index": strconv.FormatUint(s.st.index, 10), "state": "Leader"},
		},
		"Meta": n.Meta,
	}, nil
}

func (s *Server) agentMembers(w http.ResponseWriter, r *http.Request) (any, error) {
	if _, err := s.allowed(r); err != nil {
		return nil, err
	}
	if s.filter(w, r, 1) {
		return []any{}, nil
	}
	return []any{s.member()}, nil
}

func (s *Server) member() map[string]any {
	acls := "0"
	if s.aclEnabled {
		acls = "1"
	}
	return map[string]any{
		"Name": s.nodeName, "Addr": s.nodeAddress, "Port": 8301, "Status": 1,
		"Tags": map[string]string{"acls": acls, "build": version + ":", "dc": s.datacenter, "id": s.nodeID,
			"port": "8300", "role": "consul", "raft_vsn": "3", "segment": "", "vsn": "2"},
		"ProtocolMin": 1, "ProtocolMax": 5, "ProtocolCur": 2, "DelegateMin": 2, "DelegateMax": 5, "DelegateCur": 4,
	}
}
