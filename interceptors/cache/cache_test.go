package cache_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	inventoryv1 "github.com/meshlite-go/meshlite/proto/sweetshop/inventory/v1"
)

// A call answered within the ttl costs no second call; after it, it does.
func TestAnswersAreFreshForTheirTTL(t *testing.T) {
	for side, build := range map[string]func(testing.TB, *shop, *cache.Cache, *policyv1.CacheRule) catalogv1.CatalogServiceClient{
		"client": client, "server": server,
	} {
		t.Run(side, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sweets := build(t, &shop{}, newCache(t), &policyv1.CacheRule{Ttl: proto.String("5 minutes")})
				ctx := context.Background()
				want(t, "first", ask(t, ctx, sweets, "fudge"), "answer 1")
				time.Sleep(5*time.Minute - time.Second)
				want(t, "within the ttl", ask(t, ctx, sweets, "fudge"), "answer 1")
				time.Sleep(2 * time.Second)
				want(t, "past the ttl", ask(t, ctx, sweets, "fudge"), "answer 2")
				want(t, "another request", ask(t, ctx, sweets, "toffee"), "answer 3")
			})
		})
	}
}

// C1: Two callers with different authorization never see each other's answer unless the answer says public.
func TestCallersWithDifferentAuthorizationNeverShareAnAnswer(t *testing.T) {
	one, two := as("user", "u", "authorization", "Bearer 1"), as("user", "u", "authorization", "Bearer 2")
	other := as("user", "v", "authorization", "Bearer 1")
	for _, side := range []struct {
		name  string
		build func(testing.TB, *shop, *cache.Cache, *policyv1.CacheRule) catalogv1.CatalogServiceClient
	}{{"client", client}, {"server", server}} {
		t.Run(side.name, func(t *testing.T) {
			sweets := side.build(t, &shop{}, newCache(t, callersOf(caller.WithIdentityMetadata("user"))), private())
			want(t, "one", ask(t, one, sweets, "fudge"), "answer 1")
			want(t, "two, same user and another token", ask(t, two, sweets, "fudge"), "answer 2")
			want(t, "another user, same token", ask(t, other, sweets, "fudge"), "answer 3")
			want(t, "one again", ask(t, one, sweets, "fudge"), "answer 1")
			want(t, "two again", ask(t, two, sweets, "fudge"), "answer 2")
			want(t, "the other again", ask(t, other, sweets, "fudge"), "answer 3")
		})
		t.Run(side.name+", public", func(t *testing.T) {
			sweets := side.build(t, &shop{}, newCache(t), &policyv1.CacheRule{Ttl: proto.String("1m")})
			want(t, "one", ask(t, one, sweets, "fudge"), "answer 1")
			want(t, "two", ask(t, two, sweets, "fudge"), "answer 1")
		})
	}
}

// C2: Without a declared identity or public scope the client cache stores nothing.
func TestClientWithoutIdentityStoresNothing(t *testing.T) {
	unknown := callersOf(caller.WithIdentity(func(context.Context) (string, bool) { return "", false }))
	for title, opts := range map[string][]cache.Option{
		"none declared":          nil,
		"declared but not known": {unknown},
		"metadata not sent":      {callersOf(caller.WithIdentityMetadata("user"))},
	} {
		t.Run(title, func(t *testing.T) {
			c := newCache(t, opts...)
			sweets := client(t, &shop{}, c, private())
			want(t, "first", ask(t, context.Background(), sweets, "fudge"), "answer 1")
			want(t, "second", ask(t, context.Background(), sweets, "fudge"), "answer 2")
			want(t, "stats", c.Stats().Counts, cache.Counts{Bypassed: 2})
		})
	}
}

// Two values of the identity's metadata key are no identity.
func TestIdentityNamedTwiceIsNone(t *testing.T) {
	c := newCache(t, callersOf(caller.WithIdentityMetadata("user")))
	sweets := server(t, &shop{}, c, private())
	ask(t, as("user", "u", "user", "v"), sweets, "fudge")
	ask(t, as("user", ""), sweets, "fudge") // nor is an empty one
	want(t, "stored", c.Stats().Stored, 0)
}

// refuse is the authorization of a chain.
type refuse struct{ allow func(context.Context) bool }

func (refuse) Stage() interceptors.Stage { return interceptors.Authorization }

func (r refuse) UnaryServer(*interceptors.CallMeta) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if !r.allow(ctx) {
			return nil, status.Error(codes.PermissionDenied, "no")
		}
		return handler(ctx, req)
	}
}

