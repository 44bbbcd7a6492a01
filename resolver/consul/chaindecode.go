package consul

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/meshlite-go/meshlite/resolver/route"
)

// stickyMeta is the key in the Meta of a service-defaults entry that names the metadata key by
// whose value the calls of the service stick to an arm.
const stickyMeta = "meshlite-sticky"

// maxArms bounds the ways through nested splitters, which multiply.
const maxArms = 10_000

// decodeChain reads an answer of /v1/discovery-chain. Without a chain it is plain discovery.
// refused is a [*route.RefusedError] about parts that are not supported; err is about an
// answer that is no chain.
func decodeChain(body []byte, index uint64) (_ *route.Chain, refused, err error) {
	answer := struct{ Chain json.RawMessage }{json.RawMessage("null")}
	var doc chainDocument
	err = json.Unmarshal(body, &answer)
	if err == nil {
		err = json.Unmarshal(answer.Chain, &doc)
	}
	if err != nil {
		return nil, nil, unreadable(err)
	}
	if doc.ServiceName == "" || doc.Datacenter == "" {
		return nil, nil, errors.New("its answer has no discovery chain")
	}
	if doc.Default {
		return nil, nil, nil
	}
	r := &chainReader{doc: &doc, chain: &route.Chain{
		Service: doc.ServiceName, Datacenter: doc.Datacenter, Protocol: doc.Protocol, Index: index,
		Sticky:  strings.ToLower(doc.ServiceMeta[stickyMeta]),
		Targets: map[string]*route.Target{},
	}}
	for _, field := range unknownFields(answer.Chain, reflect.TypeFor[chainDocument](), "Chain") {
		r.refuse("%s is not known here: leave it out, or upgrade meshlite", field)
	}
	if err := r.read(); err != nil {
		return nil, nil, err
	}
	return r.result()
}

// result checks what was read.
func (r *chainReader) result() (_ *route.Chain, refused, err error) {
	bad := &route.RefusedError{Service: r.chain.Service, Protocol: r.chain.Protocol, Index: r.chain.Index, Parts: r.refused}
	var wrong *route.RefusedError
	if errors.As(r.chain.Check(), &wrong) {
		bad.Parts = append(bad.Parts, wrong.Parts...)
	}
	bad.Common = len(bad.Parts)
	ofHTTP := r.chain.HTTPOnly()
	switch {
	case len(bad.Parts) > 0:
		bad.Parts = append(bad.Parts, ofHTTP...)
		return nil, bad, nil
	case len(ofHTTP) > 0:
		bad.Parts, bad.HTTP = ofHTTP, r.chain
		return nil, bad, nil
	default:
		return r.chain, nil, nil
	}
}

// chainReader turns a document into a chain.
type chainReader struct {
	doc     *chainDocument
	chain   *route.Chain
	refused []string
	arms    int
}

func (r *chainReader) refuse(format string, args ...any) {
	if part := fmt.Sprintf(format, args...); !slices.Contains(r.refused, part) {
		r.refused = append(r.refused, part)
	}
}

// entry names a config entry.
func (r *chainReader) entry(kind, node string) string {
	return fmt.Sprintf("service-%s %q", kind, strings.TrimSuffix(node, "."+r.doc.Namespace+"."+r.doc.Partition))
}

func (r *chainReader) node(id string) (*chainNode, error) {
	n := r.doc.Nodes[id]
	if n == nil {
		return nil, fmt.Errorf("its discovery chain has no node %q", id)
	}
	return n, nil
}

func (r *chainReader) read() error {
	start, err := r.node(r.doc.StartNode)
	if err != nil {
		return err
	}
	if start.Type != "router" {
		only := &route.Route{Name: "default"}
		if only.Arms, err = r.armsOf(r.doc.StartNode); err != nil {
			return err
		}
		r.chain.Routes = []*route.Route{only}
		return nil
	}
	for i, from := range start.Routes {
		if from == nil {
			return fmt.Errorf("route %d of its discovery chain is null", i)
		}
		read, err := r.route(from, fmt.Sprintf("%s Routes[%d]", r.entry("router", start.Name), i))
		if err != nil {
			return err
		}
		read.Name = fmt.Sprintf("route %d", i+1)
		if i == len(start.Routes)-1 { // Consul adds it
			read.Name = "default"
		}
		r.chain.Routes = append(r.chain.Routes, read)
	}
	return nil
}

