//lint:file-ignore ST1005 The texts are Consul's own.

package consultest

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

const (
	defaultConnectTimeout = 5 * time.Second
	// maxSplits bounds a splitter whose nested ones are multiplied out. Consul has no such bound.
	maxSplits = 10000
	// inDefault ends the names of nodes: only Consul Enterprise has namespaces and partitions.
	inDefault = ".default.default"
	byDefault = "default"
	// checkedIn is where Consul compiles a chain to see whether it can.
	checkedIn = "dc1"
)

// chain is a compiled discovery chain: a graph of routers, splitters and resolvers.
// https://developer.hashicorp.com/consul/docs/manage-traffic/discovery-chain
type chain struct {
	ServiceName, Namespace, Partition, Datacenter string

	Default          bool `json:",omitempty"`
	Protocol         string
	ServiceMeta      map[string]string `json:",omitempty"`
	StartNode        string
	Nodes            map[string]*chainNode
	Targets          map[string]*chainTarget
	AutoVirtualIPs   []string
	ManualVirtualIPs []string
}

// chainNode is identified by its type and name.
type chainNode struct {
	Type, Name string

	Routes       []chainRoute   `json:",omitempty"`
	Splits       []chainSplit   `json:",omitempty"`
	Resolver     *chainResolver `json:",omitempty"`
	LoadBalancer *loadBalancer  `json:",omitempty"`
}

func (n *chainNode) key() string { return n.Type + ":" + n.Name }

type chainRoute struct {
	Definition serviceRoute
	NextNode   string
}

type chainSplit struct {
	Definition serviceSplit
	Weight     float32 `json:",omitempty"`
	NextNode   string
}

type chainResolver struct {
	ConnectTimeout duration
	RequestTimeout nanoseconds `json:",omitempty"`
	Default        bool        `json:",omitempty"`
	Target         string
	Failover       *chainFailover `json:",omitempty"`
}

type chainFailover struct{ Targets []string }

// chainTarget is instances of a service, in a datacenter or at a peer.
type chainTarget struct {
	ConnectTimeout   duration
	ID               string
	Service          string
	ServiceSubset    string `json:",omitempty"`
	Namespace        string
	Partition        string
	Datacenter       string `json:",omitempty"`
	Peer             string `json:",omitempty"`
	MeshGateway      meshGateway
	Subset           serviceSubset
	TransparentProxy transparentProxy
	External         bool   `json:",omitempty"`
	SNI              string `json:",omitempty"`
	Name             string `json:",omitempty"`
}

// compiler makes one chain of entries, which it leaves as they are.
type compiler struct {
	entries     entrySet
	chain       *chain
	trustDomain string

	loaded   map[string]*chainTarget // by ID; those that the chain keeps are in it
	advanced bool                    // has a router or a splitter
}

// httpLike reports whether calls of a protocol can be routed and split.
func httpLike(protocol string) bool {
	return protocol == "http" || protocol == "http2" || protocol == "grpc"
}

// checkChains compiles the chains that an entry is part of.
func (s entrySet) checkChains(kind, name string) error {
	services := append([]string{name}, s.referrers(name)...)
	if kind == proxyKind {
		services = s.services()
	}
	for _, service := range services {
		if _, err := s.compile(service, checkedIn, "consul"); err != nil {
			return err
		}
	}
	return nil
}

// compile returns the chain of a service as a client in datacenter has it.
func (s entrySet) compile(service, datacenter, trustDomain string) (*chain, error) {
	c := &compiler{
		entries: s, trustDomain: trustDomain, loaded: make(map[string]*chainTarget),
		chain: &chain{
			ServiceName: service, Namespace: byDefault, Partition: byDefault, Datacenter: datacenter,
			Nodes: make(map[string]*chainNode), Targets: make(map[string]*chainTarget),
		},
	}
	if defaults := entryOf[*serviceDefaults](s, defaultsKind, service); defaults != nil {
		c.chain.ServiceMeta = defaults.Meta
	}
	start, err := c.start(service)
	if err != nil {
		return nil, err
	}
	c.chain.StartNode = start.key()
	if err := c.findCircle(c.chain.StartNode, nil, make(map[string]bool)); err != nil {
		return nil, err
	}
	if err := c.flatten(); err != nil {
		return nil, err
	}
	c.removeUnused()
	if c.advanced && !httpLike(c.chain.Protocol) {
		return nil, fmt.Errorf("discovery chain %q uses a protocol %q that does not permit advanced routing or splitting behavior", service, c.chain.Protocol)
	}
	if r := start.Resolver; r != nil && r.Default {
		c.chain.Default = c.chain.Targets[r.Target].Service == service
	}
	return c.chain, nil
}

