package mixedtest

import (
	"context"
	"encoding/json"
	"os"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/internal/redistest"
	"github.com/meshlite-go/meshlite/internal/shop"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// answer is what a peer prints.
type answer struct {
	Code, Error string
	Sweet       json.RawMessage
}

// ask runs the peer of a release.
func ask(t *testing.T, r release, consul string, args ...string) (a answer) {
	t.Helper()
	t.Setenv("CONSUL_HTTP_ADDR", consul)
	ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
	defer cancel()
	output, err := command(ctx, "", r.program(peer), args...)
	if err != nil {
		t.Fatal(err)
	}
	if len(output) > 0 {
		if err := json.Unmarshal(output, &a); err != nil {
			t.Fatalf("%v in %q", err, output)
		}
	}
	return a
}

// sweet is the answer of a call that went well.
func (a answer) sweet(t *testing.T) *catalogv1.GetSweetResponse {
	t.Helper()
	if a.Code != "OK" {
		t.Fatalf("the call failed: %s", a.Error)
	}
	var s catalogv1.GetSweetResponse
	if err := protojson.Unmarshal(a.Sweet, &s); err != nil {
		t.Fatalf("%v in %s", err, a.Sweet)
	}
	if s.GetSweet().GetId() != "lemon-sherbet" || s.GetSweet().GetPricePence() == 0 {
		t.Fatalf("the answer is %v", &s)
	}
	return &s
}

// pairs are who writes and who reads.
func pairs(previous, current release) [][2]release {
	return [][2]release{{previous, current}, {current, previous}, {current, current}}
}

func each(t *testing.T, test func(t *testing.T, registry *shop.Registry, instance *shop.Instance, writer, reader release)) {
	previous, current := releases(t)
	for _, pair := range pairs(previous, current) {
		t.Run(pair[0].name+" to "+pair[1].name, func(t *testing.T) {
			registry, err := shop.StartRegistry(t.Context(), shop.Embedded)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(registry.Stop)
			s := open(t, registry, pair[0])
			t.Cleanup(s.Close)
			instance, err := s.Start(t.Context(), "catalog")
			if err != nil {
				t.Fatal(err)
			}
			test(t, registry, instance, pair[0], pair[1])
		})
	}
}

// What one release keeps in Redis another reads, or misses: no other answer comes of it. What
// one invalidates is invalid for the other. A release reads its own.
func TestAnswersInRedisCrossReleases(t *testing.T) {
	server := redistest.Start(t)
	each(t, func(t *testing.T, registry *shop.Registry, catalog *shop.Instance, writer, reader release) {
		server.Do("FLUSHALL")
		var written *catalogv1.GetSweetResponse
		for range 10 { // an answer is kept in the background, which the end of the program cuts short
			written = ask(t, writer, registry.Address, "-redis", server.URL()).sweet(t)
			if len(server.Keys("meshlite:cache:v:")) > 0 {
				break
			}
		}
		if len(server.Keys("meshlite:cache:v:")) == 0 {
			t.Fatal("the writer has kept nothing in Redis")
		}
		catalog.Stop(stopTimeout)
		read := ask(t, reader, registry.Address, "-redis", server.URL())
		switch {
		case read.Code == "OK":
			if got := read.sweet(t); !proto.Equal(got, written) {
				t.Errorf("read %v, want %v", got, written)
			}
			t.Log("the reader has found the entry")
		case read.Code != "Unavailable" && read.Code != "DeadlineExceeded":
			t.Errorf("a miss ends with %s, want UNAVAILABLE: %s", read.Code, read.Error)
		case writer == reader:
			t.Errorf("a release does not read its own entry: %s", read.Error)
		default:
			t.Log("the reader has missed the entry")
		}

		ask(t, reader, registry.Address, "-redis", server.URL(), "-invalidate")
		if after := ask(t, writer, registry.Address, "-redis", server.URL()); after.Code == "OK" {
			t.Errorf("%s is answered from Redis after %s has invalidated it", writer.name, reader.name)
		}
	})
}

// A snapshot on disk starts the other release while Consul is down.
func TestSnapshotsOnDiskCrossReleases(t *testing.T) {
	each(t, func(t *testing.T, registry *shop.Registry, _ *shop.Instance, writer, reader release) {
		dir := t.TempDir()
		written := ask(t, writer, registry.Address, "-snapshots", dir).sweet(t)
		if files, err := os.ReadDir(dir); err != nil || len(files) == 0 {
			t.Fatalf("the writer has kept no snapshot (%v)", err)
		}
		registry.Stop()
		if a := ask(t, reader, registry.Address, "-snapshots", t.TempDir()); a.Code == "OK" {
			t.Fatal("a call went through without a snapshot while Consul was down")
		}
		if read := ask(t, reader, registry.Address, "-snapshots", dir).sweet(t); !proto.Equal(read, written) {
			t.Errorf("the answer is %v, want %v", read, written)
		}
	})
}
