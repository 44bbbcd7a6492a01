package gateway_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/meshlite-go/meshlite/gateway"
	"github.com/meshlite-go/meshlite/gateway/contract"
	"github.com/meshlite-go/meshlite/gateway/edge"
	"github.com/meshlite-go/meshlite/internal/racetest"
)

// parrot is a channel that answers at once with what it was asked.
type parrot struct{ grpc.ClientConnInterface }

func (parrot) Invoke(_ context.Context, _ string, in, out any, _ ...grpc.CallOption) error {
	proto.Merge(out.(proto.Message), in.(proto.Message))
	return nil
}

// known is the source of a contract that is here already.
type known struct {
	set *descriptorpb.FileDescriptorSet
}

func (k known) Load(context.Context) (*contract.Contract, error) {
	return contract.New(k.set, "pies.v1.PieService")
}

// hole is a writer that keeps nothing.
type hole struct {
	header http.Header
	status int
}

func (h *hole) Header() http.Header         { return h.header }
func (h *hole) WriteHeader(status int)      { h.status = status }
func (h *hole) Write(b []byte) (int, error) { return len(b), nil }

// costly is a request through the whole gateway but its connections and, unless the answer is
// cached, its channel.
type costly struct {
	name   string
	serve  func()
	allocs float64 // at most
}

func costs(t testing.TB) []costly {
	files := compile(t, strings.Replace(pies, `ttl: "0s"`, `ttl: "1h"`, 1))
	set := &descriptorpb.FileDescriptorSet{}
	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		set.File = append(set.File, protodesc.ToFileDescriptorProto(file))
		return true
	})
	m := newMesh(t)
	t.Cleanup(m.end)
	limited, err := edge.New(edge.Config{Logger: silent, Limits: []edge.Limit{{Name: "address", Limit: 1 << 40, Period: time.Second}}})
	if err != nil {
		t.Fatal(err)
	}
	cached := m.service("bakery", "*")
	t.Cleanup(cached.Close)
	m.start("bakery", files)
	etag := "" // of the last answer
	serve := func(service gateway.Service, request *http.Request, body string, want int) func() {
		g := newGateway(t, m, gateway.Config{Edge: limited, Services: []gateway.Service{service}})
		t.Cleanup(g.Close)
		if err := g.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{"Accept-Encoding": "gzip", "Accept": "application/json", "Content-Type": "application/json"} {
			request.Header.Set(name, value)
		}
		w, reader := &hole{header: http.Header{}}, bytes.NewReader([]byte(body))
		return func() {
			clear(w.header)
			if body != "" {
				_, _ = reader.Seek(0, io.SeekStart)
				request.Body = io.NopCloser(reader)
			}
			w.status = http.StatusOK
			if g.ServeHTTP(w, request); w.status != want {
				t.Fatalf("%s %s: %d, want %d", request.Method, request.URL, w.status, want)
			}
			etag = w.header.Get("Etag")
		}
	}
	straight := gateway.Service{Name: "bakery", Conn: parrot{}, Contract: known{set}, Offer: []string{"*"}}
	get, cachedGet, confirmed := httptest.NewRequest("GET", "/v1/pies/apple", nil), httptest.NewRequest("GET", "/v1/pies/apple", nil), httptest.NewRequest("GET", "/v1/pies/apple", nil)
	all := []costly{
		{"GET", serve(straight, get, "", 200), 46},
		{"POST", serve(straight, httptest.NewRequest("POST", "/pies.v1.PieService/BakePie", nil), `{"id":"plum"}`, 200), 54},
		{"cached GET", serve(cached, cachedGet, "", 200), 59},
		{"cached GET, 304", serve(cached, confirmed, "", 304), 58},
	}
	all[2].serve() // calls the backend
	confirmed.Header.Set("If-None-Match", etag)
	return all
}

func BenchmarkGateway(b *testing.B) {
	for _, request := range costs(b) {
		b.Run(request.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				request.serve()
			}
		})
	}
}

// A request through the gateway costs 46 to 54 allocations, beside those of its connection and
// call. A cached one costs 59 with the chain of its channel.
func TestRequestsAllocateLittle(t *testing.T) {
	if racetest.Enabled {
		t.Skip("the race detector allocates, too")
	}
	for _, request := range costs(t) {
		if got := testing.AllocsPerRun(500, request.serve); got > request.allocs {
			t.Errorf("%s: %v allocations, want at most %v", request.name, got, request.allocs)
		}
	}
}
