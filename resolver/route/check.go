package route

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// Bounds of what a chain may cost.
const (
	maxRoutes  = 1000    // matched one after the other
	maxTargets = 1000    // each is watched
	maxArms    = 10_000  // of all routes
	maxFields  = 64      // headers and parameters that a route matches
	maxChanges = 64      // of headers, in one modifier
	maxValue   = 8 << 10 // bytes of a header that is matched
	maxKey     = 256
	maxChange  = 4 << 10 // bytes of a header that is set
	maxRetries = 100

	maxSteps = 1 << 20 // of an expression, for each byte of a value: some milliseconds

	maxChoiceCount = 100
	maxRing        = 8 << 20 // Envoy's
)

// Check reports the parts of c that are not supported by a [*RefusedError]. Watchers of
// chains call it before they report one; the first call also prepares [Chain.Match], so that
// c must not be changed afterwards. It is safe for concurrent use.
//
// What only HTTP can mean is supported: see [Chain.HTTPOnly].
func (c *Chain) Check() error {
	c.once.Do(func() {
		if parts := c.compile(); len(parts) > 0 {
			c.err = &RefusedError{Service: c.Service, Protocol: c.Protocol, Index: c.Index, Parts: parts, Common: len(parts)}
		}
	})
	return c.err
}

// problems collects what is wrong.
type problems []string

func (p *problems) addf(format string, args ...any) { *p = append(*p, fmt.Sprintf(format, args...)) }

func (c *Chain) compile() (all problems) {
	switch {
	case len(c.Routes) == 0:
		all.addf("the chain has no route")
		return all
	case len(c.Routes) > maxRoutes:
		all.addf("the chain has %d routes: write %d at most, they are tried one after the other", len(c.Routes), maxRoutes)
		return all
	case len(c.Targets) > maxTargets:
		all.addf("the chain has %d targets: write %d at most, each is watched", len(c.Targets), maxTargets)
		return all
	}
	c.matchers, c.gates = make([]matcher, len(c.Routes)), make([]gate, len(c.Routes))
	names, keys, arms := map[string]bool{}, map[string]int{}, 0
	for i, r := range c.Routes {
		if r == nil {
			all.addf("route %d is null", i+1)
			continue
		}
		if r.Name == "" || names[r.Name] {
			all.addf("route %d has the name %q: write one that no other has", i+1, r.Name)
		}
		names[r.Name] = true
		var err error
		if c.matchers[i], err = compile(&r.Match); err != nil {
			all.addf("%s: %v", r.Name, err)
		}
		c.gates[i] = c.matchers[i].path.gate()
		c.matchers[i].number(keys)
		if arms += len(r.Arms); arms <= maxArms {
			c.checkRoute(r, &all)
		}
	}
	c.readsMetadata = len(keys) > 0
	if arms > maxArms {
		all.addf("the routes have %d arms: write %d at most", arms, maxArms)
	}
	if last := c.Routes[len(c.Routes)-1]; len(all) == 0 && !c.matchers[len(c.Routes)-1].all() {
		all.addf("%s is the last one and does not match every call: write one more without a match", last.Name)
	}
	c.checkTargets(&all)
	if c.Sticky != "" {
		if err := checkKey(c.Sticky); err != nil {
			all.addf("sticky by %v", err)
		}
	}
	return all
}

// all reports whether every call matches.
func (m *matcher) all() bool {
	return m.path.kind == anything && len(m.methods) == 0 && len(m.fields) == 0
}

func compile(m *Match) (c matcher, err error) {
	given := conditions{exact: m.PathExact, prefix: m.PathPrefix, regex: m.PathRegex}
	if given[prefix] == "/" { // as every path does
		given[prefix] = ""
	}
	if c.path, err = given.compile(m.CaseInsensitive); err != nil {
		return c, fmt.Errorf("the path %w", err)
	}
	c.methods = m.Methods
	if n := len(m.Headers) + len(m.Query); n > maxFields {
		return c, fmt.Errorf("matches %d headers and parameters: write %d at most", n, maxFields)
	}
	for i := range m.Headers {
		f, err := compileHeader(&m.Headers[i])
		if err != nil {
			return c, err
		}
		c.fields = append(c.fields, f)
	}
	for _, q := range m.Query {
		t, err := conditions{exact: q.Exact, regex: q.Regex}.compile(false)
		if q.Name == "" {
			return c, fmt.Errorf("a parameter of the query has no name")
		}
		if err != nil {
			return c, fmt.Errorf("the parameter %q of the query %w", q.Name, err)
		}
		c.fields = append(c.fields, field{from: query, key: q.Name, text: t})
	}
	return c, nil
}

func compileHeader(h *HeaderMatch) (field, error) {
	f := field{key: h.Name, invert: h.Invert}
	var err error
	given := conditions{exact: h.Exact, prefix: h.Prefix, suffix: h.Suffix, contains: h.Contains, regex: h.Regex}
	if f.text, err = given.compile(h.IgnoreCase); err != nil {
		return f, fmt.Errorf("the header %q %w", h.Name, err)
	}
	switch {
	case h.Name == ":path":
		f.from = path
		return f, nil
	case h.Name == ":method":
		f.from = method
		return f, nil
	case h.Name == ":authority":
		return f, nil // of HTTP
	case strings.HasSuffix(h.Name, "-bin") && f.text.kind != anything:
		return f, fmt.Errorf("the header %q is binary: match only whether it is present", h.Name)
	}
	if err := checkKey(h.Name); err != nil {
		return f, fmt.Errorf("the header %w", err)
	}
	return f, nil
}

