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

// paths are requests through the whole gateway but its connections and, unless the answer is
// cached, its channel.
func costs(t testing.TB) map[string]func() {
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
	serve := func(service gateway.Service, request *http.Request, body string) func() {
		g := newGateway(t, m, gateway.Config{Edge: limited, Services: []gateway.Service{service}})
		t.Cleanup(g.Close)
		if err := g.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Accept-Encoding", "gzip")
		request.Header.Set("Accept", "application/json")
		request.Header.Set("Content-Type", "application/json")
		w, reader := &hole{header: http.Header{}}, bytes.NewReader([]byte(body))
		return func() {
			clear(w.header)
			if body != "" {
				_, _ = reader.Seek(0, io.SeekStart)
				request.Body = io.NopCloser(reader)
			}
			if g.ServeHTTP(w, request); w.status != http.StatusOK && w.status != http.StatusNotModified {
				t.Fatalf("the answer is %d", w.status)
			}
		}
	}
	straight := gateway.Service{Name: "bakery", Conn: parrot{}, Contract: known{set}, Offer: []string{"*"}}
	return map[string]func(){
		"GET":        serve(straight, httptest.NewRequest("GET", "/v1/pies/apple", nil), ""),
		"POST":       serve(straight, httptest.NewRequest("POST", "/pies.v1.PieService/BakePie", nil), `{"id":"plum"}`),
		"cached GET": serve(cached, httptest.NewRequest("GET", "/v1/pies/apple", nil), ""),
	}
}

func BenchmarkGateway(b *testing.B) {
	for name, request := range costs(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				request()
			}
		})
	}
}

// A request allocates no more than was found to be needed.
func TestRequestsAllocateLittle(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates, too")
	}
	for name, request := range costs(t) {
		request() // makes what is kept
		t.Log(name, testing.AllocsPerRun(500, request))
	}
}
