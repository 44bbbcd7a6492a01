package consultest

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// catalogAPI answers /v1/catalog/, /v1/health/, /v1/status/ and /v1/acl/.
type catalogAPI struct{ *Server }

// services answers all names with the tags of their instances.
func (s catalogAPI) services(w http.ResponseWriter, r *http.Request) (any, error) {
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

func (s catalogAPI) service(w http.ResponseWriter, r *http.Request) (any, error) {
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

func (s catalogAPI) nodes(w http.ResponseWriter, r *http.Request) (any, error) {
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

func (s catalogAPI) nodeServices(w http.ResponseWriter, r *http.Request) (any, error) {
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

func (s catalogAPI) listDatacenters(http.ResponseWriter, *http.Request) (any, error) {
	return s.datacenters(), nil
}

func (s catalogAPI) statusLeader(http.ResponseWriter, *http.Request) (any, error) {
	return s.nodeAddress + ":8300", nil
}

func (s catalogAPI) statusPeers(http.ResponseWriter, *http.Request) (any, error) {
	return []string{s.nodeAddress + ":8300"}, nil
}

// aclTokenSelf shows the token of the request. The anonymous token cannot read itself.
func (s catalogAPI) aclTokenSelf(w http.ResponseWriter, r *http.Request) (any, error) {
	if !s.aclEnabled {
		return nil, httpError{http.StatusUnauthorized, "ACL support disabled"}
	}
	token := tokenOf(r)
	all, err := s.allowed(r)
	if err != nil || token == "" {
		return nil, httpError{http.StatusForbidden, "token does not exist: ACL not found"}
	}
	s.writeMeta(w, r, bootIndex, queryOptions{})
	shown := tokenJSON{AccessorID: uuidOf("token " + token), SecretID: token, CreateTime: s.started.UTC(),
		Hash: base64.StdEncoding.EncodeToString([]byte(uuidOf("hash " + token))), CreateIndex: bootIndex, ModifyIndex: bootIndex}
	if all {
		shown.Description = "Initial Management Token"
		shown.Policies = []policyJSON{{"00000000-0000-0000-0000-000000000001", "global-management"}}
	}
	return shown, nil
}

// noFilter rejects filter expressions where they are not evaluated: ignoring them would return
// too much.
func noFilter(r *http.Request) error {
	if filter := r.URL.Query().Get("filter"); filter != "" {
		return badRequest("consultest has no filter expressions here, such as %q, but in /v1/health/service: leave out ?filter", filter)
	}
	return nil
}

// readable rejects what no endpoint of catalog and health but healthService supports.
func (s catalogAPI) readable(r *http.Request) error {
	if _, err := s.allowed(r); err != nil {
		return err
	}
	return noFilter(r)
}

// healthService returns the instances of a service with their checks: what resolvers read.
func (s catalogAPI) healthService(w http.ResponseWriter, r *http.Request) (any, error) {
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
	if _, err := s.allowed(r); err != nil {
		return nil, err
	}
	wanted, err := filterOf(r)
	if err != nil {
		return nil, err
	}
	entries := []healthEntryJSON{}
	err = s.readFound(w, r, func(st *state) (uint64, bool) {
		entries = s.healthEntries(st, name, q["tag"], passing)
		entries = slices.DeleteFunc(entries, func(e healthEntryJSON) bool { return !wanted.matches(&e) })
		return st.indexOf(name, true), st.exists(name)
	})
	if err == nil && s.filter(w, r, len(entries)) {
		entries = entries[:0]
	}
	return entries, err
}

func (s catalogAPI) healthEntries(st *state, name string, tags []string, passing bool) []healthEntryJSON {
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

func (s catalogAPI) healthChecks(w http.ResponseWriter, r *http.Request) (any, error) {
	name := after(r, "/v1/health/checks/")
	if name == "" {
		return nil, badRequest("Missing service name")
	}
	return s.listChecks(w, r, func(c *check) bool { return c.serviceName == name })
}

func (s catalogAPI) healthState(w http.ResponseWriter, r *http.Request) (any, error) {
	status := after(r, "/v1/health/state/")
	if status == "" {
		return nil, badRequest("Missing check state")
	}
	return s.listChecks(w, r, func(c *check) bool { return status == "any" || c.status == status })
}

func (s catalogAPI) healthNode(w http.ResponseWriter, r *http.Request) (any, error) {
	node := after(r, "/v1/health/node/")
	if node == "" {
		return nil, badRequest("Missing node name")
	}
	return s.listChecks(w, r, func(*check) bool { return node == s.nodeName })
}

// listChecks answers the checks that match. Consul keeps one index for all of them.
func (s catalogAPI) listChecks(w http.ResponseWriter, r *http.Request, match func(*check) bool) (any, error) {
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

// The shapes in which Consul shows things, fields in its order.

type nodeJSON struct {
	ID              string
	Node            string
	Address         string
	Datacenter      string
	TaggedAddresses map[string]string
	Meta            map[string]string
	CreateIndex     uint64
	ModifyIndex     uint64
}

type healthEntryJSON struct {
	Node    nodeJSON
	Service healthServiceJSON
	Checks  []checkJSON
}

type healthServiceJSON struct {
	ID                string
	Service           string
	Tags              []string
	Address           string
	TaggedAddresses   map[string]ServiceAddress `json:",omitempty"`
	Meta              map[string]string
	Port              int `json:",omitempty"`
	Weights           Weights
	EnableTagOverride bool
	Locality          *Locality `json:",omitempty"`
	Proxy             proxyJSON
	Connect           connectJSON
	PeerName          string
	CreateIndex       uint64
	ModifyIndex       uint64
}

type connectJSON struct {
	Native bool `json:",omitempty"`
}

type proxyJSON struct {
	Mode        string
	MeshGateway struct{}
	Expose      struct{}
}

type checkJSON struct {
	Node        string
	CheckID     string
	Name        string
	Status      string
	Notes       string
	Output      string
	ServiceID   string
	ServiceName string
	ServiceTags []string
	Type        string
	Interval    string
	Timeout     string
	ExposedPort int
	Definition  struct{}
	CreateIndex uint64
	ModifyIndex uint64
}

type agentServiceJSON struct {
	ID                string
	Service           string
	Tags              []string
	Meta              map[string]string
	Port              int
	Address           string
	TaggedAddresses   map[string]ServiceAddress `json:",omitempty"`
	Weights           Weights
	EnableTagOverride bool
	ContentHash       string `json:",omitempty"`
	Datacenter        string
	Connect           *connectJSON `json:",omitempty"`
	Locality          *Locality    `json:",omitempty"`
}

type catalogServiceJSON struct {
	ID                       string
	Node                     string
	Address                  string
	Datacenter               string
	TaggedAddresses          map[string]string
	NodeMeta                 map[string]string
	ServiceKind              string
	ServiceID                string
	ServiceName              string
	ServiceTags              []string
	ServiceAddress           string
	ServiceTaggedAddresses   map[string]ServiceAddress `json:",omitempty"`
	ServiceWeights           Weights
	ServiceMeta              map[string]string
	ServicePort              int
	ServicePorts             []struct{}
	ServiceSocketPath        string
	ServiceEnableTagOverride bool
	ServiceProxy             proxyJSON
	ServiceConnect           connectJSON
	ServiceLocality          *Locality
	CreateIndex              uint64
	ModifyIndex              uint64
}

func (c *config) node() nodeJSON {
	return nodeJSON{
		ID: c.nodeID, Node: c.nodeName, Address: c.nodeAddress, Datacenter: c.datacenter,
		TaggedAddresses: map[string]string{"lan": c.nodeAddress, "lan_ipv4": c.nodeAddress, "wan": c.nodeAddress, "wan_ipv4": c.nodeAddress},
		Meta:            map[string]string{"consul-network-segment": "", "consul-version": version},
		CreateIndex:     bootNode, ModifyIndex: bootIndex,
	}
}

func (in *instance) healthJSON() healthServiceJSON {
	return healthServiceJSON{
		ID: in.ID, Service: in.Name, Tags: list(in.Tags), Address: in.Address, TaggedAddresses: in.TaggedAddresses,
		Meta: in.Meta, Port: in.Port, Weights: in.Weights, EnableTagOverride: in.EnableTagOverride,
		Locality: in.Locality, Connect: connectJSON{in.ConnectNative}, CreateIndex: in.create, ModifyIndex: in.modify,
	}
}

func (in *instance) agentJSON(datacenter string) *agentServiceJSON {
	var connect *connectJSON
	if in.ConnectNative {
		connect = &connectJSON{Native: true}
	}
	return &agentServiceJSON{
		Connect: connect,
		ID:      in.ID, Service: in.Name, Tags: list(in.Tags), Meta: object(in.Meta), Port: in.Port, Address: in.Address,
		TaggedAddresses: in.TaggedAddresses, Weights: in.Weights, EnableTagOverride: in.EnableTagOverride,
		Datacenter: datacenter, Locality: in.Locality,
	}
}

func (in *instance) catalogJSON(c *config) catalogServiceJSON {
	n := c.node()
	return catalogServiceJSON{
		ID: n.ID, Node: n.Node, Address: n.Address, Datacenter: n.Datacenter, TaggedAddresses: n.TaggedAddresses,
		NodeMeta: n.Meta, ServiceID: in.ID, ServiceName: in.Name, ServiceTags: list(in.Tags), ServiceAddress: in.Address,
		ServiceTaggedAddresses: in.TaggedAddresses, ServiceWeights: in.Weights, ServiceMeta: object(in.Meta),
		ServicePort: in.Port, ServiceEnableTagOverride: in.EnableTagOverride, ServiceLocality: in.Locality,
		ServiceConnect: connectJSON{in.ConnectNative}, CreateIndex: in.create, ModifyIndex: in.modify,
	}
}

// catalogJSON is the check as the catalog has it.
func (c *check) catalogJSON(node string) checkJSON {
	return checkJSON{
		Node: node, CheckID: c.id, Name: c.Name, Status: c.status, Notes: c.Notes, Output: c.catalogOutput,
		ServiceID: c.serviceID, ServiceName: c.serviceName, ServiceTags: list(c.serviceTags),
		Type: c.kind, Interval: c.interval, Timeout: c.timeout, CreateIndex: c.create, ModifyIndex: c.modify,
	}
}

// agentJSON is the check as the agent has it: with the latest output, and no index.
func (c *check) agentJSON(node string) checkJSON {
	j := c.catalogJSON(node)
	j.Output, j.CreateIndex, j.ModifyIndex = c.output, 0, 0
	return j
}

func checksJSON(checks []*check, node string) []checkJSON {
	of := make([]checkJSON, 0, len(checks))
	for _, c := range checks {
		of = append(of, c.catalogJSON(node))
	}
	return of
}

func list(of []string) []string {
	if of == nil {
		return []string{}
	}
	return of
}

func object(of map[string]string) map[string]string {
	if of == nil {
		return map[string]string{}
	}
	return of
}

// text is how a duration of a check is shown: nothing if it is not set.
func text(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

// tokenJSON is a token as its holder sees it.
type tokenJSON struct {
	AccessorID  string
	SecretID    string
	Description string
	Policies    []policyJSON `json:",omitempty"`
	Local       bool
	CreateTime  time.Time
	Hash        string
	CreateIndex uint64
	ModifyIndex uint64
}

type policyJSON struct {
	ID   string
	Name string
}