// start returns the router of the service, or else what comes next.
func (c *compiler) start(service string) (*chainNode, error) {
	router := entryOf[*serviceRouter](c.entries, routerKind, service)
	if router == nil {
		return c.splitterOrResolver(c.target(chainTarget{Service: service}))
	}
	c.advanced = true
	if err := c.recordProtocol(service); err != nil {
		return nil, err
	}
	all := serviceRoute{
		Match:       &routeMatch{HTTP: &httpMatch{PathPrefix: "/"}},
		Destination: &routeDestination{Service: service, Namespace: byDefault, Partition: byDefault},
	}
	node := &chainNode{Type: "router", Name: service + inDefault}
	for _, route := range append(slices.Clone(router.Routes), all) {
		to := chainTarget{Service: service}
		if d := route.Destination; d != nil {
			to = chainTarget{Service: cmp.Or(d.Service, service), ServiceSubset: d.ServiceSubset}
		}
		next, err := c.destination(to)
		if err != nil {
			return nil, err
		}
		node.Routes = append(node.Routes, chainRoute{route, next.key()})
	}
	c.chain.Nodes[node.key()] = node
	return node, nil
}

// destination returns the node of a destination, which is past the splitter if it names a
// subset.
func (c *compiler) destination(to chainTarget) (*chainNode, error) {
	if to.ServiceSubset != "" {
		return c.resolver(c.target(to))
	}
	return c.splitterOrResolver(c.target(to))
}

// recordProtocol reports an error if a service does not speak what the others of the chain do.
func (c *compiler) recordProtocol(service string) error {
	protocol := c.proxy().protocol()
	if defaults := entryOf[*serviceDefaults](c.entries, defaultsKind, service); defaults != nil {
		protocol = defaults.Protocol // none, too
	}
	protocol = cmp.Or(protocol, "tcp")
	if c.chain.Protocol = cmp.Or(c.chain.Protocol, protocol); c.chain.Protocol != protocol {
		return fmt.Errorf("discovery chain %q uses inconsistent protocols; service %q has %q which is not %q",
			c.chain.ServiceName, service, protocol, c.chain.Protocol)
	}
	return nil
}

// proxy returns the entry for all services, an empty one without any.
func (c *compiler) proxy() *proxyDefaults {
	return cmp.Or(entryOf[*proxyDefaults](c.entries, proxyKind, proxyName), &proxyDefaults{})
}

// target returns the one that is like t.
func (c *compiler) target(t chainTarget) *chainTarget {
	t.Namespace, t.Partition = byDefault, byDefault
	if t.Peer == "" {
		t.Datacenter = cmp.Or(t.Datacenter, c.chain.Datacenter)
	} else {
		t.Datacenter = ""
	}
	prefix, where := "", t.Datacenter
	if t.ServiceSubset != "" {
		prefix = t.ServiceSubset + "."
	}
	if t.Peer != "" {
		where = "external." + t.Peer
	} else {
		t.SNI = fmt.Sprintf("%s%s.%s.%s.internal.%s", prefix, t.Service, byDefault, t.Datacenter, c.trustDomain)
		t.Name = t.SNI
	}
	t.ID = prefix + t.Service + inDefault + "." + where
	if c.loaded[t.ID] == nil {
		c.loaded[t.ID] = &t
	}
	return c.loaded[t.ID]
}

// redirected returns where to leads from t. Another service is taken without the subset.
func (c *compiler) redirected(t *chainTarget, to resolverTarget) *chainTarget {
	next := chainTarget{Service: t.Service, ServiceSubset: t.ServiceSubset, Datacenter: cmp.Or(to.Datacenter, t.Datacenter), Peer: to.Peer}
	if to.Service != "" && to.Service != t.Service {
		next.Service, next.ServiceSubset = to.Service, ""
	}
	next.ServiceSubset = cmp.Or(to.ServiceSubset, next.ServiceSubset)
	return c.target(next)
}

func (c *compiler) splitterOrResolver(t *chainTarget) (*chainNode, error) {
	if node, err := c.splitter(t.Service); node != nil || err != nil {
		return node, err
	}
	return c.resolver(t)
}

