package meshlite_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/prototest"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// pies is a contract that this program is not linked with.
const pies = `syntax = "proto3";
package pies.v1;
import "meshlite/policy/v1/policy.proto";
service PieService {
  rpc GetPie(Pie) returns (Pie) {
    option idempotency_level = NO_SIDE_EFFECTS;
    option (meshlite.policy.v1.method) = {
      cache: {ttl: "1m" scope: CACHE_SCOPE_PUBLIC key_fields: "id" tags: "pie:{id}"}
      retry: {max_attempts: 3 initial_backoff: "1ms"}
    };
  }
  rpc BakePie(Pie) returns (Pie) {
    option (meshlite.policy.v1.method) = {
      invalidates: {tags: "pie:{id}" methods: "GetPie"}
      rate_limits: {name: "baker" limit: 1 period: "1h" side: SIDE_CLIENT key: {field: "id"}}
    };
  }
  rpc WatchPies(Pie) returns (stream Pie);
}
message Pie { string id = 1; string note = 2; }
`

// bakery answers each method of pies with its request, and a note in which each answer
// differs. It fails as many calls as it is set to.
type bakery struct {
	calls, failures atomic.Int64
	pie             protoreflect.MessageDescriptor
}

func (b *bakery) handle(_ any, stream grpc.ServerStream) error {
	n := b.calls.Add(1)
	pie := dynamicpb.NewMessage(b.pie)
	if err := stream.RecvMsg(pie); err != nil {
		return err
	}
	if b.failures.Add(-1) >= 0 {
		return status.Error(codes.Unavailable, "the oven is cold")
	}
	pie.Set(b.pie.Fields().ByName("note"), protoreflect.ValueOfString(fmt.Sprint("answer ", n)))
	return stream.SendMsg(pie)
}

// pieClient calls a bakery through a channel of this module, with no generated code.
type pieClient struct {
	t         *testing.T
	bakery    *bakery
	conn      *grpc.ClientConn
	runtime   *meshlite.Runtime
	contracts *interceptors.Contracts
	files     *protoregistry.Files // by which it makes messages
}

func newPieClient(t *testing.T, opts ...meshlite.ClientOption) *pieClient {
	t.Helper()
	files := prototest.Files(t, "pies/v1/pies.proto", pies)
	c := &pieClient{t: t, bakery: &bakery{}, runtime: newRuntime(t), contracts: &interceptors.Contracts{}, files: files}
	c.bakery.pie = c.pie("").Descriptor()
	listener, server := bufconn.Listen(1<<16), grpc.NewServer(grpc.UnknownServiceHandler(c.bakery.handle))
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	conn, err := meshlite.NewClient("passthrough:///bakery", append([]meshlite.ClientOption{
		meshlite.WithPlaintext(), meshlite.WithRuntime(c.runtime), meshlite.WithLogger(silent), meshlite.WithContracts(c.contracts),
		meshlite.WithDialOptions(grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) })),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); server.Stop(); <-done })
	c.conn = conn
	return c
}

// offer makes text the contract that the channel goes by.
func (c *pieClient) offer(text string) error {
	c.t.Helper()
	files := prototest.Files(c.t, "pies/v1/pies.proto", text)
	err := c.contracts.Set(files)
	if err == nil {
		c.files = files
	}
	return err
}

func (c *pieClient) pie(id string) *dynamicpb.Message {
	found, err := c.files.FindDescriptorByName("pies.v1.Pie")
	if err != nil {
		c.t.Fatal(err)
	}
	pie := dynamicpb.NewMessage(found.(protoreflect.MessageDescriptor))
	pie.Set(pie.Descriptor().Fields().ByName("id"), protoreflect.ValueOfString(id))
	return pie
}

// call returns the note in the answer.
func (c *pieClient) call(method, id, note string) (string, error) {
	request, reply := c.pie(id), c.pie("")
	field := reply.Descriptor().Fields().ByName("note")
	request.Set(field, protoreflect.ValueOfString(note))
	err := c.conn.Invoke(c.t.Context(), "/pies.v1.PieService/"+method, request, reply)
	return reply.Get(field).String(), err
}

func (c *pieClient) want(method, id, note, want string) {
	c.t.Helper()
	if got, err := c.call(method, id, note); err != nil || got != want {
		c.t.Errorf("%s of %s: %q, %v, want %q", method, id, got, err, want)
	}
}