func (c *Chain) checkRoute(r *Route, all *problems) {
	if r.Timeout < 0 {
		all.addf("%s: the timeout is %v: write one above 0", r.Name, r.Timeout)
	}
	if r.Retry != nil {
		if err := r.Retry.check(); err != nil {
			all.addf("%s: %v", r.Name, err)
		}
	}
	if len(r.Arms) == 0 {
		all.addf("%s has no arm", r.Name)
		return
	}
	total, names := 0.0, map[string]bool{}
	for i, a := range r.Arms {
		switch {
		case a == nil:
			all.addf("%s: arm %d is null", r.Name, i+1)
			return
		case a.Name == "" || names[a.Name]:
			all.addf("%s: arm %d has the name %q: write one that no other has", r.Name, i+1, a.Name)
		case !(a.Weight >= 0 && a.Weight <= 100):
			all.addf("%s: arm %s has the weight %v: write one of 0 to 100", r.Name, a.Name, a.Weight)
		}
		names[a.Name], total = true, total+a.Weight
		c.checkArm(r, a, all)
	}
	// Nested splits are rounded to 0.01 each.
	if math.Abs(total-100) > 0.01*float64(len(r.Arms)) {
		all.addf("%s: the weights of the arms sum to %.4g: write some that sum to 100", r.Name, total)
	}
}

func (c *Chain) checkArm(r *Route, a *Arm, all *problems) {
	where := r.Name + ", arm " + a.Name
	if c.Targets[a.Target] == nil {
		all.addf("%s goes to the target %q, which the chain does not have", where, a.Target)
	}
	for _, id := range a.Failover {
		if c.Targets[id] == nil {
			all.addf("%s fails over to the target %q, which the chain does not have", where, id)
		}
	}
	if a.Timeout < 0 {
		all.addf("%s: the timeout is %v: write one above 0", where, a.Timeout)
	}
	for _, headers := range [][]Headers{a.Request, a.Response} {
		for i := range headers {
			if err := headers[i].Check(); err != nil {
				all.addf("%s: %v", where, err)
			}
		}
	}
	if a.LoadBalancer != nil {
		if err := a.LoadBalancer.Check(); err != nil {
			all.addf("%s: %v", where, err)
		}
	}
}

func (c *Chain) checkTargets(all *problems) {
	for _, id := range slices.Sorted(maps.Keys(c.Targets)) {
		t := c.Targets[id]
		switch {
		case t == nil || t.ID != id:
			all.addf("the target %q is null, or has another ID", id)
		case t.Service == "" || t.Datacenter == "":
			all.addf("the target %q has the service %q and the datacenter %q: write both", id, t.Service, t.Datacenter)
		case t.ConnectTimeout < 0:
			all.addf("the target %q has a timeout of %v to connect: write one above 0", id, t.ConnectTimeout)
		}
	}
}

// The policies of a service-resolver.
var policies = []string{"least_request", "maglev", "random", "ring_hash", "round_robin"}

// Check reports the first field that is not supported, with what to write instead.
func (l *LoadBalancer) Check() error {
	if !slices.Contains(policies, l.Policy) {
		return fmt.Errorf("the load balancer policy %q: write one of %s", l.Policy, strings.Join(policies, ", "))
	}
	if l.ChoiceCount > maxChoiceCount || l.ChoiceCount == 1 {
		return fmt.Errorf("the load balancer has %d choices: write 2 to %d", l.ChoiceCount, maxChoiceCount)
	}
	if l.MaximumRingSize > maxRing || l.MinimumRingSize > maxRing {
		return fmt.Errorf("the load balancer has a ring of %d to %d: write %d at most", l.MinimumRingSize, l.MaximumRingSize, maxRing)
	}
	if l.MaximumRingSize != 0 && l.MinimumRingSize > l.MaximumRingSize {
		return fmt.Errorf("the load balancer has a ring of at least %d and at most %d", l.MinimumRingSize, l.MaximumRingSize)
	}
	return l.checkHash()
}

func (l *LoadBalancer) checkHash() error {
	switch l.HashFrom {
	case "":
		if l.HashKey == "" {
			return nil
		}
		if err := checkKey(l.HashKey); err != nil {
			return fmt.Errorf("the load balancer hashes the header %w", err)
		}
	case FromCookie, FromQuery:
		if l.HashKey == "" || len(l.HashKey) > maxKey {
			return fmt.Errorf("the load balancer hashes the %s %.64q: write a name of 1 to %d letters", l.HashFrom, l.HashKey, maxKey)
		}
	case FromAddress:
	default:
		return fmt.Errorf("the load balancer hashes %q: write header, %s, %s or %s", l.HashFrom, FromCookie, FromQuery, FromAddress)
	}
	return nil
}
