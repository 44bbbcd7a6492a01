package intention

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/meshlite-go/meshlite/internal/expression"
)

// Bounds of what one permission may cost.
const (
	maxPermissions = 256 // of an intention
	maxHeaders     = 64  // of a permission
)

// httpMethod is that of every gRPC call.
const httpMethod = "POST"

// permission is one that can be evaluated.
type permission struct {
	decision Decision
	path     func(string) bool
	post     bool
	headers  []header
}

func compilePermission(p *Permission) (*permission, *FieldError) {
	c := &permission{post: len(p.Methods) == 0 || slices.Contains(p.Methods, httpMethod)}
	switch p.Action {
	case Allow, Deny:
		c.decision.Allowed = p.Action == Allow
	default:
		return nil, wrong("Action", "%q: want allow or deny", p.Action)
	}
	var err *FieldError
	if c.path, err = compilePath(p); err != nil {
		return nil, err
	}
	if len(p.Headers) > maxHeaders {
		return nil, wrong("Headers", "%d of them: write %d at most", len(p.Headers), maxHeaders)
	}
	for i := range p.Headers {
		h, err := compileHeader(&p.Headers[i])
		if err != nil {
			return nil, wrong(fmt.Sprintf("Headers[%d]", i), "%v", err)
		}
		c.headers = append(c.headers, h)
	}
	if p.PathExact == "" && p.PathPrefix == "" && p.PathRegex == "" && len(p.Methods) == 0 && len(p.Headers) == 0 {
		return nil, wrong("", "no condition: write an action on the intention instead")
	}
	return c, nil
}

func compilePath(p *Permission) (func(string) bool, *FieldError) {
	if given := given01(p.PathExact != "", p.PathPrefix != "", p.PathRegex != ""); given > 1 {
		return nil, wrong("", "more than one of PathExact, PathPrefix and PathRegex")
	}
	switch {
	case p.PathExact != "":
		return func(path string) bool { return path == p.PathExact }, nil
	case p.PathPrefix != "":
		return func(path string) bool { return strings.HasPrefix(path, p.PathPrefix) }, nil
	case p.PathRegex != "":
		re, _, err := expression.Whole(p.PathRegex)
		if err != nil {
			return nil, wrong("PathRegex", "%v", err)
		}
		return re.MatchString, nil
	default:
		return func(string) bool { return true }, nil
	}
}

func given01(all ...bool) (n int) {
	for _, one := range all {
		if one {
			n++
		}
	}
	return n
}

// header is one condition.
type header struct {
	key     string // of metadata
	present bool   // only that the key is there
	matches func(string) bool
	invert  bool
}

func compileHeader(h *Header) (header, error) {
	c := header{key: strings.ToLower(h.Name), present: h.Present, invert: h.Invert}
	if n := given01(h.Present, h.Exact != "", h.Prefix != "", h.Suffix != "", h.Contains != "", h.Regex != ""); n != 1 {
		return c, fmt.Errorf("%q: want one of present, exact, prefix, suffix, contains and regex, not %d", h.Name, n)
	}
	if h.IgnoreCase && (h.Present || h.Regex != "") {
		return c, fmt.Errorf("%q: only exact, prefix, suffix and contains can ignore case", h.Name)
	}
	if err := c.place(h.Present); err != nil {
		return c, err
	}
	folded := func(text string) string { return text }
	if h.IgnoreCase {
		folded = strings.ToLower
	}
	switch {
	case h.Exact != "":
		want := folded(h.Exact)
		c.matches = func(value string) bool { return folded(value) == want }
	case h.Prefix != "":
		want := folded(h.Prefix)
		c.matches = func(value string) bool { return strings.HasPrefix(folded(value), want) }
	case h.Suffix != "":
		want := folded(h.Suffix)
		c.matches = func(value string) bool { return strings.HasSuffix(folded(value), want) }
	case h.Contains != "":
		want := folded(h.Contains)
		c.matches = func(value string) bool { return strings.Contains(folded(value), want) }
	case h.Regex != "":
		re, _, err := expression.Whole(h.Regex)
		if err != nil {
			return c, fmt.Errorf("%q: regex: %w", h.Name, err)
		}
		c.matches = re.MatchString
	}
	return c, nil
}

// place finds where gRPC has the header. Those that it keeps to itself cannot be decided.
func (c *header) place(present bool) error {
	switch c.key {
	case "":
		return errors.New("it has no name")
	case "host":
		c.key = ":authority"
	case ":authority":
	case ":path", ":method":
		return nil
	case "te", "connection", "grpc-timeout", "grpc-encoding", "grpc-message-type", "grpc-status", "grpc-message", "grpc-tags-bin", "grpc-trace-bin":
		return fmt.Errorf("%q: gRPC keeps it to itself", c.key)
	default:
		if strings.HasPrefix(c.key, ":") {
			return fmt.Errorf("%q: a call has :authority, :path and :method", c.key)
		}
		if strings.HasSuffix(c.key, "-bin") && !present {
			return fmt.Errorf("%q: binary metadata can be present only", c.key)
		}
	}
	return nil
}

// holds reports whether the condition does. As in Envoy, a missing header fulfils no
// condition but an inverted Present.
func (c *header) holds(path string, headers Headers) bool {
	var values []string
	switch c.key {
	case ":path":
		values = []string{path}
	case ":method":
		values = []string{httpMethod}
	default:
		values = headers(c.key)
	}
	switch {
	case c.present:
		return len(values) > 0 != c.invert
	case len(values) == 0:
		return false
	case len(values) == 1:
		return c.matches(values[0]) != c.invert
	default:
		return c.matches(strings.Join(values, ",")) != c.invert
	}
}
