package intention_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/identity/intention"
)

// The model is how Consul makes a policy of Envoy's RBAC filter out of intentions
// (agent/xds/rbac.go): without an order, by sets that exclude each other.

// modelIntention is a policy.
type modelIntention struct {
	source     string
	notSources []string
	action     string // allow, deny, or "L7"
	perms      []*modelPermission
	skip       bool
}

type modelPermission struct {
	action string
	holds  func(call) bool
	not    []func(call) bool
	skip   bool
}

type call struct {
	source, path string
	headers      map[string][]string
}

func modelAllows(set intention.Set, destination string, c call) bool {
	var all []intention.Intention
	for _, i := range set.Intentions {
		if i.Destination == destination || i.Destination == "*" {
			all = append(all, i)
		}
	}
	slices.SortStableFunc(all, func(a, b intention.Intention) int { return cmp.Compare(wild(a), wild(b)) })
	var policies []*modelIntention
	seen := map[string]bool{}
	for _, i := range all {
		if seen[i.Source] {
			continue // "omit any lower-precedence intentions that share the same source"
		}
		seen[i.Source] = true
		m := &modelIntention{source: i.Source, action: string(i.Action)}
		for _, p := range i.Permissions {
			m.action = "L7"
			m.perms = append(m.perms, &modelPermission{action: string(p.Action), holds: modelMatcher(p)})
		}
		policies = append(policies, m)
	}
	preset := "deny"
	if set.Default == intention.Allow {
		preset = "allow"
	}
	excludeSources(policies, preset)
	matched := false
	for _, m := range policies {
		if !m.skip {
			matched = matched || m.matches(c, preset)
		}
	}
	return matched != (preset == "allow") // a list of what is not the default
}

func wild(i intention.Intention) (n int) {
	if i.Destination == "*" {
		n += 2
	}
	if i.Source == "*" {
		n++
	}
	return n
}

func covers(source, name string) bool { return source == "*" || source == name }

func excludeSources(policies []*modelIntention, preset string) {
	for i := len(policies) - 1; i >= 0; i-- {
		for j := i + 1; j < len(policies); j++ {
			// Consul leaves out that "* => catalog" comes before "web => *", against its own
			// documentation and /v1/connect/intentions/check.
			if !policies[j].skip && (covers(policies[j].source, policies[i].source) || covers(policies[i].source, policies[j].source)) {
				policies[j].notSources = append(policies[j].notSources, policies[i].source)
			}
		}
		policies[i].skip = policies[i].action == preset
	}
}

func (m *modelIntention) matches(c call, preset string) bool {
	if !covers(m.source, c.source) || slices.ContainsFunc(m.notSources, func(s string) bool { return covers(s, c.source) }) {
		return false
	}
	if m.action != "L7" {
		return true
	}
	for i := len(m.perms) - 1; i >= 0; i-- {
		for j := i + 1; j < len(m.perms); j++ {
			m.perms[j].not = append(m.perms[j].not, m.perms[i].holds)
		}
		m.perms[i].skip = m.perms[i].action == preset
	}
	return slices.ContainsFunc(m.perms, func(p *modelPermission) bool {
		return !p.skip && p.holds(c) && !slices.ContainsFunc(p.not, func(f func(call) bool) bool { return f(c) })
	})
}

func modelMatcher(p intention.Permission) func(call) bool {
	return func(c call) bool {
		if p.PathExact != "" && c.path != p.PathExact || !strings.HasPrefix(c.path, p.PathPrefix) {
			return false
		}
		if len(p.Methods) > 0 && !slices.Contains(p.Methods, "POST") {
			return false
		}
		for _, h := range p.Headers {
			value, ok := strings.Join(c.headers[h.Name], ","), c.headers[h.Name] != nil
			switch {
			case h.Present && ok == h.Invert, !h.Present && !ok:
				return false
			case h.Exact != "" && (value == h.Exact) == h.Invert, h.Prefix != "" && strings.HasPrefix(value, h.Prefix) == h.Invert:
				return false
			}
		}
		return true
	}
}

var (
	sources = []string{"web", "api", "ops", "*"}
	paths   = []string{"/shop.Catalog/Get", "/shop.Catalog/List", "/shop.Cart/Add"}
)

