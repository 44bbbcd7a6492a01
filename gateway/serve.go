package gateway

import (
	"io"
	"net/http"
	"strings"

	"github.com/meshlite-go/meshlite/gateway/edge"
	"github.com/meshlite-go/meshlite/gateway/problem"
)

// retryAfter is in seconds. A contract is read as soon as an instance is registered.
const retryAfter = "2"

// ServeHTTP serves health, and all else below the edge: pages, sites and methods. A request
// is served by the contracts of the time when it came.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/healthz":
		answerHealth(w, nil)
	case "/readyz":
		answerHealth(w, g.Ready())
	default:
		g.handler.ServeHTTP(w, r)
	}
}

// serve is below the edge.
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request) {
	current, site := g.current.Load(), g.siteOf(r.URL.Path)
	isPage := isPage(r.URL.Path, site)
	switch {
	case r.URL.Path == documentPath:
		current.description.ServeHTTP(w, r)
	case site != nil && site.prefix != "/":
		site.serve(w, r)
	case site == nil && len(current.unread) == 0 && !isPage, current.mux.Matches(r):
		current.mux.ServeHTTP(w, r) // which answers unknown paths, too
	case isPage:
		servePage(w, r)
	case current.isUnread(r.URL.Path):
		w.Header().Set("Retry-After", retryAfter)
		problem.Write(w, problem.Problem{Status: http.StatusServiceUnavailable, Code: "UNAVAILABLE", Detail: "the contract of this service was not read yet"})
	case site != nil:
		site.serve(w, r)
	default:
		current.mux.ServeHTTP(w, r)
	}
}

func (s *site) serve(w http.ResponseWriter, r *http.Request) {
	edge.SetRoute(r.Context(), s.prefix)
	s.ServeHTTP(w, r)
}

// siteOf is the site with the longest prefix of path, nil if there is none.
func (g *Gateway) siteOf(path string) *site {
	for i := range g.sites {
		if strings.HasPrefix(path, g.sites[i].prefix) {
			return &g.sites[i]
		}
	}
	return nil
}

// isUnread reports whether path is named by the offer of a service whose contract was never
// read.
func (r *routes) isUnread(path string) bool {
	for i := range r.unread {
		if r.unread[i].names(path) {
			return true
		}
	}
	return false
}

func answerHealth(w http.ResponseWriter, err error) {
	if err != nil {
		w.Header().Set("Retry-After", retryAfter)
		problem.Write(w, problem.Problem{Status: http.StatusServiceUnavailable, Code: "UNAVAILABLE", Detail: err.Error()})
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = io.WriteString(w, "ok\n")
}
