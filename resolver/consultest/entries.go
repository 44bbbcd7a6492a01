//lint:file-ignore ST1005 The texts are Consul's own.

package consultest

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// The kinds of config entries that chains are compiled of.
const (
	defaultsKind = "service-defaults"
	routerKind   = "service-router"
	splitterKind = "service-splitter"
	resolverKind = "service-resolver"
	proxyKind    = "proxy-defaults" // one, with the name global
	proxyName    = "global"
)

// anyEntry is an entry of these kinds, or intentions.
type anyEntry interface{ head() *entryHead }

// configEntry is an entry of one of these kinds. Once it is stored it does not change.
type configEntry interface {
	anyEntry
	tail() *entryTail
	normalize()
	check() error     // as far as that needs no other entry
	refers() []string // to these services, perhaps to its own, too
}

// entryHead and entryTail are what all kinds have, where Consul shows it.
type entryHead struct{ Kind, Name string }

type entryTail struct {
	Meta        map[string]string `json:",omitempty"`
	Hash        uint64            // of the rest; not Consul's
	CreateIndex uint64
	ModifyIndex uint64
	size        int
}

func (h *entryHead) head() *entryHead { return h }
func (t *entryTail) tail() *entryTail { return t }

// serviceDefaults is a service-defaults entry with what matters to chains.
type serviceDefaults struct {
	entryHead
	Protocol         string
	TransparentProxy transparentProxy
	MeshGateway      meshGateway
	Expose           struct{}
	ExternalSNI      string `json:",omitempty"`
	entryTail
}

type transparentProxy struct {
	DialedDirectly bool `json:",omitempty"`
}

type meshGateway struct {
	Mode string `json:",omitempty"`
}

// unsupportedDefaults are fields that Consul has and serviceDefaults and proxyDefaults have not.
var unsupportedDefaults = []string{
	"BalanceInboundConnections", "Destination", "EnvoyExtensions", "FailoverPolicy", "LocalConnectTimeoutMs", "LocalRequestTimeoutMs",
	"MaxInboundConnections", "MaxRequestHeadersKB", "Mode", "MutualTLSMode", "PrioritizeByLocality", "RateLimits", "UpstreamConfig",
}

func (e *serviceDefaults) normalize() { e.Protocol = strings.ToLower(e.Protocol) }

func (e *serviceDefaults) check() error {
	if !slices.Contains([]string{"", "tcp", "http", "http2", "grpc"}, e.Protocol) {
		return fmt.Errorf("1 error occurred:\n\t* invalid value for protocol: %s\n\n", e.Protocol)
	}
	return nil
}

func (e *serviceDefaults) refers() []string { return nil }

// proxyDefaults is a proxy-defaults entry, whose Config.protocol is that of services without one
// of their own.
type proxyDefaults struct {
	entryHead
	Config           map[string]any
	TransparentProxy transparentProxy
	MeshGateway      meshGateway
	Expose           struct{}
	AccessLogs       struct{}
	entryTail
}

func (e *proxyDefaults) normalize() {}

func (e *proxyDefaults) check() error { return checkProxyName(e.Name) }

func checkProxyName(name string) error {
	if name != proxyName {
		return fmt.Errorf("invalid name (%q), only %q is supported", name, proxyName)
	}
	return nil
}

func (e *proxyDefaults) refers() []string { return nil }

func (e *proxyDefaults) protocol() string {
	if protocol, ok := e.Config["protocol"]; ok {
		return strings.ToLower(fmt.Sprint(protocol))
	}
	return ""
}

// serviceRouter is a service-router entry.
type serviceRouter struct {
	entryHead
	Routes []serviceRoute
	entryTail
}

type serviceRoute struct {
	Match       *routeMatch       `json:",omitempty"`
	Destination *routeDestination `json:",omitempty"`
}

type routeMatch struct {
	HTTP *httpMatch `json:",omitempty"`
}

type httpMatch struct {
	PathExact       string        `json:",omitempty"`
	PathPrefix      string        `json:",omitempty"`
	PathRegex       string        `json:",omitempty"`
	CaseInsensitive bool          `json:",omitempty"`
	Header          []headerMatch `json:",omitempty"`
	QueryParam      []queryMatch  `json:",omitempty"`
	Methods         []string      `json:",omitempty"`
}

type headerMatch struct {
	Name    string
	Present bool   `json:",omitempty"`
	Exact   string `json:",omitempty"`
	Prefix  string `json:",omitempty"`
	Suffix  string `json:",omitempty"`
	Regex   string `json:",omitempty"`
	Invert  bool   `json:",omitempty"`
}

