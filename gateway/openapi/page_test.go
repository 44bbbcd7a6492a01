package openapi_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/gateway/openapi"
)

func get(h http.Handler, method, path, etag string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	if etag != "" {
		r.Header.Set("If-None-Match", etag)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestThePageIsServedWithAStrictPolicyAndAnETag(t *testing.T) {
	page := openapi.Page("/openapi.json")
	etags := map[string]bool{}
	for path, kind := range map[string]string{openapi.PagePath: "text/html", openapi.ScriptPath: "text/javascript", openapi.StylePath: "text/css"} {
		w := get(page, http.MethodGet, path, "")
		header := w.Header()
		if w.Code != http.StatusOK || !strings.HasPrefix(header.Get("Content-Type"), kind) || w.Body.Len() == 0 {
			t.Errorf("%s: %d, %v, %d bytes", path, w.Code, header, w.Body.Len())
		}
		policy := header.Get("Content-Security-Policy")
		if !strings.HasPrefix(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") {
			t.Errorf("%s: the policy is %q", path, policy)
		}
		if header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: the browser may guess the type", path)
		}
		etag := header.Get("ETag")
		if etags[etag] || etag == "" {
			t.Errorf("%s: ETag %q", path, etag)
		}
		etags[etag] = true
		if w := get(page, http.MethodGet, path, etag); w.Code != http.StatusNotModified || w.Body.Len() > 0 {
			t.Errorf("%s: %d with If-None-Match", path, w.Code)
		}
		if w := get(page, http.MethodHead, path, ""); w.Code != http.StatusOK || w.Body.Len() > 0 {
			t.Errorf("%s: HEAD is answered with %d and %d bytes", path, w.Code, w.Body.Len())
		}
		if w := get(page, http.MethodPost, path, ""); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") == "" {
			t.Errorf("%s: POST is answered with %d", path, w.Code)
		}
	}
	if w := get(page, http.MethodGet, "/other", ""); w.Code != http.StatusNotFound {
		t.Errorf("another path is answered with %d", w.Code)
	}
}

func TestThePageRunsNothingInline(t *testing.T) {
	body := get(openapi.Page("/openapi.json"), http.MethodGet, openapi.PagePath, "").Body.String()
	for _, inline := range []string{"<style", " style=", " onclick", "javascript:", "//cdn", "https://"} {
		if strings.Contains(body, inline) {
			t.Errorf("the page contains %s", inline)
		}
	}
	if strings.Count(body, "<script") != strings.Count(body, "<script src=") {
		t.Error("the page has a script of its own")
	}
}

func TestTheAddressOfTheDocumentIsEscaped(t *testing.T) {
	body := get(openapi.Page(`/a"><script>`), http.MethodGet, openapi.PagePath, "").Body.String()
	if strings.Contains(body, `/a"><script>`) || !strings.Contains(body, "/a&#34;&gt;&lt;script&gt;") {
		t.Error("the address is not escaped")
	}
}