// splitter returns the splitter of a service, or nil if it has none.
func (c *compiler) splitter(service string) (*chainNode, error) {
	node := &chainNode{Type: "splitter", Name: service + inDefault}
	if made := c.chain.Nodes[node.key()]; made != nil {
		return made, nil
	}
	entry := entryOf[*serviceSplitter](c.entries, splitterKind, service)
	if entry == nil {
		return nil, nil
	}
	c.advanced = true
	c.chain.Nodes[node.key()] = node // before its splits, which may lead back
	for _, split := range entry.Splits {
		next, err := c.split(service, split)
		if err != nil {
			return nil, err
		}
		node.Splits = append(node.Splits, chainSplit{split, split.Weight, next.key()})
		if node.LoadBalancer == nil && next.LoadBalancer.hashes() && next.Resolver != nil {
			node.LoadBalancer = next.LoadBalancer
		}
	}
	return node, nil
}

// split returns where a split of service leads: to a splitter only of another service.
func (c *compiler) split(service string, split serviceSplit) (*chainNode, error) {
	to := chainTarget{Service: cmp.Or(split.Service, service), ServiceSubset: split.ServiceSubset}
	if to.Service != service {
		return c.destination(to)
	}
	return c.resolver(c.target(to))
}

// resolver returns the node of a target, after all redirects.
func (c *compiler) resolver(t *chainTarget) (*chainNode, error) {
	t, entry, err := c.resolve(t)
	if err != nil {
		return nil, err
	}
	node := c.resolverNode(t, entry)
	if made := c.chain.Nodes[node.key()]; made != nil {
		return made, nil
	}
	c.chain.Nodes[node.key()] = node
	targets, err := c.failover(t, entry)
	if len(targets) > 0 {
		node.Resolver.Failover = &chainFailover{targets}
	}
	return node, err
}

func (c *compiler) resolverNode(t *chainTarget, entry *serviceResolver) *chainNode {
	return &chainNode{Type: "resolver", Name: t.ID, LoadBalancer: entry.LoadBalancer, Resolver: &chainResolver{
		ConnectTimeout: t.ConnectTimeout, RequestTimeout: nanoseconds(entry.RequestTimeout), Default: entry.isDefault(), Target: t.ID,
	}}
}

// failover returns the IDs of the targets that take over from t.
func (c *compiler) failover(t *chainTarget, entry *serviceResolver) (ids []string, err error) {
	f, ok := entry.Failover[t.ServiceSubset]
	if !ok {
		f, ok = entry.Failover[wildcard]
	}
	if !ok {
		return nil, nil
	}
	var to []*chainTarget // before the redirects of any, which load targets, too
	for _, other := range f.destinations() {
		if next := c.redirected(t, other); next != t {
			to = append(to, next)
		}
	}
	for _, next := range to {
		next, _, err = c.resolve(next)
		if err != nil {
			return nil, err
		}
		ids = append(ids, next.ID)
	}
	return ids, nil
}

// destinations are those of f in its order.
func (f failover) destinations() []resolverTarget {
	if len(f.Targets) > 0 {
		return f.Targets
	}
	var of []resolverTarget
	for _, datacenter := range f.Datacenters {
		of = append(of, resolverTarget{Service: f.Service, ServiceSubset: f.ServiceSubset, Datacenter: datacenter})
	}
	if len(of) == 0 {
		of = []resolverTarget{{Service: f.Service, ServiceSubset: f.ServiceSubset}}
	}
	return of
}

// resolve follows redirects and default subsets from t to a target that the chain keeps.
func (c *compiler) resolve(t *chainTarget) (*chainTarget, *serviceResolver, error) {
	var from []string
	for {
		if t.Peer == "" {
			if err := c.recordProtocol(t.Service); err != nil {
				return nil, nil, err
			}
		}
		entry := entryOf[*serviceResolver](c.entries, resolverKind, t.Service)
		if entry == nil {
			entry = new(serviceResolver)
		}
		if slices.Contains(from, t.ID) {
			return nil, nil, fmt.Errorf("detected circular resolver redirect: [%s]", strings.Join(append(from, t.ID), " -> "))
		}
		from = append(from, t.ID)
		next := t
		if entry.Redirect != nil {
			next = c.redirected(t, *entry.Redirect)
		}
		if next == t && t.ServiceSubset == "" && entry.DefaultSubset != "" {
			next = c.redirected(t, resolverTarget{ServiceSubset: entry.DefaultSubset})
		}
		if next == t {
			return t, entry, c.keep(t, entry)
		}
		t = next
	}
}