type queryMatch struct {
	Name    string
	Present bool   `json:",omitempty"`
	Exact   string `json:",omitempty"`
	Regex   string `json:",omitempty"`
}

// routeDestination has a namespace and a partition, which only Consul Enterprise uses.
type routeDestination struct {
	RequestTimeout        duration         `json:",omitempty"`
	IdleTimeout           duration         `json:",omitempty"`
	Service               string           `json:",omitempty"`
	ServiceSubset         string           `json:",omitempty"`
	Namespace             string           `json:",omitempty"`
	Partition             string           `json:",omitempty"`
	PrefixRewrite         string           `json:",omitempty"`
	NumRetries            uint32           `json:",omitempty"`
	RetryOnConnectFailure bool             `json:",omitempty"`
	RetryOn               []string         `json:",omitempty"`
	RetryOnStatusCodes    []uint32         `json:",omitempty"`
	RequestHeaders        *headerModifiers `json:",omitempty"`
	ResponseHeaders       *headerModifiers `json:",omitempty"`
}

// headerModifiers changes the headers of requests or answers.
type headerModifiers struct {
	Add    map[string]string `json:",omitempty"`
	Set    map[string]string `json:",omitempty"`
	Remove []string          `json:",omitempty"`
}

func (e *serviceRouter) normalize() {
	for _, route := range e.Routes {
		if route.Match == nil || route.Match.HTTP == nil {
			continue
		}
		for i, method := range route.Match.HTTP.Methods {
			route.Match.HTTP.Methods[i] = strings.ToUpper(method)
		}
	}
}

func (e *serviceRouter) check() error {
	for i, route := range e.Routes {
		var match httpMatch
		if route.Match != nil && route.Match.HTTP != nil {
			match = *route.Match.HTTP
		}
		if problem := match.problem(); problem != "" {
			return fmt.Errorf("Route[%d] %s", i, problem)
		}
		if problem := route.Destination.problem(match.PathExact != "" || match.PathPrefix != ""); problem != "" {
			return fmt.Errorf("Route[%d] %s", i, problem)
		}
	}
	return nil
}

func (e *serviceRouter) refers() (services []string) {
	for _, route := range e.Routes {
		if route.Destination != nil && route.Destination.Service != "" {
			services = append(services, route.Destination.Service)
		}
	}
	return services
}

func (m *httpMatch) problem() string {
	switch {
	case m.PathExact != "" && !strings.HasPrefix(m.PathExact, "/"):
		return fmt.Sprintf("PathExact doesn't start with '/': %q", m.PathExact)
	case m.PathPrefix != "" && !strings.HasPrefix(m.PathPrefix, "/"):
		return fmt.Sprintf("PathPrefix doesn't start with '/': %q", m.PathPrefix)
	case count(m.PathExact != "", m.PathPrefix != "", m.PathRegex != "") > 1:
		return "should only contain at most one of PathExact, PathPrefix, or PathRegex"
	}
	for i, h := range m.Header {
		if h.Name == "" {
			return fmt.Sprintf("Header[%d] missing required Name field", i)
		}
		if count(h.Present, h.Exact != "", h.Prefix != "", h.Suffix != "", h.Regex != "") != 1 {
			return fmt.Sprintf("Header[%d] should only contain one of Present, Exact, Prefix, Suffix, or Regex", i)
		}
	}
	for i, q := range m.QueryParam {
		if q.Name == "" {
			return fmt.Sprintf("QueryParam[%d] missing required Name field", i)
		}
		if count(q.Present, q.Exact != "", q.Regex != "") != 1 {
			return fmt.Sprintf("QueryParam[%d] should only contain one of Present, Exact, or Regex", i)
		}
	}
	for i, method := range m.Methods {
		if !slices.Contains(httpMethods, method) {
			return fmt.Sprintf("Methods contains an invalid method %q", method)
		}
		if slices.Contains(m.Methods[:i], method) {
			return fmt.Sprintf("Methods contains %q more than once", method)
		}
	}
	return ""
}

var (
	httpMethods     = strings.Fields("GET HEAD POST PUT PATCH DELETE CONNECT OPTIONS TRACE")
	retryConditions = strings.Fields("5xx gateway-error reset connect-failure envoy-ratelimited retriable-4xx " +
		"refused-stream cancelled deadline-exceeded internal resource-exhausted unavailable")
)

func (d *routeDestination) problem(mayRewrite bool) string {
	if d == nil {
		return ""
	}
	if d.PrefixRewrite != "" && !mayRewrite {
		return "cannot make use of PrefixRewrite without configuring either PathExact or PathPrefix"
	}
	for _, condition := range d.RetryOn {
		if !slices.Contains(retryConditions, condition) {
			return fmt.Sprintf("contains an invalid retry condition: %q", condition)
		}
	}
	return ""
}