func pick[T any](r *rand.Rand, of []T) T { return of[r.IntN(len(of))] }

func randomAction(r *rand.Rand) intention.Action {
	return pick(r, []intention.Action{intention.Allow, intention.Deny})
}

func randomSet(r *rand.Rand, layer7 bool) intention.Set {
	set := intention.Set{Default: randomAction(r)}
	for _, destination := range []string{"catalog", "*", "other"} {
		for _, source := range sources {
			if r.IntN(2) == 0 {
				continue
			}
			i := intention.Intention{Source: source, Destination: destination, Action: randomAction(r)}
			if layer7 && destination != "*" && r.IntN(2) == 0 {
				i.Action = ""
				for range 1 + r.IntN(4) {
					i.Permissions = append(i.Permissions, randomPermission(r))
				}
			}
			set.Intentions = append(set.Intentions, i)
		}
	}
	r.Shuffle(len(set.Intentions), func(i, j int) {
		set.Intentions[i], set.Intentions[j] = set.Intentions[j], set.Intentions[i]
	})
	return set
}

func randomPermission(r *rand.Rand) intention.Permission {
	p := intention.Permission{Action: randomAction(r)}
	switch r.IntN(4) {
	case 0:
		p.PathExact = pick(r, paths)
	case 1:
		p.PathPrefix = pick(r, []string{"/shop.Catalog/", "/shop.", "/"})
	case 2:
		p.Methods = pick(r, [][]string{{"POST"}, {"GET", "PUT"}, {"GET", "POST"}})
	}
	if r.IntN(2) == 0 || p.PathExact == "" && p.PathPrefix == "" && p.Methods == nil {
		h := intention.Header{Name: pick(r, []string{"tenant", "version"}), Invert: r.IntN(2) == 0}
		switch r.IntN(3) {
		case 0:
			h.Present = true
		case 1:
			h.Exact = "a"
		default:
			h.Prefix = "a"
		}
		p.Headers = append(p.Headers, h)
	}
	return p
}

// Case I6: Intention precedence equals Consul's own answer for 1,000 generated sets (compared
// with `/v1/connect/intentions/check` on the real agent for L4, with a model for L7).
func TestDecisionsAreThoseOfConsulsTranslation(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 17))
	allowed, compared := 0, 0
	for n := range 1000 {
		set := randomSet(r, true)
		rules, err := intention.Compile("catalog", set)
		if err != nil || len(rules.Refused()) > 0 {
			t.Fatal(err, rules.Refused())
		}
		for _, source := range []string{"web", "api", "ops", "stranger"} {
			for _, path := range paths {
				for _, headers := range []map[string][]string{nil, {"tenant": {"a"}}, {"tenant": {"a", "b"}, "version": {"ab"}}, {"version": {""}}} {
					c := call{source, path, headers}
					want := modelAllows(set, "catalog", c)
					got := rules.Method(path).From(source).Decide(func(key string) []string { return headers[key] })
					if got.Allowed != want {
						t.Fatalf("set %d %+v\n%+v: allowed is %t by %q, want %t", n, set, c, got.Allowed, got.Rule, want)
					}
					explained := rules.Explain(source, path, func(key string) []string { return headers[key] })
					if explained.Decision != *got {
						t.Fatalf("explained as %+v, want %+v", explained.Decision, *got)
					}
					compared++
					if want {
						allowed++
					}
				}
			}
		}
	}
	if allowed < compared/10 || allowed > compared*9/10 {
		t.Errorf("%d of %d calls are allowed: the sets show little", allowed, compared)
	}
}

// entryOf is the config entry of a destination in set, "" for none.
func entryOf(set intention.Set, destination, as string) string {
	var sources []string
	for _, i := range set.Intentions {
		if i.Destination == destination {
			sources = append(sources, fmt.Sprintf(`{"Name":%q,"Action":%q}`, i.Source, i.Action))
		}
	}
	if len(sources) == 0 {
		return ""
	}
	return fmt.Sprintf(`{"Kind":"service-intentions","Name":%q,"Sources":[%s]}`, as, strings.Join(sources, ","))
}
