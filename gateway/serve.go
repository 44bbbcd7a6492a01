package gateway

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/meshlite-go/meshlite/gateway/problem"
	"github.com/meshlite-go/meshlite/gateway/transcode"
)

// retryAfter is in seconds. A contract is read as soon as an instance is registered.
const retryAfter = "2"

// ServeHTTP serves health, sites, methods and pages, in this order. A request is served by
// the contracts of the time when it came.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	current := g.current.Load()
	switch r.URL.Path {
	case "/healthz":
		g.answerHealth(w, nil)
		return
	case "/readyz":
		g.answerHealth(w, g.Ready())
		return
	case "/openapi.json":
		current.pages.ServeHTTP(w, r)
		return
	}
	site := g.siteOf(r.URL.Path)
	switch {
	case site != nil && site.prefix != "/":
		site.ServeHTTP(w, r)
	case site == nil && len(current.unread) == 0 && r.URL.Path != "/", current.mux.Matches(r):
		current.mux.ServeHTTP(w, r)
	case current.isUnread(r.URL.Path):
		w.Header().Set("Retry-After", retryAfter)
		problem.Write(w, problem.Problem{Status: http.StatusServiceUnavailable, Code: "UNAVAILABLE", Detail: "the contract of this service was not read yet"})
	case site != nil:
		site.ServeHTTP(w, r)
	case r.URL.Path == "/":
		current.pages.ServeHTTP(w, r)
	default:
		current.mux.ServeHTTP(w, r) // which says that there is nothing
	}
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

func (g *Gateway) answerHealth(w http.ResponseWriter, err error) {
	if err != nil {
		w.Header().Set("Retry-After", retryAfter)
		problem.Write(w, problem.Problem{Status: http.StatusServiceUnavailable, Code: "UNAVAILABLE", Detail: err.Error()})
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = io.WriteString(w, "ok\n")
}

// pages are the description of mux and the page that shows it.
func (g *Gateway) pages(mux *transcode.Mux) (http.Handler, error) {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		problem.Write(w, problem.Problem{Status: http.StatusNotFound, Detail: fmt.Sprintf("nothing at %.100q", r.URL.Path)})
	}), nil
}