func (r *chainReader) route(from *chainRoute, where string) (*route.Route, error) {
	read := &route.Route{}
	var err error
	if read.Arms, err = r.armsOf(from.NextNode); err != nil || from.Definition == nil {
		return read, err
	}
	if m := from.Definition.Match; m != nil && m.HTTP != nil {
		read.Match = r.match(m.HTTP, where)
	}
	if d := from.Definition.Destination; d != nil {
		r.destination(read, d, where)
	}
	return read, nil
}

func (r *chainReader) match(from *chainMatch, where string) route.Match {
	read := route.Match{
		PathExact: from.PathExact, PathPrefix: from.PathPrefix, PathRegex: from.PathRegex,
		CaseInsensitive: from.CaseInsensitive, Methods: from.Methods,
	}
	for _, h := range from.Header {
		if h == nil {
			continue
		}
		name := strings.ToLower(h.Name)
		if name == "host" {
			name = ":authority"
		}
		conditions := h.Exact + h.Prefix + h.Suffix + h.Contains + h.Regex
		if h.Present == (conditions != "") {
			r.refuse("%s: the Header %q has Present %v beside %q: write one condition", where, h.Name, h.Present, conditions)
		}
		read.Headers = append(read.Headers, route.HeaderMatch{
			Name: name, Exact: h.Exact, Prefix: h.Prefix, Suffix: h.Suffix, Contains: h.Contains, Regex: h.Regex,
			IgnoreCase: h.IgnoreCase, Invert: h.Invert,
		})
	}
	for _, q := range from.QueryParam {
		if q == nil {
			continue
		}
		if q.Present == (q.Exact+q.Regex != "") {
			r.refuse("%s: the QueryParam %q has Present %v beside %q: write one condition", where, q.Name, q.Present, q.Exact+q.Regex)
		}
		read.Query = append(read.Query, route.QueryMatch{Name: q.Name, Exact: q.Exact, Regex: q.Regex})
	}
	return read
}

func (r *chainReader) destination(to *route.Route, from *chainDestination, where string) {
	r.home(from.Namespace, from.Partition, where)
	to.PrefixRewrite = from.PrefixRewrite
	to.Timeout = max(time.Duration(from.RequestTimeout), 0)
	if from.IdleTimeout != 0 {
		r.refuse("%s: IdleTimeout %v: a call is bounded as a whole: write RequestTimeout", where, time.Duration(from.IdleTimeout))
	}
	to.Retry = route.NewRetry(from.NumRetries, from.RetryOnConnectFailure, from.RetryOn, from.RetryOnStatusCodes)
	request, response := r.headers(from.RequestHeaders, where), r.headers(from.ResponseHeaders, where)
	for _, a := range to.Arms {
		a.Request = slices.Concat(request, a.Request)
		a.Response = slices.Concat(a.Response, response)
		if from.RequestTimeout < 0 { // which lifts the resolver's
			a.Timeout = 0
		}
	}
}

// armsOf returns the ways from a node, with unique names.
func (r *chainReader) armsOf(id string) ([]*route.Arm, error) {
	arms, err := r.follow(id, way{weight: 100})
	names := map[string]bool{}
	for _, a := range arms {
		for name, n := a.Name, 2; names[a.Name]; n++ {
			a.Name = fmt.Sprintf("%s %d", name, n)
		}
		names[a.Name] = true
	}
	return arms, err
}

// way is what the splitters on the way to a resolver say.
type way struct {
	depth             int
	weight            float64
	service, subset   string // as the last split has it
	request, response []route.Headers
}

// maxDepth bounds nested splitters. Consul flattens them, so there are none in its answers.
const maxDepth = 16