// keep completes a target that is part of the chain.
func (c *compiler) keep(t *chainTarget, entry *serviceResolver) error {
	if !entry.hasSubset(t.ServiceSubset) {
		return fmt.Errorf("service %q does not have a subset named %q", t.Service, t.ServiceSubset)
	}
	t.ConnectTimeout = cmp.Or(entry.ConnectTimeout, duration(defaultConnectTimeout))
	t.Subset = entry.Subsets[t.ServiceSubset]
	c.chain.Targets[t.ID] = t
	defaults, proxy := cmp.Or(entryOf[*serviceDefaults](c.entries, defaultsKind, t.Service), &serviceDefaults{}), c.proxy()
	if defaults.ExternalSNI == "" {
		t.MeshGateway.Mode = cmp.Or(defaults.MeshGateway.Mode, proxy.MeshGateway.Mode)
		t.TransparentProxy.DialedDirectly = defaults.TransparentProxy.DialedDirectly || proxy.TransparentProxy.DialedDirectly
		return nil
	}
	t.SNI, t.External = defaults.ExternalSNI, true
	var has string
	switch {
	case entry.Redirect != nil:
		has = "redirects"
	case len(entry.Subsets) > 0:
		has = "subsets"
	case len(entry.Failover) > 0:
		has = "failover"
	default:
		return nil
	}
	return fmt.Errorf("service %q has an external SNI set; cannot define %s for external services", t.Service, has)
}

// next are the keys of the nodes that n leads to.
func (n *chainNode) next() (keys []string) {
	for _, route := range n.Routes {
		keys = append(keys, route.NextNode)
	}
	for _, split := range n.Splits {
		keys = append(keys, split.NextNode)
	}
	return keys
}

// findCircle returns an error that names a circle, which only splitters can make. from are the
// nodes on the way to key; those in clean lead into no circle.
func (c *compiler) findCircle(key string, from []string, clean map[string]bool) error {
	if slices.Contains(from, key) {
		return fmt.Errorf("detected circular reference: [%s]", strings.Join(append(from, key), " -> "))
	}
	if clean[key] {
		return nil
	}
	for _, next := range c.chain.Nodes[key].next() {
		if err := c.findCircle(next, append(slices.Clip(from), key), clean); err != nil {
			return err
		}
	}
	clean[key] = true
	return nil
}

// flatten replaces the splits that lead to splitters by those of these.
func (c *compiler) flatten() error {
	for again := true; again; {
		again = false
		for _, node := range sorted(c.chain.Nodes) {
			var splits []chainSplit
			for _, split := range node.Splits {
				next := c.chain.Nodes[split.NextNode]
				if next.Type != node.Type {
					splits = append(splits, split)
					continue
				}
				again = true
				for _, inner := range next.Splits {
					splits = append(splits, inner.within(split))
				}
			}
			if node.Splits = splits; len(splits) > maxSplits {
				return fmt.Errorf("consultest: the chain %q has more than %d splits: nest fewer splitters", c.chain.ServiceName, maxSplits)
			}
		}
	}
	return nil
}

// within returns inner as a split of what outer is of.
func (inner chainSplit) within(outer chainSplit) chainSplit {
	of := inner.Definition
	of.RequestHeaders = outer.Definition.RequestHeaders.overriddenBy(of.RequestHeaders)
	of.ResponseHeaders = of.ResponseHeaders.overriddenBy(outer.Definition.ResponseHeaders) // an answer passes the inner one first
	return chainSplit{of, roundWeight(outer.Weight * inner.Weight / 100), inner.NextNode}
}

// overriddenBy returns m and others, which decides where both name a header.
func (m *headerModifiers) overriddenBy(others *headerModifiers) *headerModifiers {
	switch {
	case m == nil:
		return others
	case others == nil:
		return m
	}
	merged := &headerModifiers{Add: maps.Clone(m.Add), Set: maps.Clone(m.Set), Remove: slices.Clone(m.Remove)}
	merged.Add = merge(merged.Add, others.Add)
	merged.Set = merge(merged.Set, others.Set)
	for _, name := range others.Remove {
		if !slices.Contains(merged.Remove, name) {
			merged.Remove = append(merged.Remove, name)
		}
	}
	return merged
}

func merge(into, from map[string]string) map[string]string {
	if into == nil {
		return maps.Clone(from)
	}
	maps.Copy(into, from)
	return into
}

// removeUnused removes the splitters that were flattened, and what the chain does not reach.
func (c *compiler) removeUnused() {
	used := make(map[string]bool)
	for todo := []string{c.chain.StartNode}; len(todo) > 0; {
		key := todo[0]
		if todo = todo[1:]; !used[key] {
			used[key] = true
			todo = append(todo, c.chain.Nodes[key].next()...)
		}
	}
	maps.DeleteFunc(c.chain.Nodes, func(key string, _ *chainNode) bool { return !used[key] })
}

// scaleWeight returns a weight in hundredths of a percent, which is as fine as it can be.
func scaleWeight(percent float32) int { return int(math.Round(float64(percent * 100))) }

func roundWeight(percent float32) float32 { return float32(scaleWeight(percent)) / 100 }
