package gateway

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/meshlite-go/meshlite/gateway/edge"
	"github.com/meshlite-go/meshlite/gateway/openapi"
	"github.com/meshlite-go/meshlite/gateway/problem"
	"github.com/meshlite-go/meshlite/gateway/transcode"
)

const (
	documentPath = "/openapi.json"
	pagePath     = "/openapi/" // beside "/", which a site may have
)

// page is the same for all documents: a browser reads the current one.
var page = openapi.Page(documentPath)

// description is the OpenAPI document of one mux.
type description struct {
	text []byte
	etag string
	err  error
}

// describe never refuses a contract: what cannot be described is still served.
func describe(about openapi.Info, mux *transcode.Mux, log *slog.Logger) description {
	text, err := openapi.Document(about, mux.Bindings())
	if err != nil {
		log.Warn("no OpenAPI document", "err", err)
		return description{err: err}
	}
	sum := sha256.Sum256(text)
	return description{text: text, etag: `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`}
}

func (d description) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	edge.SetRoute(r.Context(), documentPath)
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		problem.Write(w, problem.Problem{Status: http.StatusMethodNotAllowed, Detail: "the document is read by GET"})
	case d.err != nil:
		problem.Write(w, problem.Problem{Status: http.StatusInternalServerError, Code: "INTERNAL", Detail: "the contracts cannot be described"})
	default:
		header := w.Header()
		header.Set("Content-Type", "application/json")
		header.Set("Cache-Control", "no-cache")
		header.Set("Etag", d.etag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(d.text))
	}
}

// isPage reports whether path is one of the page. A site at "/" has that path instead.
func isPage(path string, site *site) bool {
	switch path {
	case openapi.PagePath:
		return site == nil
	case pagePath, openapi.ScriptPath, openapi.StylePath:
		return true
	}
	return false
}

func servePage(w http.ResponseWriter, r *http.Request) {
	edge.SetRoute(r.Context(), r.URL.Path)
	if r.URL.Path == pagePath {
		copied := *r
		copied.URL = &url.URL{Path: openapi.PagePath}
		r = &copied
	}
	page.ServeHTTP(w, r)
}
