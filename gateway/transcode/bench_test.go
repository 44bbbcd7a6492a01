package transcode_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"

	"github.com/meshlite-go/meshlite/gateway/transcode/testdata/forms"
)

// discard is a writer that costs nothing.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header       { return d.header }
func (*discard) Write(b []byte) (int, error) { return len(b), nil }
func (*discard) WriteHeader(int)             {}

// BenchmarkUnary is the work of the gateway for a call that a channel answers at once, beside
// that of generated code.
func BenchmarkUnary(b *testing.B) {
	generated := runtime.NewServeMux()
	if err := forms.RegisterFormsServiceHandlerClient(b.Context(), generated, forms.NewFormsServiceClient(echo{})); err != nil {
		b.Fatal(err)
	}
	const body = `{"name":"fudge","int64":"9007199254740993","part":{"name":"p","count":2},"texts":["a","b"],"labels":{"k":"v"}}`
	for _, request := range []struct{ name, method, target, body string }{
		{"GET", "GET", "/v1/variables/fudge?int64=9&part.name=p", ""},
		{"POST", "POST", "/v1/bodies", body},
		{"gRPC path", "POST", "/forms.v1.FormsService/BodyAll", body},
	} {
		for name, mux := range map[string]http.Handler{"ours": newMuxOver(b, echo{}, nil), "generated": generated} {
			if name == "generated" && strings.HasPrefix(request.target, "/forms") {
				continue
			}
			b.Run(request.name+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				reader := bytes.NewReader([]byte(request.body))
				r := httptest.NewRequest(request.method, request.target, nil)
				r.Header.Set("Content-Type", "application/json")
				w := &discard{header: http.Header{}}
				for b.Loop() {
					clear(w.header)
					if request.body != "" {
						_, _ = reader.Seek(0, io.SeekStart)
						r.Body = io.NopCloser(reader)
					}
					mux.ServeHTTP(w, r)
				}
			})
		}
	}
}
