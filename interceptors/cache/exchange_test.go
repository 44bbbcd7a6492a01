package cache_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// exchange is one call as its backend sees it.
type exchange struct {
	number int64
	id     string      // that is asked for
	asked  metadata.MD // what came with the request
	header metadata.MD // what goes with the answer
	empty  bool        // the answer has no message
}

// unchanged is [cache.Unchanged] for the answer: it is empty for who has that etag already.
func (e *exchange) unchanged(etag string) bool {
	e.header.Set("etag", etag)
	if e.empty = slices.Contains(e.asked.Get("if-none-match"), etag); e.empty {
		e.header.Set("not-modified", etag)
	}
	return e.empty
}

// backend answers the calls that get through.
type backend struct {
	answer func(context.Context, *exchange) error

	mu    sync.Mutex
	calls int64
	ids   []string // that were asked for
}

func (b *backend) asked() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.ids, " ")
}

func (b *backend) count() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls
}

func (b *backend) serve(ctx context.Context, id string, asked metadata.MD) (*catalogv1.GetSweetResponse, metadata.MD, error) {
	b.mu.Lock()
	b.calls++
	b.ids = append(b.ids, id)
	e := &exchange{number: b.calls, id: id, asked: asked, header: metadata.MD{}}
	b.mu.Unlock()
	if b.answer != nil {
		if err := b.answer(ctx, e); err != nil {
			return nil, e.header, err
		}
	}
	if e.empty {
		return &catalogv1.GetSweetResponse{}, e.header, nil
	}
	return named(e.number), e.header, nil
}

// said is what a caller receives.
type said struct {
	name   string
	header metadata.MD
	err    error
}

// caller asks for a sweet, with metadata.
type callFunc func(ctx context.Context, id string, kv ...string) said

// both runs test in virtual time with a cache on the client, and with one on the server.
func both(t *testing.T, rule func() *policyv1.CacheRule, answer func(context.Context, *exchange) error, test func(t *testing.T, call callFunc, b *backend, c *cache.Cache), opts ...cache.Option) {
	for side, connect := range map[string]connecting{"client": clientOf, "server": serverOf} {
		t.Run(side, func(t *testing.T) { on(t, connect, rule, answer, test, opts...) })
	}
}

// connecting puts a cache between a caller and a backend: clientOf or serverOf.
type connecting func(*testing.T, *cache.Cache, *policyv1.CacheRule, *backend) callFunc

// on is one of both.
func on(t *testing.T, connect connecting, rule func() *policyv1.CacheRule, answer func(context.Context, *exchange) error, test func(t *testing.T, call callFunc, b *backend, c *cache.Cache), opts ...cache.Option) {
	synctest.Test(t, func(t *testing.T) {
		c, err := cache.New(append([]cache.Option{callersOf(caller.WithIdentityMetadata("customer"))}, opts...)...)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		b := &backend{answer: answer}
		test(t, connect(t, c, rule(), b), b, c)
	})
}

func clientOf(t *testing.T, c *cache.Cache, rule *policyv1.CacheRule, b *backend) callFunc {
	interceptor := c.UnaryClientInterceptor(policies(t, rule))
	invoker := func(ctx context.Context, _ string, req, reply any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
		asked, _ := metadata.FromOutgoingContext(ctx)
		answer, header, err := b.serve(ctx, req.(*catalogv1.GetSweetRequest).GetId(), asked)
		for _, opt := range opts {
			if o, ok := opt.(grpc.HeaderCallOption); ok {
				*o.HeaderAddr = header.Copy()
			}
		}
		if err == nil {
			proto.Reset(reply.(proto.Message))
			proto.Merge(reply.(proto.Message), answer)
		}
		return err
	}
	return func(ctx context.Context, id string, kv ...string) said {
		reply, header := &catalogv1.GetSweetResponse{}, metadata.MD{}
		req := &catalogv1.GetSweetRequest{Id: id}
		err := interceptor(metadata.AppendToOutgoingContext(ctx, kv...), getSweet, req, reply, nil, invoker, grpc.Header(&header))
		req.Id = "another" // it is the caller's again
		return said{reply.GetSweet().GetName(), header, err}
	}
}

func serverOf(t *testing.T, c *cache.Cache, rule *policyv1.CacheRule, b *backend) callFunc {
	interceptor := c.UnaryServerInterceptor(policies(t, onServer(rule)))
	handler := func(ctx context.Context, req any) (any, error) {
		asked, _ := metadata.FromIncomingContext(ctx)
		answer, header, err := b.serve(ctx, req.(*catalogv1.GetSweetRequest).GetId(), asked)
		_ = grpc.SetHeader(ctx, header)
		return answer, err
	}
	return func(ctx context.Context, id string, kv ...string) said {
		wire := &wire{}
		ctx = grpc.NewContextWithServerTransportStream(metadata.NewIncomingContext(ctx, metadata.Pairs(kv...)), wire)
		req := &catalogv1.GetSweetRequest{Id: id}
		reply, err := interceptor(ctx, req, &grpc.UnaryServerInfo{FullMethod: getSweet}, handler)
		req.Id = "another" // it is the caller's again
		if err != nil {
			return said{"", wire.header, err}
		}
		return said{reply.(*catalogv1.GetSweetResponse).GetSweet().GetName(), wire.header, nil}
	}
}

// wire is the transport of one call to a server.
type wire struct {
	mu              sync.Mutex
	header, trailer metadata.MD
}

func (w *wire) Method() string { return getSweet }
func (w *wire) SetHeader(md metadata.MD) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.header = metadata.Join(w.header, md)
	return nil
}
func (w *wire) SendHeader(md metadata.MD) error { return w.SetHeader(md) }
func (w *wire) SetTrailer(md metadata.MD) error { w.trailer = metadata.Join(w.trailer, md); return nil }
func (w *wire) Header() (metadata.MD, error)    { return w.header.Copy(), nil }
func (w *wire) Trailer() metadata.MD            { return w.trailer.Copy() }

// is checks the answer and, with keys and values, its header.
func (s said) is(t *testing.T, what, name string, kv ...string) {
	t.Helper()
	if s.err != nil || s.name != name {
		t.Errorf("%s: %q, %v; want %q", what, s.name, s.err, name)
	}
	for i := 0; i < len(kv); i += 2 {
		if got := fmt.Sprint(s.header.Get(kv[i])); got != kv[i+1] {
			t.Errorf("%s: header %s is %s, want %s", what, kv[i], got, kv[i+1])
		}
	}
}
