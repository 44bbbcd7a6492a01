package openapi

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// template is a parsed path template of google.api.http. OpenAPI has no parameter that
// contains a slash, so each wildcard of {name=shelves/*/books/*} is a parameter of its own.
type template struct {
	segments []segment
	verb     string // with its colon
}

type segment struct {
	literal  string // of a segment that is no wildcard
	wildcard bool
	rest     bool   // ** rather than *
	variable string // path of the field, "" outside of a variable
	whole    bool   // the variable is this segment alone
}

// parseTemplate reads what transcode has checked; it fails where it cannot go on.
func parseTemplate(text string) (template, error) {
	var t template
	rest := text
	if colon := strings.LastIndex(text, ":"); colon > strings.LastIndexAny(text, "/}") {
		rest, t.verb = text[:colon], text[colon:]
	}
	for rest != "" {
		after, ok := strings.CutPrefix(rest, "/")
		if !ok {
			return t, fmt.Errorf("template %q: want a slash before %q", text, rest)
		}
		if inner, ok := strings.CutPrefix(after, "{"); ok {
			inner, after, ok = strings.Cut(inner, "}")
			if !ok {
				return t, fmt.Errorf("template %q: a brace is not closed", text)
			}
			name, pattern, bound := strings.Cut(inner, "=")
			if !bound {
				pattern = "*"
			}
			parts := strings.Split(pattern, "/")
			for _, part := range parts {
				t.segments = append(t.segments, newSegment(part, name, len(parts) == 1))
			}
			rest = after
			continue
		}
		end := strings.IndexByte(after, '/')
		if end < 0 {
			end = len(after)
		}
		t.segments = append(t.segments, newSegment(after[:end], "", false))
		rest = after[end:]
	}
	return t, nil
}

func newSegment(text, variable string, whole bool) segment {
	if text == "*" || text == "**" {
		return segment{wildcard: true, rest: text == "**", variable: variable, whole: whole}
	}
	return segment{literal: text, variable: variable}
}

// text writes the path with its parameters named so.
func (t template) text(names []string) string {
	var b strings.Builder
	for _, s := range t.segments {
		b.WriteByte('/')
		if s.wildcard {
			b.WriteString("{" + names[0] + "}")
			names = names[1:]
			continue
		}
		b.WriteString(s.literal)
	}
	if len(t.segments) == 0 {
		b.WriteByte('/')
	}
	b.WriteString(t.verb)
	return b.String()
}

// shape is equal for paths that differ in the names of their parameters only, which
// OpenAPI forbids.
func (t template) shape() string { return t.text(make([]string, len(t.segments))) }

var word = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]*$`)

// names gives each wildcard a name: that of its field if it is the field's only one, else
// that of the literal before it.
func (t template) names() []string {
	wildcards := map[string]int{} // of each variable
	for _, s := range t.segments {
		if s.wildcard {
			wildcards[s.variable]++
		}
	}
	var names []string
	for i, s := range t.segments {
		if !s.wildcard {
			continue
		}
		name := s.variable
		if name == "" || wildcards[name] > 1 {
			name = "segment"
			if i > 0 && word.MatchString(t.segments[i-1].literal) {
				name = t.segments[i-1].literal + "_id"
			}
		}
		unique := name
		for n := 2; slices.Contains(names, unique); n++ {
			unique = name + "_" + strconv.Itoa(n)
		}
		names = append(names, unique)
	}
	return names
}

// form writes the value that variable has, in terms of the parameters: "shelves/{shelf}".
func (t template) form(variable string, names []string) string {
	var parts []string
	for _, s := range t.segments {
		name := s.literal
		if s.wildcard {
			name, names = "{"+names[0]+"}", names[1:]
		}
		if s.variable == variable {
			parts = append(parts, name)
		}
	}
	return strings.Join(parts, "/")
}
