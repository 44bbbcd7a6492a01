package intention

import (
	"cmp"
	"fmt"
	"slices"
)

// Headers returns the values of a metadata key, which is in lower case.
type Headers func(key string) []string

// Decision is what becomes of a call, and why. It is shared, and must not be changed.
type Decision struct {
	Allowed bool
	// Rule names what decides: "web => catalog", "web => catalog permission 2", "default". The
	// first permission is 1.
	Rule string
	// Reason says more of a denial, "" if there is nothing to say.
	Reason string
}

// Rules are the intentions of one destination. They are immutable and safe for concurrent
// use.
type Rules struct {
	trustDomain string
	ordered     []*rule
	fallback    *Decision
	bySource    map[string]*rule // the first that matches, for each source that one names; also by whole SPIFFE ids
	others      *rule            // the first that matches any other source, or nil
}

// rule is an intention that can be evaluated.
type rule struct {
	*Intention
	decision    Decision // without permissions
	permissions []*permission
}

// Compile orders the intentions of set that are about destination. What is not understood in
// one makes that one deny, and is in its Refused, which [Rules.Refused] lists. The error is
// about destination.
func Compile(destination string, set Set) (*Rules, error) {
	if destination == "" || destination == Wildcard {
		return nil, fmt.Errorf("intentions of destination %q: write the name of a service", destination)
	}
	r := &Rules{trustDomain: set.TrustDomain, bySource: map[string]*rule{}}
	r.fallback = &Decision{Allowed: set.Default == Allow, Rule: "default", Reason: set.DefaultReason}
	for _, i := range set.Intentions {
		if i.Destination == destination || i.Destination == Wildcard {
			r.ordered = append(r.ordered, compile(i))
		}
	}
	slices.SortStableFunc(r.ordered, func(a, b *rule) int { return cmp.Compare(b.Precedence(), a.Precedence()) })
	r.others = r.first("")
	for _, one := range r.ordered {
		if one.Source != Wildcard && one.Elsewhere == "" && r.bySource[one.Source] == nil {
			r.bySource[one.Source] = r.first(one.Source)
		}
	}
	return r, nil
}

func compile(i Intention) *rule {
	c := &rule{Intention: &i}
	if i.Refused == "" {
		if err := c.compile(); err != nil {
			i.Refused = err.Error()
		}
	}
	c.decision.Rule = i.String()
	if i.Refused != "" {
		c.permissions = nil
		c.decision.Allowed, c.decision.Reason = false, "the intention is not understood: "+i.Refused
	}
	return c
}

// compile evaluates what is the same for every call. An intention without an action must
// not become one that allows because its permissions are gone (CVE-2021-36213).
func (c *rule) compile() *FieldError {
	switch {
	case c.Source == "":
		return wrong("Source", "it is empty: write the name of a service, or *")
	case len(c.Permissions) > 0 && c.Action != "":
		return wrong("Action", "%q beside permissions: write one of them", c.Action)
	case len(c.Permissions) == 0 && c.Action != Allow && c.Action != Deny:
		return wrong("Action", "%q: want allow or deny", c.Action)
	case len(c.Permissions) > maxPermissions:
		return wrong("Permissions", "%d of them: write %d at most", len(c.Permissions), maxPermissions)
	}
	c.decision.Allowed = c.Action == Allow
	for i := range c.Permissions {
		p, err := compilePermission(&c.Permissions[i])
		if err != nil {
			return err.in(fmt.Sprintf("Permissions[%d]", i))
		}
		p.decision.Rule = fmt.Sprintf("%v permission %d", c.Intention, i+1)
		c.permissions = append(c.permissions, p)
	}
	return nil
}

// first is the rule that decides about source, nil for none.
func (r *Rules) first(source string) *rule {
	for _, one := range r.ordered {
		if one.matches(source) {
			return one
		}
	}
	return nil
}

// matches does not take a SPIFFE id for a service.
func (c *rule) matches(source string) bool {
	return c.Elsewhere == "" && (c.Source == Wildcard && !isID(source) || c.Source == source)
}

