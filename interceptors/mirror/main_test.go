package mirror_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/mirror"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const getSweet = "/sweetshop.catalog.v1.CatalogService/GetSweet"

// place is where copies go.
type place struct {
	dialed, closed atomic.Int64
	refuse         error // of a dial
	// answer handles a copy; nil answers as the shop does.
	answer func(ctx context.Context, request []byte) (proto.Message, error)
	broken []byte // answers with this

	mu     sync.Mutex
	copies []received
}

// received is a copy as it was sent.
type received struct {
	target  string
	request []byte
	md      metadata.MD
	options []grpc.CallOption
}

func (p *place) dial(target string) (mirror.Conn, error) {
	if p.refuse != nil {
		return nil, p.refuse
	}
	p.dialed.Add(1)
	return &conn{p, target}, nil
}

func (p *place) received() []received {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]received{}, p.copies...)
}

func (p *place) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.copies)
}

type conn struct {
	*place
	target string
}

func (c *conn) Close() error { c.closed.Add(1); return nil }

func (c *conn) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.New("not mirrored")
}

func (c *conn) Invoke(ctx context.Context, _ string, args, reply any, opts ...grpc.CallOption) error {
	var codec grpc.ForceCodecV2CallOption
	for _, o := range opts {
		if forced, ok := o.(grpc.ForceCodecV2CallOption); ok {
			codec = forced
		}
	}
	sent, err := codec.CodecV2.Marshal(args)
	if err != nil {
		return err
	}
	md, _ := metadata.FromOutgoingContext(ctx)
	request := sent.Materialize()
	c.mu.Lock()
	c.copies = append(c.copies, received{c.target, request, md, opts})
	c.mu.Unlock()
	answer := proto.Message(sweet("fudge"))
	if c.answer != nil {
		if answer, err = c.answer(ctx, request); err != nil {
			return err
		}
	}
	data, err := proto.Marshal(answer)
	if err != nil {
		return err
	}
	if c.broken != nil {
		data = c.broken
	}
	return codec.CodecV2.Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, reply)
}

func sweet(id string) *catalogv1.GetSweetResponse {
	return &catalogv1.GetSweetResponse{Sweet: &catalogv1.Sweet{Id: id, Name: "Fudge", PricePence: 120}}
}

// shop answers what a caller asks for.
func shop(_ context.Context, _ string, _, reply any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
	proto.Merge(reply.(proto.Message), sweet("fudge"))
	return nil
}

func rule(target string, percent float64) *policyv1.MirrorRule {
	return &policyv1.MirrorRule{Target: &target, Percent: &percent}
}

func policiesOf(t testing.TB, rule *policyv1.MirrorRule) *interceptors.Policies {
	t.Helper()
	policies, err := interceptors.NewPolicies(&policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{"GetSweet": {Mirror: rule}}})
	if err != nil {
		t.Fatal(err)
	}
	return policies
}

// mirrored is a caller's chain whose copies go to a place, until the test ends.
func mirrored(t testing.TB, to *place, rule *policyv1.MirrorRule) (*mirror.Mirror, grpc.UnaryClientInterceptor) {
	t.Helper()
	m, err := mirror.New(to.dial)
	if err != nil {
		t.Fatal(err)
	}
	m.Open()
	t.Cleanup(m.Close)
	return m, m.UnaryClientInterceptor(policiesOf(t, rule))
}

func call(t testing.TB, by grpc.UnaryClientInterceptor, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	t.Helper()
	return by(t.Context(), getSweet, &catalogv1.GetSweetRequest{Id: "fudge"}, &catalogv1.GetSweetResponse{}, nil, invoker, opts...)
}

// only are the statistics of the one method and target that there is.
func only(t testing.TB, m *mirror.Mirror) mirror.Stats {
	t.Helper()
	all := m.Stats()
	if len(all) != 1 {
		t.Fatalf("statistics of %d, want one: %+v", len(all), all)
	}
	return all[0]
}