func (r *chainReader) follow(id string, on way) ([]*route.Arm, error) {
	n, err := r.node(id)
	switch {
	case err != nil:
		return nil, err
	case n.Type == "resolver" && n.Resolver != nil:
		a, err := r.arm(n, on)
		if err != nil {
			return nil, err
		}
		return []*route.Arm{a}, nil
	case n.Type != "splitter":
		return nil, fmt.Errorf("its discovery chain has the node %q of type %q: want a splitter or a resolver", id, n.Type)
	case on.depth == maxDepth:
		return nil, fmt.Errorf("its discovery chain has splitters below each other, %d deep", maxDepth)
	}
	var arms []*route.Arm
	for _, split := range n.Splits {
		if split == nil {
			continue
		}
		next := on
		next.depth++
		next.weight = on.weight * split.Weight / 100
		if d := split.Definition; d != nil {
			where := fmt.Sprintf("%s, the split to %q", r.entry("splitter", n.Name), strings.TrimSpace(d.Service+" "+d.ServiceSubset))
			r.home(d.Namespace, d.Partition, where)
			next.service, next.subset = d.Service, d.ServiceSubset
			next.request = slices.Concat(on.request, r.headers(d.RequestHeaders, where))
			next.response = slices.Concat(r.headers(d.ResponseHeaders, where), on.response)
		}
		below, err := r.follow(split.NextNode, next)
		if err != nil {
			return nil, err
		}
		arms = append(arms, below...)
	}
	return arms, nil
}

func (r *chainReader) arm(n *chainNode, on way) (*route.Arm, error) {
	if r.arms++; r.arms > maxArms {
		return nil, fmt.Errorf("its discovery chain has more than %d ways through its splitters", maxArms)
	}
	target, err := r.target(n.Resolver.Target)
	if err != nil {
		return nil, err
	}
	where := fmt.Sprintf("service-resolver %q", target.Service)
	a := &route.Arm{
		Name: r.armName(on, target), Weight: math.Round(on.weight*1e6) / 1e6, Target: target.ID,
		Request: on.request, Response: on.response,
		Timeout: time.Duration(n.Resolver.RequestTimeout), LoadBalancer: r.loadBalancer(n.LoadBalancer, where),
	}
	f := n.Resolver.Failover
	if f == nil {
		return a, nil
	}
	if p := f.Policy; p != nil && (p.Mode != "" && p.Mode != "sequential" || len(p.Regions) > 0) {
		r.refuse("%s: Failover Policy %q %v: targets are tried in their order: leave it out", where, p.Mode, p.Regions)
	}
	if len(f.Regions) > 0 {
		r.refuse("%s: Failover Regions %v: targets are tried in their order: leave them out", where, f.Regions)
	}
	for _, id := range f.Targets {
		if id == a.Target || slices.Contains(a.Failover, id) {
			continue // redirects lead to the same
		}
		if _, err := r.target(id); err != nil {
			return nil, err
		}
		a.Failover = append(a.Failover, id)
	}
	return a, nil
}

// armName is what an operator has written: the subset, or the service.
func (r *chainReader) armName(on way, target *route.Target) string {
	service := cmp.Or(on.service, target.Service)
	subset := on.subset
	if subset == "" && service == target.Service {
		subset = target.Subset
	}
	switch {
	case subset == "":
		return service
	case service == r.chain.Service:
		return subset
	default:
		return service + " " + subset
	}
}

func (r *chainReader) target(id string) (*route.Target, error) {
	if t := r.chain.Targets[id]; t != nil {
		return t, nil
	}
	from := r.doc.Targets[id]
	if from == nil {
		return nil, fmt.Errorf("its discovery chain has no target %q", id)
	}
	t := &route.Target{
		ID: id, Service: from.Service, Subset: from.ServiceSubset, Datacenter: from.Datacenter,
		Filter: from.Subset.Filter, OnlyPassing: from.Subset.OnlyPassing,
		ConnectTimeout: time.Duration(from.ConnectTimeout),
	}
	r.chain.Targets[id] = t
	where := fmt.Sprintf("the target %q", id)
	if from.Peer != "" {
		r.refuse("%s: Peer %q: peers are not supported: write a Datacenter", where, from.Peer)
		t.Datacenter = cmp.Or(t.Datacenter, r.chain.Datacenter) // which is refused, too
	}
	r.home(from.Namespace, from.Partition, where)
	if from.External {
		r.refuse("%s: ExternalSNI of its service-defaults: services outside of the mesh are not supported: leave it out", where)
	}
	if mode := from.MeshGateway.Mode; mode != "" && mode != "none" && t.Datacenter != r.chain.Datacenter {
		r.refuse("%s: MeshGateway mode %q: gateways are not supported, instances are called directly: write the mode \"none\"", where, mode)
	}
	if p := from.PrioritizeByLocality; p != nil && p.Mode != "" && p.Mode != "none" {
		r.refuse("%s: PrioritizeByLocality %q: the balancer prefers a zone by its own settings: write the mode \"none\"", where, p.Mode)
	}
	return t, nil
}

