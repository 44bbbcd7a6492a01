package main

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// The token for admin pages goes to a page that demands it, by a variable or a file, and
// nowhere else: not to one that answers without, nor to where a page redirects.
//
// Case I13
func TestTheAdminTokenIsSentToPagesThatDemandIt(t *testing.T) {
	openAgent(t)
	const token = "0123456789abcdef0123456789abcdef"
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(token+"\nthe-one-before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	guarded := servePage(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch given := r.Header.Get("Authorization"); {
		case given == "":
			w.Header().Set("WWW-Authenticate", `Bearer realm="meshlite"`)
			http.Error(w, "write the header Authorization", http.StatusUnauthorized)
		case given != "Bearer "+token:
			http.Error(w, "wrong token", http.StatusForbidden)
		case r.Method == http.MethodPost:
			if body, _ := io.ReadAll(r.Body); string(body) != "all=true" {
				http.Error(w, "the values are gone", http.StatusBadRequest)
				return
			}
			_, _ = io.WriteString(w, `{"caches": [{"name": "runtime", "entries": 3}]}`)
		default:
			_, _ = io.WriteString(w, `{"cache": [], "endpoints": [], "limits": []}`)
		}
	}))
	var leaked atomic.Int32
	elsewhere := servePage(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			leaked.Add(1)
		}
	}))
	redirects := servePage(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="meshlite"`)
			http.Error(w, "more, please", http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, "http://"+strings.Replace(elsewhere, "127.0.0.1", "localhost", 1)+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	open := servePage(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			leaked.Add(1)
		}
		_, _ = io.WriteString(w, `{"caches": [{"name": "runtime", "entries": 3}]}`)
	}))

	clear := func(client string) result { return runTool(t, "cache", "clear", "--all", "--client", client) }
	clear(guarded).want(t, 1, "", "cannot ask "+guarded+": write the header Authorization")
	t.Setenv("MESHLITE_ADMIN_TOKEN", strings.Repeat("x", 32))
	clear(guarded).want(t, 1, "", "cannot ask "+guarded+": wrong token")
	t.Setenv("MESHLITE_ADMIN_TOKEN", token)
	clear(guarded).want(t, 0, "", "")
	runTool(t, "endpoints", "catalog", "--picks", "--client", guarded).want(t, 1, "", `none of 1 clients calls "catalog"`)
	t.Setenv("MESHLITE_ADMIN_TOKEN", "")
	t.Setenv("MESHLITE_ADMIN_TOKEN_FILE", path)
	clear(guarded).want(t, 0, "", "")
	clear(open).want(t, 0, "", "")
	clear(redirects).want(t, 1, "", "307 Temporary Redirect")
	if n := leaked.Load(); n != 0 {
		t.Errorf("the token was sent %d times to where it is not demanded", n)
	}
}
