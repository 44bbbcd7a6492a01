package transcode

import (
	"context"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"testing"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
)

// FuzzDirectTemplates compares the short way to a route with that of the runtime: wherever it
// finds one, the runtime finds the same, with the same parameters, and where it finds none
// among templates that are all its own, neither does the runtime.
func FuzzDirectTemplates(f *testing.F) {
	templates := []string{
		"/{a}/{b}/{c}", "/v1/{kind}/{id}/books/{book}", "/v1/shelves/{shelf}", "/v1/shelves/{shelf}/books/{book.id}", "/v1/shelves/all", "/v1/shelves/{shelf}:move", "/v1/shelves/{other}/books/first",
		"/v1/{name=shelves/*}/pages", "/v2/{rest=**}", "/one", "/v1/sh~el.ves_-/{x}", "/v3/things/{id}", "/v3/things",
	}
	for _, path := range []string{
		"/v1/shelves/1", "/v1/shelves/all", "/v1/shelves/abc", "/v1/shelfes/1", "/v1/shelves/", "/v1/shelves", "/v1/shelves/1/books/2", "/v1/shelves//books/", "/v1/shelves/1:move", "/v1/shelves/:move", "/v1/shelves/1:other",
		"/v1/shelves/1/books/first", "/v1/a/b/books/c", "/v1/shelves/1/pages", "/v2/a/b/c", "/one", "/one/", "//", "/", "", "one", "/v1/shelves/a%2Fb", "/v1/shelves/%25", "/v1/shelves/%zz", "/v1/sh~el.ves_-/x",
		"/v3/things/1", "/v3/things/", "/v3/things", "/v3/things/a:b", "/v3/things/a b", "/v3/things/ä",
	} {
		f.Add(path)
	}
	type answer struct {
		route      *route
		parameters map[string]string
	}
	var got *answer
	var muxes []*ruleMux
	for _, served := range [][]string{templates, slices.DeleteFunc(slices.Clone(templates), func(t string) bool { return !wholeSegments.MatchString(t) })} {
		x := &rules{serve: func(_ http.ResponseWriter, _ *http.Request, rt *route, parameters map[string]string) {
			got = &answer{rt, parameters}
		}}
		for _, template := range served {
			x.added = append(x.added, addedRoute{http.MethodGet, literalPrefixOf(shapeOf(template)), &route{Binding: Binding{Template: template}}})
		}
		err := x.build(func(context.Context, *runtime.ServeMux, runtime.Marshaler, http.ResponseWriter, *http.Request, int) {})
		if err != nil {
			f.Fatal(err)
		}
		muxes = slices.AppendSeq(append(muxes, x.rest), maps.Values(x.byPrefix))
	}
	f.Fuzz(func(t *testing.T, path string) {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			return
		}
		r := &http.Request{Method: http.MethodGet, URL: u}
		for _, mux := range muxes {
			rt, parameters := mux.find(r)
			got = nil
			mux.ServeMux.ServeHTTP(httptest.NewRecorder(), r)
			if rt != nil && (got == nil || got.route != rt || !maps.Equal(got.parameters, parameters)) {
				t.Errorf("%q: the short way finds %s %v, the runtime %+v", path, rt.Template, parameters, got)
			}
			if rt == nil && got != nil && u.RawPath == "" && mux.isDirect() {
				t.Errorf("%q: the short way finds nothing, the runtime %s", path, got.route.Template)
			}
		}
	})
}

// isDirect reports whether all templates of m are known to the short way.
func (m *ruleMux) isDirect() bool {
	return !slices.ContainsFunc(m.templates[http.MethodGet], func(t directTemplate) bool { return t.segments == nil })
}
