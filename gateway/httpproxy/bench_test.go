package httpproxy_test

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"

	"github.com/meshlite-go/meshlite/gateway/httpcache"
	"github.com/meshlite-go/meshlite/gateway/httpproxy"
)

// BenchmarkForward compares with net/http/httputil in front of one instance, in one run, and
// with an answer of the cache.
func BenchmarkForward(b *testing.B) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "max-age=3600")
		_, _ = w.Write(make([]byte, 1024))
	}))
	defer backend.Close()
	u, err := url.Parse(backend.URL)
	if err != nil {
		b.Fatal(err)
	}
	plain := http.DefaultTransport.(*http.Transport).Clone()
	plain.MaxIdleConnsPerHost = 64
	defer plain.CloseIdleConnections()
	cache, err := httpcache.New(httpcache.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer cache.Close()
	site := func(wrap func(http.RoundTripper) http.RoundTripper) http.Handler {
		p, err := httpproxy.New(httpproxy.Config{Name: "web", Prefix: "/", URLs: []string{backend.URL}, Log: silent, Wrap: wrap})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(p.Close)
		return p
	}
	for _, test := range []struct {
		name    string
		handler http.Handler
	}{
		{"httputil", &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u); r.SetXForwarded() }, Transport: plain}},
		{"httpproxy", site(nil)},
		{"cached", site(cache.Transport)},
	} {
		b.Run(test.name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					w := httptest.NewRecorder()
					if test.handler.ServeHTTP(w, httptest.NewRequest("GET", "/a", nil)); w.Code != http.StatusOK {
						b.Fatal(w.Code)
					}
				}
			})
		})
	}
}