// C3: Authorization runs before a server-side hit (the chain sorts by place).
func TestAuthorizationRunsBeforeAServerSideHit(t *testing.T) {
	c := newCache(t)
	authz := refuse{func(ctx context.Context) bool { return len(metadata.ValueFromIncomingContext(ctx, "allowed")) > 0 }}
	rules := policies(t, onServer(&policyv1.CacheRule{Ttl: proto.String("1m")}))
	for _, concerns := range [][]interceptors.Concern{{authz, c}, {c, authz}} {
		chain, err := interceptors.Chain(interceptors.Server, rules, concerns...)
		if err != nil {
			t.Fatal(err)
		}
		sweets := dial(t, &shop{}, chain.ServerOptions(), nil)
		ask(t, as("allowed", "yes"), sweets, "fudge")
		hits := c.Stats().Hits
		_, err = sweets.GetSweet(context.Background(), &catalogv1.GetSweetRequest{Id: "fudge"})
		want(t, "code for a caller who may not ask", status.Code(err), codes.PermissionDenied)
		want(t, "hits after the refusal", c.Stats().Hits, hits)
	}
}

// C4: A method that may have side effects is never cached without an explicit rule.
func TestMethodWithSideEffectsIsCachedOnlyByExplicitRule(t *testing.T) {
	const reserve = "/sweetshop.inventory.v1.InventoryService/Reserve"
	_ = inventoryv1.File_sweetshop_inventory_v1_inventory_proto
	c := newCache(t)
	for _, test := range []struct {
		name   string
		policy *policyv1.ServicePolicy
		cached bool
	}{
		{"default policy", &policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{Cache: &policyv1.CacheRule{Ttl: proto.String("1m")}}}, false},
		{"explicit rule", &policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{"Reserve": {Cache: &policyv1.CacheRule{
			Ttl: proto.String("1m"), AllowSideEffects: proto.Bool(true)}}}}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := interceptors.NewPolicies(test.policy)
			if err != nil {
				t.Fatal(err)
			}
			want(t, "cached", c.UnaryClient(p.Call(interceptors.Client, reserve)) != nil, test.cached)
			want(t, "cached where there are no side effects",
				c.UnaryClient(p.Call(interceptors.Client, getSweet)) != nil, true)
		})
	}
}

// C7: Nothing is stored before the final status is OK.
func TestFailuresAreNotStored(t *testing.T) {
	for side, build := range map[string]func(testing.TB, *shop, *cache.Cache, *policyv1.CacheRule) catalogv1.CatalogServiceClient{
		"client": client, "server": server,
	} {
		t.Run(side, func(t *testing.T) {
			fail := errors.New("out of sugar")
			c := newCache(t)
			sweets := build(t, &shop{answer: func(context.Context, *catalogv1.GetSweetRequest) error { return fail }}, c, &policyv1.CacheRule{})
			for range 2 {
				if _, err := sweets.GetSweet(context.Background(), &catalogv1.GetSweetRequest{Id: "fudge"}); err == nil {
					t.Error("the failure was lost")
				}
			}
			want(t, "stats", c.Stats().Counts, cache.Counts{Misses: 2})
		})
	}
}

// C8: Changing a returned reply changes no later reply.
// On the server the reply that is changed may be the handler's own, or the one that an
// interceptor around the cache is given.
func TestChangingAReplyOnTheServerChangesNoLaterReply(t *testing.T) {
	intercept := newCache(t).UnaryServerInterceptor(policies(t, onServer(&policyv1.CacheRule{Ttl: proto.String("1m")})))
	own := &catalogv1.GetSweetResponse{Sweet: &catalogv1.Sweet{Name: "answer"}}
	calls := 0
	for range 3 { // the first is the stored one, the others are hits
		reply, err := intercept(grpc.NewContextWithServerTransportStream(t.Context(), &wire{}), &catalogv1.GetSweetRequest{Id: "fudge"},
			&grpc.UnaryServerInfo{FullMethod: getSweet}, func(context.Context, any) (any, error) { calls++; return own, nil })
		if err != nil {
			t.Fatal(err)
		}
		want(t, "name", reply.(*catalogv1.GetSweetResponse).GetSweet().GetName(), "answer")
		reply.(*catalogv1.GetSweetResponse).Sweet.Name = "changed by an interceptor"
		own.Sweet.Name = "changed by the handler"
	}
	want(t, "calls of the handler", calls, 1)
}

func TestChangingAReplyChangesNoLaterReply(t *testing.T) {
	sweets := client(t, &shop{}, newCache(t), &policyv1.CacheRule{})
	for range 3 { // the first is the stored one, the others are hits
		reply, err := sweets.GetSweet(context.Background(), &catalogv1.GetSweetRequest{Id: "fudge"})
		if err != nil {
			t.Fatal(err)
		}
		want(t, "name", reply.GetSweet().GetName(), "answer 1")
		reply.Sweet.Name = "changed"
	}
}

