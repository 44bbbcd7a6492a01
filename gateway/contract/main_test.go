package contract_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/reflection"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/meshlite-go/meshlite/gateway/contract"
	"github.com/meshlite-go/meshlite/internal/prototest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var silent = slog.New(slog.NewTextHandler(io.Discard, nil))

// cakes is a contract that this program is not linked with.
const cakes = `syntax = "proto3";
package cakes.v1;
import "google/protobuf/timestamp.proto";
import "meshlite/policy/v1/policy.proto";
// Bakes cakes.
service CakeService {
  rpc GetCake(Cake) returns (Cake) {
    option idempotency_level = NO_SIDE_EFFECTS;
    option (meshlite.policy.v1.method) = {cache: {ttl: "1m"}};
  }
}
message Cake { string name = 1; google.protobuf.Timestamp baked_at = 2; }
`

// compile makes a descriptor set of cakes/v1/cakes.proto, imports included.
func compile(t testing.TB, text string) *descriptorpb.FileDescriptorSet {
	t.Helper()
	return prototest.Set(t, "cakes/v1/cakes.proto", text)
}

// offer is what a server says by reflection. It can change while the server runs.
type offer struct {
	mu       sync.Mutex
	services map[string]grpc.ServiceInfo
	files    protodesc.Resolver
}

func (o *offer) set(files protodesc.Resolver, services ...string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.files, o.services = files, map[string]grpc.ServiceInfo{}
	for _, name := range services {
		o.services[name] = grpc.ServiceInfo{}
	}
}

func (o *offer) GetServiceInfo() map[string]grpc.ServiceInfo {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.services
}

func (o *offer) resolver() protodesc.Resolver {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.files
}

func (o *offer) FindFileByPath(path string) (protoreflect.FileDescriptor, error) {
	return o.resolver().FindFileByPath(path)
}

func (o *offer) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	return o.resolver().FindDescriptorByName(name)
}

// offerOf is the offer of one service that text describes, beside gRPC's own.
func offerOf(t testing.TB, text string) *offer {
	t.Helper()
	files, err := protodesc.NewFiles(compile(t, text))
	if err != nil {
		t.Fatal(err)
	}
	o := &offer{}
	o.set(files, "cakes.v1.CakeService", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection")
	return o
}

func v1(o *offer) func(*grpc.Server) {
	return func(s *grpc.Server) {
		reflectionv1.RegisterServerReflectionServer(s, reflection.NewServerV1(reflection.ServerOptions{Services: o, DescriptorResolver: o}))
	}
}

func v1alpha(o *offer) func(*grpc.Server) {
	return func(s *grpc.Server) {
		reflectionv1alpha.RegisterServerReflectionServer(s, reflection.NewServer(reflection.ServerOptions{Services: o, DescriptorResolver: o})) //nolint:staticcheck // old servers offer it
	}
}

// serve runs a server in memory until the test ends, and returns a channel to it.
func serve(t testing.TB, register func(*grpc.Server)) *grpc.ClientConn {
	t.Helper()
	listener, server := bufconn.Listen(1<<16), grpc.NewServer()
	register(server)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); server.Stop(); <-done })
	return conn
}

func load(t testing.TB, source contract.Source) *contract.Contract {
	t.Helper()
	loaded, err := source.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}
