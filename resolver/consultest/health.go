package consultest

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// noFilter refuses expressions, rather than ignore them and answer too much.
func noFilter(r *http.Request) error {
	if filter := r.URL.Query().Get("filter"); filter != "" {
		return badRequest("consultest does not know filter expressions, such as %q: ask without ?filter", filter)
	}
	return nil
}

// readable refuses what no reading endpoint of catalog and health can answer.
func (s *Server) readable(r *http.Request) error {
	if _, err := s.allowed(r); err != nil {
		return err
	}
	return noFilter(r)
}

// healthService is what resolvers ask: the instances of a service with their checks.
func (s *Server) healthService(w http.ResponseWriter, r *http.Request) (any, error) {
	name, q := after(r, "/v1/health/service/"), r.URL.Query()
	if name == "" {
		return nil, badRequest("Missing service name")
	}
	passing := q.Has("passing")
	if v := q.Get("passing"); v != "" {
		var err error
		if passing, err = strconv.ParseBool(v); err != nil {
			return nil, badRequest("Invalid value for ?passing")
		}
	}
	if err := s.readable(r); err != nil {
		return nil, err
	}
	entries := []healthEntryJSON{}
	err := s.readFound(w, r, func(st *state) (uint64, bool) {
		entries = s.healthEntries(st, name, q["tag"], passing)
		return st.indexOf(name, true), st.exists(name)
	})
	if err == nil && s.filter(w, r, len(entries)) {
		entries = entries[:0]
	}
	return entries, err
}

func (s *Server) healthEntries(st *state, name string, tags []string, passing bool) []healthEntryJSON {
	entries, node, nodeChecks := []healthEntryJSON{}, s.node(), st.nodeChecks()
	for _, in := range st.instancesOf(name) {
		checks := st.checksOf(in, nodeChecks)
		bad := slices.ContainsFunc(checks, func(c *check) bool { return c.status != HealthPassing })
		if passing && bad || !hasTags(in.Tags, tags) {
			continue
		}
		entries = append(entries, healthEntryJSON{Node: node, Service: in.healthJSON(), Checks: checksJSON(checks, s.nodeName)})
	}
	return entries
}

// hasTags reports whether all wanted tags are there, whatever their case.
func hasTags(tags, wanted []string) bool {
	for _, want := range wanted {
		if !slices.ContainsFunc(tags, func(tag string) bool { return strings.EqualFold(tag, want) }) {
			return false
		}
	}
	return true
}

func (s *Server) healthChecks(w http.ResponseWriter, r *http.Request) (any, error) {
	name := after(r, "/v1/health/checks/")
	if name == "" {
		return nil, badRequest("Missing service name")
	}
	return s.listChecks(w, r, func(c *check) bool { return c.serviceName == name })
}

func (s *Server) healthState(w http.ResponseWriter, r *http.Request) (any, error) {
	status := after(r, "/v1/health/state/")
	if status == "" {
		return nil, badRequest("Missing check state")
	}
	return s.listChecks(w, r, func(c *check) bool { return status == "any" || c.status == status })
}

func (s *Server) healthNode(w http.ResponseWriter, r *http.Request) (any, error) {
	node := after(r, "/v1/health/node/")
	if node == "" {
		return nil, badRequest("Missing node name")
	}
	return s.listChecks(w, r, func(*check) bool { return node == s.nodeName })
}

// listChecks answers the checks that match. Consul keeps one index for all of them.
func (s *Server) listChecks(w http.ResponseWriter, r *http.Request, match func(*check) bool) (any, error) {
	if err := s.readable(r); err != nil {
		return nil, err
	}
	var checks []checkJSON
	err := s.read(w, r, func(st *state) uint64 {
		all := sorted(st.checks)
		checks = checksJSON(slices.DeleteFunc(all, func(c *check) bool { return !match(c) }), s.nodeName)
		return st.checksIndex
	})
	if err == nil && s.filter(w, r, len(checks)) {
		checks = checks[:0]
	}
	return checks, err
}