// count returns how many are true.
func count(of ...bool) (n int) {
	for _, one := range of {
		if one {
			n++
		}
	}
	return n
}

// serviceSplitter is a service-splitter entry.
type serviceSplitter struct {
	entryHead
	Splits []serviceSplit
	entryTail
}

type serviceSplit struct {
	Weight          float32          // percent
	Service         string           `json:",omitempty"`
	ServiceSubset   string           `json:",omitempty"`
	Namespace       string           `json:",omitempty"`
	Partition       string           `json:",omitempty"`
	RequestHeaders  *headerModifiers `json:",omitempty"`
	ResponseHeaders *headerModifiers `json:",omitempty"`
}

func (e *serviceSplitter) normalize() {
	for i := range e.Splits {
		e.Splits[i].Weight = roundWeight(e.Splits[i].Weight)
	}
}

func (e *serviceSplitter) check() error {
	if len(e.Splits) == 0 {
		return errors.New("no splits configured")
	}
	type destination struct{ service, subset, namespace, partition string }
	seen, sum := make(map[destination]bool), 0
	for _, split := range e.Splits {
		to := destination{cmp.Or(split.Service, e.Name), split.ServiceSubset, split.Namespace, split.Partition}
		if plain := split.RequestHeaders == nil && split.ResponseHeaders == nil; plain && seen[to] {
			return fmt.Errorf("split destination occurs more than once: service=%q, subset=%q, namespace=%q, partition=%q",
				to.service, to.subset, to.namespace, to.partition)
		} else if plain {
			seen[to] = true
		}
		sum += scaleWeight(split.Weight)
	}
	if sum != scaleWeight(100) {
		return fmt.Errorf("the sum of all split weights must be 100, not %f", float32(sum)/100)
	}
	return nil
}

func (e *serviceSplitter) refers() (services []string) {
	for _, split := range e.Splits {
		services = append(services, cmp.Or(split.Service, e.Name))
	}
	return services
}

// serviceResolver is a service-resolver entry.
type serviceResolver struct {
	ConnectTimeout duration `json:",omitempty"`
	RequestTimeout duration `json:",omitempty"`
	entryHead
	DefaultSubset        string                   `json:",omitempty"`
	Subsets              map[string]serviceSubset `json:",omitempty"`
	Redirect             *resolverTarget          `json:",omitempty"`
	Failover             map[string]failover      `json:",omitempty"`
	PrioritizeByLocality *struct{ Mode string }   `json:",omitempty"`
	LoadBalancer         *loadBalancer            `json:",omitempty"`
	entryTail
}

type serviceSubset struct {
	Filter      string `json:",omitempty"`
	OnlyPassing bool   `json:",omitempty"`
}

// resolverTarget is a redirect, or a target of a failover.
type resolverTarget struct {
	Service       string `json:",omitempty"`
	ServiceSubset string `json:",omitempty"`
	Namespace     string `json:",omitempty"`
	Partition     string `json:",omitempty"`
	Datacenter    string `json:",omitempty"`
	Peer          string `json:",omitempty"`
	SamenessGroup string `json:",omitempty"`
}

type failover struct {
	Service       string           `json:",omitempty"`
	ServiceSubset string           `json:",omitempty"`
	Namespace     string           `json:",omitempty"`
	Datacenters   []string         `json:",omitempty"`
	Targets       []resolverTarget `json:",omitempty"`
	Policy        *struct {
		Mode    string   `json:",omitempty"`
		Regions []string `json:",omitempty"`
	} `json:",omitempty"`
	SamenessGroup string `json:",omitempty"`
}

type loadBalancer struct {
	Policy             string              `json:",omitempty"`
	RingHashConfig     *ringHashConfig     `json:",omitempty"`
	LeastRequestConfig *leastRequestConfig `json:",omitempty"`
	HashPolicies       []hashPolicy        `json:",omitempty"`
}

type ringHashConfig struct {
	MinimumRingSize uint64 `json:",omitempty"`
	MaximumRingSize uint64 `json:",omitempty"`
}

type leastRequestConfig struct {
	ChoiceCount uint32 `json:",omitempty"`
}

type hashPolicy struct {
	Field        string        `json:",omitempty"`
	FieldValue   string        `json:",omitempty"`
	CookieConfig *cookieConfig `json:",omitempty"`
	SourceIP     bool          `json:",omitempty"`
	Terminal     bool          `json:",omitempty"`
}

