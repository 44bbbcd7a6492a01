package route

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/meshlite-go/meshlite/internal/expression"
)

// methodOfGRPC is the HTTP method of every call of gRPC.
const methodOfGRPC = "POST"

// request is what routes match.
type request struct {
	path, method string
	md           Metadata
	query        Metadata // of HTTP

	// What was last found in md: routes often match the same key one after the other.
	number int // of the key
	found  []string
}

// values returns the values of the metadata key of f.
func (r *request) values(f *field) []string {
	if r.number != f.number && r.md != nil {
		r.number, r.found = f.number, r.md.Get(f.key)
	}
	return r.found
}

// matcher is a compiled [Match]. Its conditions are in the order of their cost.
type matcher struct {
	path    text
	methods []string
	fields  []field
}

func (m *matcher) matches(r *request) bool {
	if m.path.kind != anything && !m.path.matches(r.path) || !m.takes(r.method) {
		return false
	}
	for i := range m.fields {
		if !m.fields[i].holds(r) {
			return false
		}
	}
	return true
}

// number gives the fields of metadata the numbers of their keys.
func (m *matcher) number(keys map[string]int) {
	for i := range m.fields {
		f := &m.fields[i]
		if f.from != metadata {
			continue
		}
		if keys[f.key] == 0 {
			keys[f.key] = len(keys) + 1
		}
		f.number = keys[f.key]
	}
}

func (m *matcher) takes(method string) bool {
	return len(m.methods) == 0 || slices.Contains(m.methods, method)
}

// mismatch is the first condition that does not hold, "" for none.
func (m *matcher) mismatch(r *request) string {
	if !m.path.matches(r.path) {
		return "the path " + m.path.opposite()
	}
	if !m.takes(r.method) {
		return fmt.Sprintf("the HTTP method is %s, not %s", r.method, strings.Join(m.methods, " or "))
	}
	for i := range m.fields {
		if f := &m.fields[i]; !f.holds(r) {
			return f.mismatch(r)
		}
	}
	return ""
}

// source is where a field is found.
type source uint8

const (
	metadata source = iota
	path
	method
	query
)

// field is a condition on a header or a parameter of a query.
type field struct {
	from   source
	number int // of a metadata key among those of the chain, from 1
	key    string
	text   text // of the kind anything: presence
	invert bool
}

// value returns the value of the field; known is false if it is absent or too long.
func (f *field) value(r *request) (value string, present, known bool) {
	var values []string
	switch f.from {
	case path:
		value, present = r.path, true
	case method:
		value, present = r.method, true
	case query:
		if r.query != nil { // a call of gRPC has none
			values = r.query.Get(f.key)
		}
		values = values[:min(len(values), 1)]
	default:
		values = r.values(f)
	}
	switch {
	case present:
	case len(values) == 1:
		value, present = values[0], true
	case len(values) > 1:
		size := len(values) - 1
		for _, one := range values {
			size += len(one)
		}
		if size > f.text.most || f.text.kind == anything {
			return "", true, false
		}
		value, present = strings.Join(values, ","), true
	}
	return value, present, present && len(value) <= f.text.most
}

func (f *field) holds(r *request) bool {
	if f.from == metadata && f.text.kind != anything {
		switch values := r.values(f); {
		case len(values) == 0:
			return false
		case len(values) == 1 && len(values[0]) <= f.text.most: // as nearly always
			return f.text.matches(values[0]) != f.invert
		}
	}
	value, present, known := f.value(r)
	if f.text.kind == anything {
		return present != f.invert
	}
	return known && f.text.matches(value) != f.invert
}

// mismatch says why f does not hold.
func (f *field) mismatch(r *request) string {
	name := f.key
	if f.from == query {
		name = "the parameter " + name
	}
	_, present, known := f.value(r)
	switch {
	case !present:
		return name + " is absent"
	case f.text.kind == anything:
		return name + " is present"
	case !known:
		return fmt.Sprintf("%s has more than %d bytes", name, f.text.most)
	case f.invert:
		return name + " " + f.text.String()
	default:
		return name + " " + f.text.opposite()
	}
}

// kind is how a text matches.
type kind uint8

const (
	anything kind = iota
	exact
	prefix
	suffix
	contains
	regex
)

// text is a condition on a text.
type text struct {
	kind       kind
	want       string
	ignoreCase bool // of ASCII
	re         *regexp.Regexp
	most       int // bytes of what is matched
}

func (t *text) matches(s string) bool {
	n := len(t.want)
	switch t.kind {
	case anything:
		return true
	case exact:
		return len(s) == n && t.equal(s)
	case prefix:
		return len(s) >= n && t.equal(s[:n])
	case regex:
		return len(s) <= t.most && t.re.MatchString(s)
	case suffix:
		return len(s) >= n && t.equal(s[len(s)-n:])
	default:
		if !t.ignoreCase {
			return strings.Contains(s, t.want)
		}
		for i := 0; i+n <= len(s); i++ {
			if t.equal(s[i : i+n]) {
				return true
			}
		}
		return false
	}
}

// gate is a quick test of two letters, which most texts that do not match fail. The zero value is
// open.
type gate struct {
	length       uint16 // at least; at most maxValue
	middle, last byte
}

// gate is that of t: it is open for all but exact and prefix, and where case is ignored.
func (t *text) gate() gate {
	n := len(t.want)
	if t.kind != exact && t.kind != prefix || t.ignoreCase {
		return gate{}
	}
	return gate{uint16(n), t.want[n/2], t.want[n-1]}
}

// open reports whether s may match.
func (g *gate) open(s string) bool {
	n := int(g.length)
	return n == 0 || len(s) >= n && s[n-1] == g.last && s[n/2] == g.middle
}

// equal compares s with a text of the same length.
func (t *text) equal(s string) bool {
	return s == t.want || t.ignoreCase && equalInAnyCase(s, t.want)
}

func equalInAnyCase(a, b string) bool {
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

var (
	holds    = [...]string{anything: "is anything", exact: "is %q", prefix: "begins with %q", suffix: "ends with %q", contains: "contains %q", regex: "matches %q"}
	opposite = [...]string{anything: "is nothing", exact: "is not %q", prefix: "does not begin with %q", suffix: "does not end with %q", contains: "does not contain %q", regex: "does not match %q"}
)

// String is the condition in words, and opposite is what holds where it does not.
func (t *text) String() string   { return t.say(holds[t.kind]) }
func (t *text) opposite() string { return t.say(opposite[t.kind]) }

func (t *text) say(format string) string {
	if t.kind == anything {
		return format
	}
	said := fmt.Sprintf(format, t.want)
	if t.ignoreCase {
		said += " in any case"
	}
	return said
}

// conditions are texts by kind, of which at most one is given.
type conditions [regex + 1]string

func (c conditions) compile(ignoreCase bool) (text, error) {
	t := text{most: maxValue}
	for k := exact; k <= regex; k++ {
		switch {
		case c[k] == "":
			continue
		case t.kind != anything:
			return text{}, fmt.Errorf("has %q and %q: write one condition", t.want, c[k])
		case len(c[k]) > maxValue:
			return text{}, fmt.Errorf("has a condition of %d bytes: write %d at most", len(c[k]), maxValue)
		}
		t.kind, t.want = k, c[k]
		t.ignoreCase = ignoreCase && k != regex
	}
	if t.kind == regex {
		re, steps, err := expression.Whole(t.want)
		if err != nil {
			return text{}, fmt.Errorf("has %w", err)
		}
		t.re, t.most = re, min(maxValue, maxSteps/steps)
	}
	return t, nil
}