// TrustDomain is the one that callers must be of, "" for any.
func (r *Rules) TrustDomain() string { return r.trustDomain }

// Len is the number of intentions.
func (r *Rules) Len() int { return len(r.ordered) }

// Refused lists the intentions that are not understood or that match nobody, with the
// reasons, in their order.
func (r *Rules) Refused() []string {
	var all []string
	for _, one := range r.ordered {
		if reason := cmp.Or(one.Refused, one.Elsewhere); reason != "" {
			all = append(all, one.String()+": "+reason)
		}
	}
	return all
}

// Method are the rules for the calls of one method. They are immutable and safe for
// concurrent use.
type Method struct {
	bySource map[string]*Verdict // of services
	byID     map[string]*Verdict // of whole SPIFFE ids, nil for none
	others   *Verdict
}

// Method evaluates all that the calls of fullMethod have in common.
func (r *Rules) Method(fullMethod string) *Method {
	m := &Method{bySource: make(map[string]*Verdict, len(r.bySource)), others: r.verdict(r.others, fullMethod)}
	for source, one := range r.bySource {
		switch verdict := r.verdict(one, fullMethod); {
		case !isID(source):
			m.bySource[source] = verdict
		case m.byID == nil:
			m.byID = map[string]*Verdict{source: verdict}
		default:
			m.byID[source] = verdict
		}
	}
	return m
}

// FromID returns what an intention decides whose source is all of a SPIFFE id, nil if none is.
func (m *Method) FromID(id string) *Verdict { return m.byID[id] }

// From returns what is decided about the calls of source, the name of a service.
func (m *Method) From(source string) *Verdict {
	if v := m.bySource[source]; v != nil {
		return v
	}
	return m.others
}

// Verdict decides about the calls of one source to one method. It is immutable and safe
// for concurrent use.
type Verdict struct {
	path        string
	permissions []*permission // with headers, tried in order
	otherwise   *Decision
}

func (r *Rules) verdict(one *rule, fullMethod string) *Verdict {
	switch {
	case one == nil:
		return &Verdict{otherwise: r.fallback}
	case len(one.permissions) == 0:
		return &Verdict{otherwise: &one.decision}
	}
	v := &Verdict{path: fullMethod, otherwise: &Decision{
		Allowed: r.fallback.Allowed, Rule: "default", Reason: fmt.Sprintf("no permission of %v matches", one),
	}}
	for _, p := range one.permissions {
		switch {
		case !p.post || !p.path(fullMethod):
		case len(p.headers) == 0:
			v.otherwise = &p.decision
			return v
		default:
			v.permissions = append(v.permissions, p)
		}
	}
	return v
}

// Decide returns the decision about a call with headers, which is called only where a
// permission depends on them.
func (v *Verdict) Decide(headers Headers) *Decision {
	for _, p := range v.permissions {
		if !slices.ContainsFunc(p.headers, func(h header) bool { return !h.holds(v.path, headers) }) {
			return &p.decision
		}
	}
	return v.otherwise
}

// Explanation is why a call is allowed or denied, for people.
type Explanation struct {
	Decision
	// Without is the decision if the intention that decides did not exist; nil if the default
	// decides.
	Without *Decision
}

// Explain decides about one call and says what would without the intention that does.
func (r *Rules) Explain(source, fullMethod string, headers Headers) Explanation {
	var found []*rule
	for _, one := range r.ordered {
		if one.matches(source) {
			found = append(found, one)
		}
	}
	if len(found) == 0 {
		return Explanation{Decision: *r.fallback}
	}
	next := r.verdict(nil, fullMethod)
	if len(found) > 1 {
		next = r.verdict(found[1], fullMethod)
	}
	return Explanation{*r.verdict(found[0], fullMethod).Decide(headers), next.Decide(headers)}
}

// ByPermissions reports whether the intention that decides about the calls of source has
// permissions, so that the decision depends on the method or on metadata.
func (r *Rules) ByPermissions(source string) bool {
	one := r.first(source)
	return one != nil && len(one.permissions) > 0
}

// Conditional reports whether the decision depends on headers.
func (v *Verdict) Conditional() bool { return len(v.permissions) > 0 }
