package cache_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
)

// tagged is anybody, with tags.
func tagged() *policyv1.CacheRule {
	rule := anybody()
	rule.Tags = []string{"sweets", "sweet:{id}"}
	return rule
}

func getSweetOf(id string) proto.Message { return &catalogv1.GetSweetRequest{Id: id} }

// Answers are invalidated by their request, their method, their tags, and all at once.
func TestInvalidate(t *testing.T) {
	method := strings.TrimPrefix(getSweet, "/")
	for name, test := range map[string]struct {
		subject       cache.Subject
		fudge, toffee bool // invalidated
	}{
		"everything":          {cache.Everything(), true, true},
		"method":              {cache.Method(method), true, true},
		"method with a slash": {cache.Method(getSweet), true, true},
		"another method":      {cache.Method("sweetshop.catalog.v1.CatalogService/ListSweets"), false, false},
		"tag":                 {cache.Tag("sweets"), true, true},
		"tag of one":          {cache.Tag("sweet:fudge"), true, false},
		"another tag":         {cache.Tag("sweet:"), false, false},
		"request":             {cache.Request(method, getSweetOf("toffee")), false, true},
		"another request":     {cache.Request(method, getSweetOf("")), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, tagged, nil, func(t *testing.T, call callFunc, b *backend, c *cache.Cache) {
				call(t.Context(), "fudge").is(t, "fudge", "answer 1")
				call(t.Context(), "toffee").is(t, "toffee", "answer 2")
				if err := c.Invalidate(t.Context(), test.subject); err != nil {
					t.Fatal(err)
				}
				kept := call(t.Context(), "fudge").name == "answer 1"
				want(t, "fudge is kept", kept, !test.fudge)
				kept = call(t.Context(), "toffee").name == "answer 2"
				want(t, "toffee is kept", kept, !test.toffee)
				before := b.count()
				call(t.Context(), "fudge")
				call(t.Context(), "toffee")
				want(t, "calls for what was loaded since", b.count()-before, 0)
			})
		})
	}
}

func TestASubjectWithoutANameIsRefused(t *testing.T) {
	c := newCache(t)
	for _, subject := range []cache.Subject{{}, cache.Tag(""), cache.Method("")} {
		if err := c.Invalidate(t.Context(), subject); err == nil || !strings.Contains(err.Error(), "Everything") {
			t.Errorf("%v", err)
		}
	}
}

// A client and a server of one program may distinguish the requests of a method by other
// fields: a request is invalidated for both.
//
// Case C12
func TestARequestIsInvalidatedUnderEachRule(t *testing.T) {
	c, b := newCache(t), &backend{}
	byID := anybody()
	byID.KeyFields = []string{"id"}
	near, far := clientOf(t, c, byID, b), serverOf(t, c, anybody(), b)
	near(t.Context(), "fudge").is(t, "client", "answer 1")
	far(t.Context(), "fudge").is(t, "server", "answer 2")
	if err := c.Invalidate(t.Context(), cache.Request(getSweet, getSweetOf("fudge"))); err != nil {
		t.Fatal(err)
	}
	near(t.Context(), "fudge").is(t, "client, afterwards", "answer 3")
	far(t.Context(), "fudge").is(t, "server, afterwards", "answer 4")
}

// C12: An invalidation that lands during a load wins over that load: for who comes later,
// for who waits already, for what is served while it is refreshed, and for a failure.
//
// Case C12: An invalidation during a load wins.
func TestAnInvalidationDuringALoadWins(t *testing.T) {
	rule := func() *policyv1.CacheRule {
		r := refreshed()
		r.StaleIfError = proto.String("5 minutes")
		r.Negative = []*policyv1.NegativeRule{{Code: "NOT_FOUND", Ttl: "1m"}}
		return r
	}
	slow := func(ctx context.Context, e *exchange) error {
		if e.id == "none" {
			return after(time.Second, status.Error(codes.NotFound, "no"))(ctx, e.number)
		}
		return after(time.Second, nil)(ctx, e.number)
	}
	both(t, rule, slow, func(t *testing.T, call callFunc, b *backend, c *cache.Cache) {
		told := make(chan said)
		begin := func(id string) { go func() { told <- call(t.Context(), id) }() }
		invalidate := func() {
			synctest.Wait()
			time.Sleep(500 * time.Millisecond)
			if err := c.Invalidate(t.Context(), cache.Tag("x"), cache.Method(getSweet)); err != nil {
				t.Error(err)
			}
		}
		begin("fudge")
		synctest.Wait()
		begin("fudge") // waits for the first
		invalidate()
		(<-told).is(t, "who made the call", "answer 1")
		(<-told).is(t, "who waited for it", "answer 2")
		call(t.Context(), "fudge").is(t, "who comes later", "answer 2")

		time.Sleep(time.Minute)
		call(t.Context(), "fudge").is(t, "past its ttl", "answer 2") // and is refreshed, by call 3
		invalidate()
		time.Sleep(time.Second)
		call(t.Context(), "fudge").is(t, "after a refresh that began before", "answer 4")

		begin("none")
		invalidate()
		<-told
		call(t.Context(), "none")
		want(t, "calls", b.count(), 6)
	})
}