// home refuses other namespaces and partitions than the default ones. Consul without them
// ignores what routes and splits say of them.
func (r *chainReader) home(namespace, partition, where string) {
	if namespace != "" && namespace != "default" {
		r.refuse("%s: Namespace %q: only the default one is supported: leave it out", where, namespace)
	}
	if partition != "" && partition != "default" {
		r.refuse("%s: Partition %q: only the default one is supported: leave it out", where, partition)
	}
}

// headers reads one modifier, nil for none and for one that is refused.
func (r *chainReader) headers(from *chainHeaders, where string) []route.Headers {
	if from == nil || len(from.Add)+len(from.Set)+len(from.Remove) == 0 {
		return nil
	}
	read := route.Headers{Add: r.values(from.Add, where), Set: r.values(from.Set, where)}
	for _, key := range from.Remove {
		read.Remove = append(read.Remove, strings.ToLower(key))
	}
	if err := read.Check(); err != nil {
		r.refuse("%s: %v", where, err)
		return nil
	}
	return []route.Headers{read}
}

// values reads the headers that are added or set.
func (r *chainReader) values(from map[string]string, where string) map[string]string {
	var read map[string]string
	for _, key := range slices.Sorted(maps.Keys(from)) {
		lower := strings.ToLower(key)
		if _, twice := read[lower]; twice {
			r.refuse("%s: the header %q is there twice: write it once, in lower case", where, lower)
		}
		value, ok := literal(from[key])
		if !ok {
			r.refuse("%s: the header %q is %q: variables of Envoy are not known here: write a text, with %%%% for a percent sign", where, key, from[key])
		}
		if read == nil {
			read = map[string]string{}
		}
		read[lower] = value
	}
	return read
}

// literal returns the text that Envoy makes of a value, which is not ok with a variable in it.
func literal(value string) (_ string, ok bool) {
	if strings.Contains(strings.ReplaceAll(value, "%%", ""), "%") {
		return "", false
	}
	return strings.ReplaceAll(value, "%%", "%"), true
}

func (r *chainReader) loadBalancer(from *chainLoadBalancer, where string) *route.LoadBalancer {
	if from == nil || from.Policy == "" {
		return nil
	}
	read := &route.LoadBalancer{Policy: from.Policy}
	if c := from.LeastRequestConfig; c != nil {
		read.ChoiceCount = c.ChoiceCount
	}
	if c := from.RingHashConfig; c != nil {
		read.MinimumRingSize, read.MaximumRingSize = c.MinimumRingSize, c.MaximumRingSize
	}
	if len(from.HashPolicies) > 1 {
		r.refuse("%s: LoadBalancer has %d HashPolicies: write one", where, len(from.HashPolicies))
	}
	for _, p := range from.HashPolicies {
		switch {
		case p == nil:
		case p.SourceIP:
			read.HashFrom = route.FromAddress
		case p.Field == "header":
			read.HashKey = strings.ToLower(p.FieldValue)
		default:
			read.HashFrom, read.HashKey = p.Field, p.FieldValue
			if c := p.CookieConfig; c != nil && (c.Session || c.TTL != 0 || c.Path != "") {
				r.refuse("%s: LoadBalancer HashPolicies CookieConfig of %q: no cookie is made here: leave it out, and hash one that the service sets", where, p.FieldValue)
			}
		}
	}
	if err := read.Check(); err != nil {
		r.refuse("%s: %v", where, err)
		return nil
	}
	return read
}