// C16: Streams pass untouched.
func TestStreamsPassUntouched(t *testing.T) {
	var c any = newCache(t)
	if _, ok := c.(interceptors.StreamClient); ok {
		t.Error("the cache has a part in streams on the client")
	}
	if _, ok := c.(interceptors.StreamServer); ok {
		t.Error("the cache has a part in streams on the server")
	}
}

// A hit replays header and trailer without hop metadata, and ends like a call.
func TestHitReplaysMetadata(t *testing.T) {
	answer := func(ctx context.Context, _ *catalogv1.GetSweetRequest) error {
		return errors.Join(
			grpc.SetHeader(ctx, metadata.Pairs("shelf", "3", "date", "today")),
			grpc.SendHeader(ctx, metadata.Pairs("shelf", "4")),
			grpc.SetTrailer(ctx, metadata.Pairs("weight", "100", "grpc-own", "x")))
	}
	for side, build := range map[string]func(testing.TB, *shop, *cache.Cache, *policyv1.CacheRule) catalogv1.CatalogServiceClient{
		"client": client, "server": server,
	} {
		t.Run(side, func(t *testing.T) {
			c := newCache(t)
			sweets := build(t, &shop{answer: answer}, c, &policyv1.CacheRule{})
			for i := range 3 {
				var header, trailer metadata.MD
				var from peer.Peer
				ended := 0
				ask(t, context.Background(), sweets, "fudge", grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&from),
					grpc.OnFinish(func(err error) {
						want(t, "error at the end", err, nil)
						ended++
					}))
				want(t, "shelf", strings.Join(header.Get("shelf"), " "), "3 4")
				want(t, "weight", strings.Join(trailer.Get("weight"), " "), "100")
				want(t, "times the call ended", ended, 1)
				want(t, "peer is known", from.Addr != nil, side == "server" || i == 0) // a hit on the client has none
				want(t, "date is sent", len(header.Get("date")) > 0, i == 0)
				header.Set("shelf", "changed")
			}
			want(t, "hits", c.Stats().Hits, 2)
		})
	}
}

// A ttl that the operator shortens counts for what is already kept.
func TestShorterTTLTakesEffectAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rules := policies(t, &policyv1.CacheRule{Ttl: proto.String("1 day")})
		sweets := dial(t, &shop{}, nil, []grpc.DialOption{grpc.WithUnaryInterceptor(newCache(t).UnaryClientInterceptor(rules))})
		ctx := context.Background()
		want(t, "first", ask(t, ctx, sweets, "fudge"), "answer 1")
		time.Sleep(time.Minute)
		want(t, "within a day", ask(t, ctx, sweets, "fudge"), "answer 1")
		err := rules.SetOperator(&policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{
			"GetSweet": {Cache: &policyv1.CacheRule{Ttl: proto.String("30s")}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		want(t, "after the change", ask(t, ctx, sweets, "fudge"), "answer 2")
	})
}

// A closed cache passes calls through and keeps nothing.
func TestClosedCachePassesThrough(t *testing.T) {
	c := newCache(t)
	sweets := client(t, &shop{}, c, &policyv1.CacheRule{})
	ask(t, context.Background(), sweets, "fudge")
	c.Close()
	c.Close()
	want(t, "after Close", ask(t, context.Background(), sweets, "fudge"), "answer 2")
	want(t, "entries", c.Stats().Entries, 0)
}

func TestNewRefusesBadOptions(t *testing.T) {
	for _, test := range []struct {
		opts []cache.Option
		says string
	}{
		{[]cache.Option{cache.WithMaxBytes(100)}, "cache: WithMaxBytes: 100 is too little to keep answers: give at least 65536 (64 KiB)"},
		{[]cache.Option{cache.WithCallers(nil)}, "cache: WithCallers(nil): leave the option out for the defaults"},
	} {
		_, err := cache.New(test.opts...)
		if err == nil {
			t.Errorf("no error, want %q", test.says)
			continue
		}
		want(t, "error", err.Error(), test.says)
	}
}

// A nil logger is slog.Default(), as in every room: what is logged ends no call.
func TestANilLoggerIsTheDefault(t *testing.T) {
	s := newShelf()
	s.saving = func(context.Context) error { panic("out of ink") }
	both(t, anybody, nil, func(t *testing.T, call callFunc, _ *backend, c *cache.Cache) {
		call(t.Context(), "fudge").is(t, "answered", "answer 1")
		synctest.Wait()
		want(t, "errors of Save", c.Stats().StoreErrors, 1)
	}, cache.WithStore(s), cache.WithLogger(nil))
}

func TestResultsHaveNames(t *testing.T) {
	want(t, "names", cache.Hit.String()+" "+cache.Miss.String()+" "+cache.Bypass.String(), "hit miss bypass")
}