// What is known to be wrong does not stand in for a failure.
func TestAnInvalidAnswerDoesNotStandIn(t *testing.T) {
	answer := func(_ context.Context, e *exchange) error {
		if e.number > 1 {
			return status.Error(codes.Unavailable, "away")
		}
		return nil
	}
	both(t, lenient, answer, func(t *testing.T, call callFunc, _ *backend, c *cache.Cache) {
		call(t.Context(), "fudge")
		if err := c.Invalidate(t.Context(), cache.Everything()); err != nil {
			t.Fatal(err)
		}
		if got := call(t.Context(), "fudge"); status.Code(got.err) != codes.Unavailable {
			t.Errorf("%q, %v", got.name, got.err)
		}
	})
}

// changing has GetSweet cached and PlaceOrder, which is not safe, declare what it changes.
func changing(t *testing.T, invalidates *policyv1.Invalidation) (*interceptors.Policies, error) {
	t.Helper()
	return interceptors.NewPolicies(&policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{
		"GetSweet":   {Cache: tagged()},
		"PlaceOrder": {Invalidates: invalidates},
	}})
}

// A method that is not safe invalidates what it declares to change, also when that is
// uncertain, but not when it has surely changed nothing.
func TestAnUnsafeMethodInvalidates(t *testing.T) {
	for name, test := range map[string]struct {
		declared *policyv1.Invalidation
		err      error
		kept     bool
	}{
		"a method":        {&policyv1.Invalidation{Methods: []string{"sweetshop.catalog.v1.CatalogService/GetSweet"}}, nil, false},
		"a tag":           {&policyv1.Invalidation{Tags: []string{"sweets"}}, nil, false},
		"a tag by field":  {&policyv1.Invalidation{Tags: []string{"sweet:{sweet_id}"}}, nil, false},
		"another's field": {&policyv1.Invalidation{Tags: []string{"sweet:{grams}"}}, nil, true},
		"a failure":       {&policyv1.Invalidation{Tags: []string{"sweets"}}, status.Error(codes.Unavailable, ""), false},
		"no effect":       {&policyv1.Invalidation{Tags: []string{"sweets"}}, status.Error(codes.InvalidArgument, ""), true},
	} {
		t.Run(name, func(t *testing.T) {
			rules, err := changing(t, test.declared)
			if err != nil {
				t.Fatal(err)
			}
			c := newCache(t)
			intercept := c.UnaryClientInterceptor(rules)
			calls := 0
			invoke := func(ctx context.Context, method string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
				calls++
				if method == getSweet {
					return nil
				}
				if err := ctx.Err(); err != nil {
					t.Error(err)
				}
				return test.err
			}
			get := func() {
				if err := intercept(t.Context(), getSweet, getSweetOf("fudge"), &catalogv1.GetSweetResponse{}, nil, invoke); err != nil {
					t.Error(err)
				}
			}
			get()
			order := &storefrontv1.PlaceOrderRequest{SweetId: "fudge", Grams: 7}
			err = intercept(t.Context(), storefrontv1.StorefrontService_PlaceOrder_FullMethodName, order, &emptypb.Empty{}, nil, invoke)
			want(t, "error", status.Code(err), status.Code(test.err))
			get()
			want(t, "kept", calls == 2, test.kept)
		})
	}
}

