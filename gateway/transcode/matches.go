package transcode

import "net/http"

// Matches reports whether some method is called at the path of r, by any HTTP method.
func (m *Mux) Matches(r *http.Request) bool {
	return m.methods[r.URL.Path] != nil && r.URL.RawPath == "" || m.rules.matches(r.Method, r) || m.allow(r) != ""
}
