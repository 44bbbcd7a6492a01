package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/gateway"
	"github.com/meshlite-go/meshlite/internal/prototest"
	"github.com/meshlite-go/meshlite/resolver/consul"
	"github.com/meshlite-go/meshlite/resolver/consultest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var silent = slog.New(slog.NewTextHandler(io.Discard, nil))

// pies is a contract that this program is not linked with.
const pies = `syntax = "proto3";
package pies.v1;
import "google/api/annotations.proto";
import "meshlite/policy/v1/policy.proto";
service PieService {
  rpc GetPie(Pie) returns (Pie) {
    option idempotency_level = NO_SIDE_EFFECTS;
    option (google.api.http) = {get: "/v1/pies/{id}"};
    option (meshlite.policy.v1.method) = {cache: {ttl: "0s" scope: CACHE_SCOPE_PUBLIC} retry: {max_attempts: 3 initial_backoff: "1ms"}};
  }
  rpc BakePie(Pie) returns (Pie);
}
message Pie { string id = 1; string note = 2; }
`

// morePies has another method, another service and another field.
var morePies = strings.NewReplacer(
	"rpc BakePie", `rpc EatPie(Pie) returns (Pie) { option (google.api.http) = {post: "/v1/pies/{id}:eat" body: "*"}; } rpc BakePie`,
	"message Pie {", `service CrumbService { rpc Sweep(Pie) returns (Pie); } message Pie { string filling = 3; `,
).Replace(pies)

// compile makes the files of one source, imports included.
func compile(t testing.TB, text string) *protoregistry.Files {
	t.Helper()
	return prototest.Files(t, "pies.proto", text)
}

// lines are what a log has got so far.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// mesh is a stand-in agent and instances, all in memory and in virtual time.
type mesh struct {
	t     testing.TB
	agent *consultest.Server
	lines lines // of the log
	log   *slog.Logger

	mu        sync.Mutex
	instances map[string]*instance // by address
	last      int
}

type instance struct {
	id       string
	files    *protoregistry.Files
	listener *bufconn.Listener
	server   *grpc.Server
	done     chan struct{}
	hold     chan struct{} // BakePie waits for it, if it is not nil
	holding  chan struct{}

	mu       sync.Mutex
	verified []string // subjects of callers, by the gateway's metadata
	calls    int
}

func (i *instance) called() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.calls
}

func (i *instance) subjects() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.verified
}

func newMesh(t testing.TB) *mesh {
	m := &mesh{t: t, agent: consultest.New(), instances: map[string]*instance{}}
	m.log = slog.New(slog.NewTextHandler(&m.lines, nil))
	return m
}

// end stops all instances and the agent.
func (m *mesh) end() {
	for _, i := range m.instances {
		i.server.Stop()
		<-i.done
	}
	m.agent.Close()
}

// start runs an instance of service that offers what text declares, and registers it.
func (m *mesh) start(service string, files *protoregistry.Files) *instance {
	m.t.Helper()
	m.last++
	i := &instance{
		id: fmt.Sprint(service, "-", m.last), files: files, listener: bufconn.Listen(1 << 16),
		done: make(chan struct{}), holding: make(chan struct{}, 1),
	}
	i.server = grpc.NewServer(grpc.UnknownServiceHandler(i.handle))
	healthv1.RegisterHealthServer(i.server, health.NewServer())
	reflectionv1.RegisterServerReflectionServer(i.server, reflection.NewServerV1(reflection.ServerOptions{Services: i, DescriptorResolver: files}))
	address := "10.0.0." + strconv.Itoa(m.last)
	m.mu.Lock()
	m.instances[address+":80"] = i
	m.mu.Unlock()
	go func() { defer close(i.done); _ = i.server.Serve(i.listener) }()
	if err := m.agent.Register(consultest.Service{ID: i.id, Name: service, Address: address, Port: 80}); err != nil {
		m.t.Fatal(err)
	}
	return i
}

// stop deregisters an instance, and stops it a while later, as servers of this module do.
func (m *mesh) stop(i *instance) {
	m.agent.Deregister(i.id)
	time.Sleep(time.Second)
	i.server.GracefulStop()
}

func (m *mesh) dial(ctx context.Context, address string) (net.Conn, error) {
	m.mu.Lock()
	i := m.instances[address]
	m.mu.Unlock()
	if i == nil {
		return nil, fmt.Errorf("nobody listens at %s", address)
	}
	return i.listener.DialContext(ctx)
}

// service makes a Service of a name, offered whole.
func (m *mesh) service(name string, offer ...string) gateway.Service {
	m.t.Helper()
	directory, err := consul.New(consul.Config{Address: "127.0.0.1:8500", Transport: m.agent.Transport(), Logger: silent})
	if err != nil {
		m.t.Fatal(err)
	}
	callers, err := caller.New(caller.WithForwardedSubject())
	if err != nil {
		m.t.Fatal(err)
	}
	runtime, err := meshlite.NewRuntime(meshlite.RuntimeConfig{Callers: callers})
	if err != nil {
		m.t.Fatal(err)
	}
	s, err := gateway.Dial("consul:///"+name, directory, meshlite.WithPlaintext(), meshlite.WithRuntime(runtime), meshlite.WithLogger(silent),
		meshlite.WithDialOptions(grpc.WithContextDialer(m.dial)))
	if err != nil {
		m.t.Fatal(err)
	}
	s.Offer, s.KeepRenderings = offer, true
	return s
}

func (i *instance) GetServiceInfo() map[string]grpc.ServiceInfo {
	all := map[string]grpc.ServiceInfo{"grpc.health.v1.Health": {}}
	i.files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for n := range file.Services().Len() {
			all[string(file.Services().Get(n).FullName())] = grpc.ServiceInfo{}
		}
		return true
	})
	return all
}

// handle answers a method with its request, and the instance in its note.
func (i *instance) handle(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	i.mu.Lock()
	i.calls++
	i.verified = append(i.verified, metadata.ValueFromIncomingContext(stream.Context(), caller.SubjectKey)...)
	i.mu.Unlock()
	found, err := i.files.FindDescriptorByName(protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", ".")))
	if err != nil {
		return errUnimplemented
	}
	descriptor := found.(protoreflect.MethodDescriptor)
	pie := dynamicpb.NewMessage(descriptor.Input())
	if err := stream.RecvMsg(pie); err != nil {
		return err
	}
	if i.hold != nil && descriptor.Name() == "BakePie" {
		i.holding <- struct{}{}
		<-i.hold
	}
	note := strings.Join(append([]string{i.id}, metadata.ValueFromIncomingContext(stream.Context(), caller.SubjectKey)...), " for ")
	pie.Set(descriptor.Input().Fields().ByName("note"), protoreflect.ValueOfString(note))
	return stream.SendMsg(pie)
}

// ask sends one request to the gateway.
func ask(g http.Handler, method, path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	g.ServeHTTP(w, r)
	return w
}