// Case E10
//
// The policies of a contract that was read apply to dynamic messages as those of linked code do, and a changed contract applies from the next call on.
func TestPoliciesOfAContractThatIsNotLinked(t *testing.T) {
	c := newPieClient(t)
	c.want("GetPie", "apple", "", "answer 1")
	c.want("GetPie", "apple", "", "answer 2") // without a contract nothing is cached
	if err := c.offer(pies); err != nil {
		t.Fatal(err)
	}
	c.want("GetPie", "apple", "", "answer 3")
	c.want("GetPie", "apple", "", "answer 3")
	c.want("GetPie", "apple", "not in key_fields", "answer 3")
	c.want("GetPie", "plum", "", "answer 4")
	c.want("BakePie", "apple", "", "answer 5")
	c.want("GetPie", "apple", "", "answer 6") // by its tag, or by the method
	if _, err := c.call("BakePie", "apple", ""); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a second pie for one baker: %v, want ResourceExhausted by the limit with a key of a field", err)
	}
	c.want("BakePie", "cherry", "", "answer 7")
	c.bakery.failures.Store(2)
	c.want("GetPie", "pear", "", "answer 10") // the third attempt
	c.want("GetPie", "pear", "", "answer 10")

	// Read again, unchanged: the answers stay, and decode into messages of the new files.
	if err := c.offer(pies); err != nil {
		t.Fatal(err)
	}
	c.want("GetPie", "pear", "", "answer 10")

	if err := c.offer(strings.NewReplacer(`ttl: "1m"`, `ttl: "0s"`, `max_attempts: 3`, `max_attempts: 1`).Replace(pies)); err != nil {
		t.Fatal(err)
	}
	c.want("GetPie", "pear", "", "answer 11")
	c.want("GetPie", "pear", "", "answer 12")
	c.bakery.failures.Store(1)
	if _, err := c.call("GetPie", "pear", ""); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v, want Unavailable: the new contract has no retry", err)
	}

	for _, want := range []string{
		`grpc_method="GetPie",grpc_service="pies.v1.PieService"`, `grpc_method="BakePie",grpc_service="pies.v1.PieService"`,
	} {
		if page := scrape(t, c.runtime); !strings.Contains(page, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	if err := c.contracts.Set(nil); err != nil {
		t.Fatal(err)
	}
	c.bakery.failures.Store(1)
	if _, err := c.call("BakePie", "cherry", ""); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v, want Unavailable of the bakery: without a contract there is no limit", err)
	}
}

// Case E10
func TestABrokenPolicyInAContractKeepsTheOneBefore(t *testing.T) {
	c := newPieClient(t, meshlite.WithPolicy(&policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{
		"pies.v1.PieService/GetPie": {Cache: &policyv1.CacheRule{KeyFields: []string{"note"}}},
	}}))
	if err := c.offer(pies); err != nil {
		t.Fatal(err)
	}
	c.want("GetPie", "apple", "", "answer 1")
	for says, broken := range map[string]string{
		`pies.v1.PieService.GetPie: cache.ttl`:                             strings.Replace(pies, `ttl: "1m"`, `ttl: "soon"`, 1),
		`pies.v1.PieService.GetPie: retry.max_attempts`:                    strings.Replace(strings.Replace(pies, "option idempotency_level = NO_SIDE_EFFECTS;", "", 1), `cache: {ttl: "1m"`, `cache: {ttl: "1m" allow_side_effects: true`, 1),
		`pies.v1.PieService/BakePie: invalidates.methods[0]`:               strings.Replace(pies, `methods: "GetPie"`, `methods: "GetPies"`, 1),
		`pies.v1.PieService/BakePie: rate_limits[0].key.field`:             strings.Replace(pies, `field: "id"`, `field: "pan"`, 1),
		`the policy above it: pies.v1.PieService/GetPie: cache.key_fields`: strings.Replace(pies, `string note = 2;`, `string remark = 2;`, 1),
	} {
		if err := c.offer(broken); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want %q", err, says)
		}
		c.want("GetPie", "apple", "", "answer 1")
	}
}

// What the server offers now wins over what this program was linked with.
func TestAContractThatWasReadReplacesTheLinkedOne(t *testing.T) {
	contracts := &interceptors.Contracts{}
	policies, err := interceptors.NewPolicies(nil, interceptors.WithContracts(contracts))
	if err != nil {
		t.Fatal(err)
	}
	const method = "/sweetshop.catalog.v1.CatalogService/GetSweet"
	ttl := func() string { return policies.Call(interceptors.Client, method).Policy.GetCache().GetTtl() }
	linked := ttl()
	err = contracts.Set(prototest.Files(t, "newer.proto", `syntax = "proto3";
package sweetshop.catalog.v1;
import "meshlite/policy/v1/policy.proto";
service CatalogService { rpc GetSweet(Sweet) returns (Sweet) {
  option idempotency_level = NO_SIDE_EFFECTS;
  option (meshlite.policy.v1.method) = {cache: {ttl: "17s"}};
} }
message Sweet {}`))
	if err != nil {
		t.Fatal(err)
	}
	if linked == "17s" || ttl() != "17s" {
		t.Errorf("ttl %q before and %q after, want 17s after", linked, ttl())
	}
	if err := policies.SetOperator(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{Timeout: new("3s")}}); err != nil {
		t.Fatal(err)
	}
	if got := policies.Call(interceptors.Client, method).Policy; got.GetTimeout() != "3s" || got.GetCache().GetTtl() != "17s" {
		t.Errorf("policy %v, want the operator's above the contract's", got)
	}
	if err := contracts.Set(nil); err != nil {
		t.Fatal(err)
	}
	if got := policies.Call(interceptors.Client, method).Policy; got.GetTimeout() != "3s" || ttl() != linked {
		t.Errorf("policy %v, want the linked one below the operator's", got)
	}
}