type cookieConfig struct {
	Session bool        `json:",omitempty"`
	TTL     nanoseconds `json:",omitempty"`
	Path    string      `json:",omitempty"`
}

func (e *serviceResolver) normalize() {}

// isDefault reports whether e says nothing.
func (e *serviceResolver) isDefault() bool {
	return e.DefaultSubset == "" && len(e.Subsets) == 0 && e.Redirect == nil && len(e.Failover) == 0 &&
		e.ConnectTimeout == 0 && e.RequestTimeout == 0 && e.LoadBalancer == nil
}

func (e *serviceResolver) hasSubset(name string) bool {
	_, ok := e.Subsets[name]
	return ok || name == ""
}

// subsetNames is what Consul takes as the first label of a server's name.
var subsetNames = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)

func (e *serviceResolver) check() error {
	for name, subset := range sortedPairs(e.Subsets) {
		switch {
		case name == "":
			return errors.New("Subset defined with empty name")
		case len(name) > 63:
			return fmt.Errorf("Subset %q is invalid: must be non-empty and 63 characters or fewer", name)
		case !subsetNames.MatchString(name):
			return fmt.Errorf("Subset %q is invalid: must be 63 characters or fewer, begin or end with lower case alphanumeric characters, and contain lower case alphanumeric characters or '-' in between", name)
		}
		if _, err := parseFilter(subset.Filter); err != nil {
			return fmt.Errorf("Filter for subset %q is not a valid expression: %w", name, err)
		}
	}
	if !e.hasSubset(e.DefaultSubset) {
		return fmt.Errorf("DefaultSubset %q is not a valid subset", e.DefaultSubset)
	}
	if e.PrioritizeByLocality != nil {
		return errors.New("Prioritize-by-locality requires Consul Enterprise ")
	}
	if err := e.checkRedirect(); err != nil {
		return err
	}
	for subset, f := range sortedPairs(e.Failover) {
		if problem := e.failoverProblem(subset, f); problem != "" {
			return fmt.Errorf("Bad Failover[%q]%s", subset, problem)
		}
	}
	if e.ConnectTimeout < 0 {
		return fmt.Errorf("Bad ConnectTimeout '%s', must be >= 0", time.Duration(e.ConnectTimeout))
	}
	if e.RequestTimeout < 0 {
		return fmt.Errorf("Bad RequestTimeout '%s', must be >= 0", time.Duration(e.RequestTimeout))
	}
	return e.LoadBalancer.check()
}

func (e *serviceResolver) checkRedirect() error {
	r := e.Redirect
	switch {
	case r == nil:
		return nil
	case r.enterprise() != "":
		return fmt.Errorf("Redirect: Setting %s requires Consul Enterprise", r.enterprise())
	case len(e.Failover) > 0:
		return errors.New("Redirect and Failover cannot both be set")
	case *r == resolverTarget{}:
		return errors.New("Redirect is empty")
	case r.Peer != "" && r.ServiceSubset != "":
		return errors.New("Redirect.Peer cannot be set with Redirect.ServiceSubset")
	case r.Peer != "" && r.Datacenter != "":
		return errors.New("Redirect.Peer cannot be set with Redirect.Datacenter")
	case r.Service == "" && r.ServiceSubset != "":
		return errors.New("Redirect.ServiceSubset defined without Redirect.Service")
	case r.Service == "" && r.Peer != "":
		return errors.New("Redirect.Peer defined without Redirect.Service")
	case r.Service == e.Name && !e.hasSubset(r.ServiceSubset):
		return fmt.Errorf("Redirect.ServiceSubset %q is not a valid subset of %q", r.ServiceSubset, e.Name)
	}
	return nil
}

// enterprise returns a field that only Consul Enterprise has.
func (t *resolverTarget) enterprise() string {
	switch {
	case t.Partition != "":
		return "Partition"
	case t.Namespace != "":
		return "Namespace"
	case t.SamenessGroup != "":
		return "SamenessGroup"
	}
	return ""
}

