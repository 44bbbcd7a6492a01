package consultest

import "time"

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
	Connect           struct{}
	PeerName          string
	CreateIndex       uint64
	ModifyIndex       uint64
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
	Locality          *Locality `json:",omitempty"`
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
	ServiceConnect           struct{}
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
		Locality: in.Locality, CreateIndex: in.create, ModifyIndex: in.modify,
	}
}

func (in *instance) agentJSON(datacenter string) *agentServiceJSON {
	return &agentServiceJSON{
		ID: in.ID, Service: in.Name, Tags: list(in.Tags), Meta: object(in.Meta), Port: in.Port, Address: in.Address,
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
		CreateIndex: in.create, ModifyIndex: in.modify,
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
