package consultest

import (
	"net/http"
	"slices"
)

// catalogServices answers all names with the tags of their instances.
func (s *Server) catalogServices(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := s.readable(r); err != nil {
		return nil, err
	}
	var names map[string][]string
	err := s.read(w, r, func(st *state) uint64 {
		names = make(map[string][]string)
		for name := range st.byName {
			names[name] = []string{}
			for _, in := range st.instancesOf(name) {
				names[name] = append(names[name], in.Tags...)
			}
			slices.Sort(names[name])
			names[name] = slices.Compact(names[name])
		}
		return st.servicesIndex
	})
	if err == nil && s.filter(w, r, len(names)) {
		clear(names)
	}
	return names, err
}

func (s *Server) catalogService(w http.ResponseWriter, r *http.Request) (any, error) {
	name, tags := after(r, "/v1/catalog/service/"), r.URL.Query()["tag"]
	if name == "" {
		return nil, badRequest("Missing service name")
	}
	if err := s.readable(r); err != nil {
		return nil, err
	}
	var all []catalogServiceJSON
	err := s.readFound(w, r, func(st *state) (uint64, bool) {
		all = []catalogServiceJSON{}
		for _, in := range st.instancesOf(name) {
			if hasTags(in.Tags, tags) {
				all = append(all, in.catalogJSON(&s.config))
			}
		}
		return st.indexOf(name, false), st.exists(name)
	})
	if err == nil && s.filter(w, r, len(all)) {
		all = all[:0]
	}
	return all, err
}

func (s *Server) catalogNodes(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := s.readable(r); err != nil {
		return nil, err
	}
	nodes := []nodeJSON{s.node()}
	err := s.read(w, r, func(st *state) uint64 { return st.nodesIndex })
	if err == nil && s.filter(w, r, len(nodes)) {
		nodes = nodes[:0]
	}
	return nodes, err
}

// nodeServicesJSON is a node with all that runs on it.
type nodeServicesJSON struct {
	Node     nodeJSON
	Services map[string]healthServiceJSON
}

func (s *Server) catalogNode(w http.ResponseWriter, r *http.Request) (any, error) {
	name := after(r, "/v1/catalog/node/")
	if name == "" {
		return nil, badRequest("Missing node name")
	}
	if err := s.readable(r); err != nil {
		return nil, err
	}
	var node *nodeServicesJSON
	err := s.read(w, r, func(st *state) uint64 {
		node = nil
		if name == s.nodeName {
			node = &nodeServicesJSON{s.node(), make(map[string]healthServiceJSON)}
			for id, in := range st.instances {
				node.Services[id] = in.healthJSON()
			}
		}
		return max(st.nodesIndex, st.servicesIndex)
	})
	if err == nil && s.filter(w, r, 1) {
		node = nil
	}
	return node, err
}

func (s *Server) catalogDatacenters(http.ResponseWriter, *http.Request) (any, error) {
	return s.datacenters(), nil
}

func (s *Server) statusLeader(http.ResponseWriter, *http.Request) (any, error) {
	return s.nodeAddress + ":8300", nil
}

func (s *Server) statusPeers(http.ResponseWriter, *http.Request) (any, error) {
	return []string{s.nodeAddress + ":8300"}, nil
}
