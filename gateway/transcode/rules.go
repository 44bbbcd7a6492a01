package transcode

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"

	"github.com/meshlite-go/meshlite/gateway/problem"
)

// rules are the routes of google.api.http. A runtime.ServeMux tries its routes one by one, the
// last one first, so there is one for each pair of literals that templates begin with. Each has
// the routes with those, and the ones that begin with something else, in their order.
type rules struct {
	byPrefix    map[string]*ruleMux
	rest        *ruleMux // for all other paths
	httpMethods []string // that there are routes for
	added       []addedRoute
	taken       map[string]string // by HTTP method and shape of the template: the gRPC method
	serve       func(w http.ResponseWriter, r *http.Request, rt *route, params map[string]string)
}

type addedRoute struct {
	httpMethod, prefix string
	route              *route
}

// maxRoutes bounds those of all muxes. Each takes about a kilobyte.
const maxRoutes = 100_000

var (
	variableWithPattern = regexp.MustCompile(`\{[^}=]*=([^}]*)\}`)
	variableAlone       = regexp.MustCompile(`\{[^}]*\}`)
)

// shapeOf is a template without the names of its variables.
func shapeOf(template string) string {
	return variableAlone.ReplaceAllString(variableWithPattern.ReplaceAllString(template, "$1"), "*")
}

// prefixOf is the first two segments of a path, with its slashes: "/v1/sweets".
func prefixOf(path string) string {
	if first := strings.IndexByte(path[min(1, len(path)):], '/') + 1; first > 0 {
		if second := strings.IndexByte(path[first+1:], '/'); second >= 0 {
			return path[:first+1+second]
		}
		return path
	}
	return ""
}

// literalPrefixOf is the prefix of all paths that a template of that shape matches, "" if they
// differ.
func literalPrefixOf(shape string) string {
	if prefix := prefixOf(shape); !strings.Contains(prefix, "*") {
		return prefix
	}
	return ""
}

// add refuses a route that another method has.
func (x *rules) add(rt *route) error {
	httpMethods := []string{rt.HTTPMethod}
	if rt.HTTPMethod == "*" {
		httpMethods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}
	}
	shape, name := shapeOf(rt.Template), string(rt.Method.FullName())
	for _, httpMethod := range httpMethods {
		key := httpMethod + " " + shape
		if other := x.taken[key]; other != "" && other != name {
			return fmt.Errorf("transcode: %s and %s are both bound to %s %s: change the rule of one", other, name, httpMethod, rt.Template)
		}
		x.taken[key] = name
		if !slices.Contains(x.httpMethods, httpMethod) {
			x.httpMethods = append(x.httpMethods, httpMethod)
		}
		x.added = append(x.added, addedRoute{httpMethod, literalPrefixOf(shape), rt})
	}
	return nil
}

// build makes the muxes of what was added.
func (x *rules) build(onRoutingError runtime.RoutingErrorHandlerFunc) error {
	newMux := func() *ruleMux {
		mux := runtime.NewServeMux(
			runtime.WithUnescapingMode(runtime.UnescapingModeAllExceptReserved),
			runtime.WithDisablePathLengthFallback(),
			runtime.WithDisableHTTPMethodOverride(),
			runtime.WithRoutingErrorHandler(onRoutingError),
			runtime.WithErrorHandler(handlePathError),
		)
		return &ruleMux{mux, map[string][]directTemplate{}}
	}
	x.rest, x.byPrefix = newMux(), map[string]*ruleMux{}
	for _, a := range x.added {
		if a.prefix != "" && x.byPrefix[a.prefix] == nil {
			x.byPrefix[a.prefix] = newMux()
		}
	}
	if n := x.routes(); n > maxRoutes {
		return fmt.Errorf("transcode: the rules make %d routes, more than %d: offer fewer methods, or begin their paths with literals", n, maxRoutes)
	}
	for _, a := range x.added {
		into := []*ruleMux{x.byPrefix[a.prefix]}
		if a.prefix == "" {
			into = append(into[:0], x.rest)
			for _, mux := range x.byPrefix {
				into = append(into, mux)
			}
		}
		for _, mux := range into {
			if err := mux.ServeMux.HandlePath(a.httpMethod, a.route.Template, x.handler(a.route)); err != nil {
				return fmt.Errorf("transcode: %s: %w", a.route.Method.FullName(), err)
			}
			mux.templates[a.httpMethod] = append(mux.templates[a.httpMethod], newDirectTemplate(a.route))
		}
	}
	x.added = nil
	x.rest.reverse()
	for _, mux := range x.byPrefix {
		mux.reverse()
	}
	return nil
}

// routes is how many there will be: one that begins with a variable is in each mux.
func (x *rules) routes() int {
	n := len(x.added)
	for _, a := range x.added {
		if a.prefix == "" {
			n += len(x.byPrefix)
		}
	}
	return n
}

func (x *rules) handler(rt *route) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, params map[string]string) {
		if probe, ok := w.(*probe); ok {
			probe.matched = true
			return
		}
		x.serve(w, r, rt, params)
	}
}

// ServeHTTP serves r by its route.
func (x *rules) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.RawPath // as the runtime reads it
	if path == "" {
		path = r.URL.Path
	}
	mux := x.byPrefix[prefixOf(path)]
	if mux == nil {
		mux = x.rest
	}
	if rt, parameters := mux.find(r); rt != nil {
		x.handler(rt)(w, r, parameters)
		return
	}
	mux.ServeHTTP(w, r)
}

// matches reports whether there is a route for the path of r with httpMethod.
func (x *rules) matches(httpMethod string, r *http.Request) bool {
	if !slices.Contains(x.httpMethods, httpMethod) {
		return false
	}
	asked, probed := *r, probe{}
	asked.Method = httpMethod
	x.ServeHTTP(&probed, &asked)
	return probed.matched
}

// probe is a writer by which a request only asks whether there is a route for it.
type probe struct{ matched bool }

func (*probe) Header() http.Header         { return http.Header{} }
func (*probe) Write(b []byte) (int, error) { return len(b), nil }
func (*probe) WriteHeader(int)             {}

// handlePathError answers a path with a broken escape.
func handlePathError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
	if _, ok := w.(*probe); !ok {
		problem.Write(w, problem.Problem{Status: http.StatusBadRequest, Detail: shortened(err.Error())})
	}
}
