package openapi

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"html"
	"net/http"
	"strings"
	"time"

	"github.com/meshlite-go/meshlite/gateway/problem"
)

// Paths of what Page serves.
const (
	PagePath   = "/"
	ScriptPath = "/openapi/page.js"
	StylePath  = "/openapi/page.css"
)

//go:embed page
var files embed.FS

// policy lets the page load its own script and style and call its own origin, and no more.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

type asset struct {
	kind, etag string
	body       []byte
}

// Page returns a page on which a person reads the document at documentURL and tries a call.
// It answers PagePath, ScriptPath and StylePath, and 404 elsewhere. The browser must find the
// document and the methods on the page's own origin. The handler is safe for concurrent use.
func Page(documentURL string) http.Handler {
	assets := map[string]asset{}
	for path, name := range map[string]string{PagePath: "index.html", ScriptPath: "page.js", StylePath: "page.css"} {
		body, err := files.ReadFile("page/" + name)
		if err != nil {
			panic(err) // it is compiled in
		}
		a := asset{body: body}
		switch path {
		case PagePath:
			a.kind = "text/html; charset=utf-8"
			a.body = []byte(strings.ReplaceAll(string(body), "DOCUMENT_URL", html.EscapeString(documentURL)))
		case ScriptPath:
			a.kind = "text/javascript; charset=utf-8"
		case StylePath:
			a.kind = "text/css; charset=utf-8"
		}
		sum := sha256.Sum256(a.body)
		a.etag = `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
		assets[path] = a
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, found := assets[r.URL.Path]
		if !found {
			problem.Write(w, problem.Problem{Status: http.StatusNotFound, Detail: "no page at this path"})
			return
		}
		a.serve(w, r)
	})
}

func (a asset) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		problem.Write(w, problem.Problem{Status: http.StatusMethodNotAllowed, Detail: "the page is read by GET"})
		return
	}
	header := w.Header()
	header.Set("Content-Type", a.kind)
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cache-Control", "no-cache")
	header.Set("ETag", a.etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.body))
}