// failoverProblem continues the text with which Consul begins.
func (e *serviceResolver) failoverProblem(subset string, f failover) string {
	enterprise := (&resolverTarget{Namespace: f.Namespace, SamenessGroup: f.SamenessGroup}).enterprise()
	switch {
	case enterprise != "":
		return ": Setting " + enterprise + " requires Consul Enterprise"
	case subset != wildcard && (subset == "" || !e.hasSubset(subset)):
		return ": not a valid subset subset"
	case f.Service == "" && f.ServiceSubset == "" && len(f.Datacenters) == 0 && len(f.Targets) == 0:
		return ": one of Service, ServiceSubset, Namespace, Targets, SamenessGroup, or Datacenters is required"
	case f.Policy != nil:
		return ": Setting failover policies requires Consul Enterprise"
	case (f.Service == "" || f.Service == e.Name) && !e.hasSubset(f.ServiceSubset):
		return fmt.Sprintf(": ServiceSubset %q is not a valid subset of %q", f.ServiceSubset, f.Service)
	case len(f.Datacenters) > 0 && len(f.Targets) > 0:
		return ": Targets cannot be set with Datacenters"
	case f.ServiceSubset != "" && len(f.Targets) > 0:
		return ": Targets cannot be set with ServiceSubset"
	case f.Service != "" && len(f.Targets) > 0:
		return ": Targets cannot be set with Service"
	case slices.Contains(f.Datacenters, ""):
		return ".Datacenters: found empty datacenter"
	}
	for i, target := range f.Targets {
		if problem := e.targetProblem(target); problem != "" {
			return fmt.Sprintf(".Targets[%d]: %s", i, problem)
		}
	}
	return ""
}

func (e *serviceResolver) targetProblem(t resolverTarget) string {
	switch {
	case t.enterprise() != "":
		return "Setting " + t.enterprise() + " requires Consul Enterprise"
	case t.Peer != "" && t.ServiceSubset != "":
		return "Peer cannot be set with ServiceSubset"
	case t.Peer != "" && t.Datacenter != "":
		return "Peer cannot be set with Datacenter"
	case (t.Service == "" || t.Service == e.Name) && !e.hasSubset(t.ServiceSubset):
		return fmt.Sprintf("ServiceSubset %q is not a valid subset of %q", t.ServiceSubset, e.Name)
	}
	return ""
}

func (e *serviceResolver) refers() (services []string) {
	if e.Redirect != nil {
		services = append(services, cmp.Or(e.Redirect.Service, e.Name))
	}
	for _, f := range e.Failover {
		services = append(services, cmp.Or(f.Service, e.Name))
		for _, target := range f.Targets {
			if target.Peer == "" {
				services = append(services, cmp.Or(target.Service, e.Name))
			}
		}
	}
	return services
}

// The policies of load balancers that hash.
const (
	policyRingHash = "ring_hash"
	policyMaglev   = "maglev"
)

func (lb *loadBalancer) hashes() bool {
	return lb != nil && (lb.Policy == policyRingHash || lb.Policy == policyMaglev)
}

func (lb *loadBalancer) check() error {
	switch {
	case lb == nil:
		return nil
	case !slices.Contains([]string{"", "random", "round_robin", "least_request", policyRingHash, policyMaglev}, lb.Policy):
		return fmt.Errorf("Bad LoadBalancer policy: %q is not supported", lb.Policy)
	case lb.Policy != policyRingHash && lb.RingHashConfig != nil:
		return fmt.Errorf("Bad LoadBalancer configuration. RingHashConfig specified for incompatible load balancing policy %q", lb.Policy)
	case lb.Policy != "least_request" && lb.LeastRequestConfig != nil:
		return fmt.Errorf("Bad LoadBalancer configuration. LeastRequestConfig specified for incompatible load balancing policy %q", lb.Policy)
	case !lb.hashes() && len(lb.HashPolicies) > 0:
		return fmt.Errorf("Bad LoadBalancer configuration: HashPolicies specified for non-hash-based Policy: %q", lb.Policy)
	}
	for i, policy := range lb.HashPolicies {
		if problem := policy.problem(); problem != "" {
			return fmt.Errorf("Bad LoadBalancer HashPolicy[%d]: %s", i, problem)
		}
	}
	return nil
}

func (p hashPolicy) problem() string {
	switch {
	case !slices.Contains([]string{"", "header", "cookie", "query_parameter"}, p.Field):
		return fmt.Sprintf("%q is not a supported field", p.Field)
	case p.SourceIP && p.Field != "":
		return fmt.Sprintf("A single hash policy cannot hash both a source address and a %q", p.Field)
	case p.SourceIP && p.FieldValue != "":
		return "A FieldValue cannot be specified when hashing SourceIP"
	case p.Field != "" && p.FieldValue == "":
		return fmt.Sprintf("Field %q was specified without a FieldValue", p.Field)
	case p.FieldValue != "" && p.Field == "":
		return "FieldValue requires a Field to apply to"
	case p.CookieConfig != nil && p.Field != "cookie":
		return fmt.Sprintf("cookie_config provided for %q", p.Field)
	case p.CookieConfig != nil && p.CookieConfig.Session && p.CookieConfig.TTL != 0:
		return "a session cookie cannot have an associated TTL"
	}
	return ""
}
