package edge_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/gateway/edge"
)

// nothing is a writer that keeps nothing.
type nothing struct{ header http.Header }

func (n nothing) Header() http.Header         { return n.header }
func (n nothing) WriteHeader(int)             {}
func (n nothing) Write(b []byte) (int, error) { return len(b), nil }

// What the edge adds to a request: by itself, and with limits and fields.
func BenchmarkHandler(b *testing.B) {
	body := []byte(`{"name":"sweet"}`)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(body) })
	for name, config := range map[string]edge.Config{
		"default": {},
		"limits": {Limits: []edge.Limit{
			{Name: "address", Limit: 1 << 40, Period: time.Second}, {Name: "subject", Limit: 1 << 40, Key: edge.BySubject},
		}},
		"uncompressed": {NoCompression: true},
	} {
		b.Run(name, func(b *testing.B) {
			h := newEdge(b, config).Handler(handler)
			r := httptest.NewRequest("GET", "/v1/sweets/x", nil)
			r.Header.Set("Accept-Encoding", "gzip")
			w := nothing{http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				clear(w.header)
				h.ServeHTTP(w, r)
			}
		})
	}
}
