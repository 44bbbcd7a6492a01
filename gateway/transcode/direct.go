package transcode

import (
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
)

// ruleMux is a runtime.ServeMux with a shorter way for most requests, to the same route: one that
// copies no request, for paths without escapes to templates of whole segments.
type ruleMux struct {
	*runtime.ServeMux
	templates map[string][]directTemplate // by HTTP method, in the order in which the mux tries them
}

// directTemplate is the template of a route.
type directTemplate struct {
	route    *route
	segments []directSegment // nil if only the runtime can match it
}

// directSegment is a literal or, if that is empty, a variable.
type directSegment struct{ literal, variable string }

// wholeSegments are templates such as "/v1/shelves/{shelf}/books/{book.id}".
var wholeSegments = regexp.MustCompile(`^(/[A-Za-z0-9._~-]+|/\{[A-Za-z0-9._]+\})+$`)

func newDirectTemplate(rt *route) directTemplate {
	t := directTemplate{route: rt}
	if !wholeSegments.MatchString(rt.Template) {
		return t
	}
	for segment := range strings.SplitSeq(rt.Template[1:], "/") {
		if name, isVariable := strings.CutPrefix(segment, "{"); isVariable {
			t.segments = append(t.segments, directSegment{variable: strings.TrimSuffix(name, "}")})
		} else {
			t.segments = append(t.segments, directSegment{literal: segment})
		}
	}
	return t
}

// reverse brings templates that were added into their order: the last one is tried first.
func (m *ruleMux) reverse() {
	for _, templates := range m.templates {
		slices.Reverse(templates)
	}
}

// find returns the route of r and its parameters, nil if the runtime has to look for it.
func (m *ruleMux) find(r *http.Request) (*route, map[string]string) {
	path, hasRoot := strings.CutPrefix(r.URL.Path, "/")
	if r.URL.RawPath != "" || !hasRoot {
		return nil, nil
	}
	for i := range m.templates[r.Method] {
		t := &m.templates[r.Method][i]
		if t.segments == nil {
			return nil, nil
		}
		if t.matches(path) {
			return t.route, t.parametersOf(path)
		}
	}
	return nil, nil
}

func (t *directTemplate) matches(path string) bool {
	if strings.Count(path, "/") != len(t.segments)-1 {
		return false
	}
	for i := range t.segments {
		var text string
		text, path, _ = strings.Cut(path, "/")
		if literal := t.segments[i].literal; literal != "" && literal != text {
			return false
		}
	}
	return true
}

func (t *directTemplate) parametersOf(path string) map[string]string {
	parameters := map[string]string{}
	for i := range t.segments {
		var text string
		text, path, _ = strings.Cut(path, "/")
		if name := t.segments[i].variable; name != "" {
			parameters[name] = text
		}
	}
	return parameters
}