// A caller who gives up has not undone what was changed: the other processes follow all
// the same. A store that does not answer holds up the call for a second at most.
//
// Case C12
func TestACancelledWriteInvalidatesElsewhereToo(t *testing.T) {
	rules, err := changing(t, &policyv1.Invalidation{Tags: []string{"sweets"}})
	if err != nil {
		t.Fatal(err)
	}
	const order = storefrontv1.StorefrontService_PlaceOrder_FullMethodName
	for side, write := range map[string]func(ctx context.Context, c *cache.Cache, written func()) error{
		"client": func(ctx context.Context, c *cache.Cache, written func()) error {
			return c.UnaryClientInterceptor(rules)(ctx, order, &storefrontv1.PlaceOrderRequest{}, &emptypb.Empty{}, nil,
				func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
					written()
					return status.FromContextError(ctx.Err()).Err()
				})
		},
		"server": func(ctx context.Context, c *cache.Cache, written func()) error {
			_, err := c.UnaryServerInterceptor(rules)(ctx, &storefrontv1.PlaceOrderRequest{}, &grpc.UnaryServerInfo{FullMethod: order},
				func(ctx context.Context, _ any) (any, error) {
					written()
					return nil, status.FromContextError(ctx.Err()).Err()
				})
			return err
		},
	} {
		t.Run(side, func(t *testing.T) {
			replicas(t, tagged, nil, func(t *testing.T, one, two callFunc, _ *backend, s *shelf, caches [2]*cache.Cache) {
				two(t.Context(), "fudge").is(t, "the other, before", "answer 1")
				ctx, cancel := context.WithCancel(t.Context())
				if err := write(ctx, caches[0], cancel); status.Code(err) != codes.Canceled {
					t.Errorf("the write ends with %v", err)
				}
				two(t.Context(), "fudge").is(t, "the other, afterwards", "answer 2")
				want(t, "errors of the store", caches[0].Stats().StoreErrors, 0)

				s.mute = true
				start := time.Now()
				_ = write(t.Context(), caches[0], func() {})
				want(t, "held up", time.Since(start), time.Second)
				want(t, "errors of a silent store", caches[0].Stats().StoreErrors, 1)
			})
		})
	}
}

// A call that has panicked may have changed what it declares.
//
// Case C12
func TestAPanicInvalidates(t *testing.T) {
	rules, err := changing(t, &policyv1.Invalidation{Tags: []string{"sweets"}})
	if err != nil {
		t.Fatal(err)
	}
	const order = storefrontv1.StorefrontService_PlaceOrder_FullMethodName
	req := &storefrontv1.PlaceOrderRequest{}
	for side, call := range map[string]func(*cache.Cache) error{
		"client": func(c *cache.Cache) error {
			return c.UnaryClientInterceptor(rules)(t.Context(), order, req, &emptypb.Empty{}, nil, func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
				panic("after it was written")
			})
		},
		"server": func(c *cache.Cache) error {
			_, err := c.UnaryServerInterceptor(rules)(t.Context(), req, &grpc.UnaryServerInfo{FullMethod: order}, func(context.Context, any) (any, error) {
				panic("after it was written")
			})
			return err
		},
	} {
		t.Run(side, func(t *testing.T) {
			c := newCache(t)
			defer func() {
				want(t, "panic", recover(), any("after it was written"))
				want(t, "invalidations", c.Stats().Invalidations, 1)
			}()
			t.Error(call(c))
		})
	}
}

func TestWrongInvalidationsAreRefused(t *testing.T) {
	for fault, declared := range map[string]*policyv1.Invalidation{
		`invalidates.methods[0]: "sweetshop.catalog.v1.CatalogService/GetSweets"`: {Methods: []string{"sweetshop.catalog.v1.CatalogService/GetSweets"}},
		`invalidates.methods[1]: "sweetshop.storefront.v1.StorefrontService/Bro"`: {Methods: []string{"Browse", "Bro"}},
		`invalidates.tags[0]: "nothing"`:                                          {Tags: []string{"x{nothing}"}},
		`invalidates.tags[0]: "sweet:{sweet_id"`:                                  {Tags: []string{"sweet:{sweet_id"}},
		`invalidates.tags[0]: "sweet}"`:                                           {Tags: []string{"sweet}"}},
		`invalidates.tags[0]: "" is no tag`:                                       {Tags: []string{""}},
	} {
		if _, err := changing(t, declared); err == nil || !strings.Contains(err.Error(), fault) {
			t.Errorf("%v: got %v, want an error with %s", declared, err, fault)
		}
	}
}
