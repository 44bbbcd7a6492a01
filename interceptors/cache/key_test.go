package cache_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/meshlite-go/meshlite/caller"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	inventoryv1 "github.com/meshlite-go/meshlite/proto/sweetshop/inventory/v1"
	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
)

// probe reports whether a call is served from c, without a network.
type probe struct {
	t     testing.TB
	rules *interceptors.Policies
	cache *cache.Cache
}

// newProbe caches every method, public or by the metadata key "user".
func newProbe(t testing.TB, rule *policyv1.CacheRule) *probe {
	t.Helper()
	rule.AllowSideEffects = proto.Bool(true)
	if rule.Ttl == nil {
		rule.Ttl = proto.String("1h")
	}
	rules, err := interceptors.NewPolicies(&policyv1.ServicePolicy{Default: &policyv1.MethodPolicy{Cache: rule}})
	if err != nil {
		t.Fatal(err)
	}
	return &probe{t, rules, newCache(t, callersOf(caller.WithIdentityMetadata("user")))}
}

// hit makes a call and reports whether it was served from the cache.
func (p *probe) hit(ctx context.Context, method string, req proto.Message) bool {
	p.t.Helper()
	called := false
	invoker := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
		called = true
		return nil
	}
	err := p.cache.UnaryClientInterceptor(p.rules)(ctx, method, req, &catalogv1.GetSweetResponse{}, nil, invoker)
	if err != nil {
		p.t.Fatal(err)
	}
	return !called
}

func (p *probe) want(what string, method string, req proto.Message, hit bool) {
	p.t.Helper()
	want(p.t, what+": hit", p.hit(context.Background(), method, req), hit)
}

const (
	getStock    = "/sweetshop.inventory.v1.InventoryService/GetStock"
	listSweets  = "/sweetshop.catalog.v1.CatalogService/ListSweets"
	browse      = "/sweetshop.storefront.v1.StorefrontService/Browse"
	madeUp      = "/sweetshop.toy.v1.ToyService/Anything"
	madeUpOther = "/sweetshop.toy.v1.ToyService/Something"
)

func public() *policyv1.CacheRule {
	return &policyv1.CacheRule{Scope: policyv1.CacheScope_CACHE_SCOPE_PUBLIC}
}

// C5: Requests that differ in repeated-field order, map content or method have different keys; equal maps built in another order the same key.
//
// Case C5: Different requests have different keys.
func TestKeysOfDifferentRequestsDiffer(t *testing.T) {
	p := newProbe(t, public())
	stock := func(ids ...string) proto.Message { return &inventoryv1.GetStockRequest{SweetIds: ids} }
	p.want("first", getStock, stock("fudge", "toffee"), false)
	p.want("same", getStock, stock("fudge", "toffee"), true)
	p.want("another order", getStock, stock("toffee", "fudge"), false)
	p.want("one string that looks like two", getStock, stock("fudgetoffee"), false)
	p.want("empty", getStock, stock(), false)
	p.want("another method", madeUp, stock("fudge", "toffee"), false)
	p.want("yet another method", madeUpOther, stock("fudge", "toffee"), false)

	fields := func(keys ...string) proto.Message {
		s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
		for _, key := range keys {
			s.Fields[key] = structpb.NewStringValue("value of " + key)
		}
		return s
	}
	keys := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	p.want("map", madeUp, fields(keys...), false)
	for range 20 {
		slices.Reverse(keys)
		keys = append(keys[3:], keys[:3]...)
		p.want("equal map", madeUp, fields(keys...), true)
	}
	p.want("map with less", madeUp, fields(keys[1:]...), false)
}

// C6: Requests with unknown fields miss rather than collide.
//
// Case C6: Unknown fields miss.
func TestRequestWithUnknownFieldsIsNeverServed(t *testing.T) {
	unknown := protoreflect.RawFields{0xf8, 0x07, 0x01} // field 127, varint 1
	sweet := func() *catalogv1.Sweet {
		s := &catalogv1.Sweet{Id: "fudge"}
		s.ProtoReflect().SetUnknown(unknown)
		return s
	}
	request := &catalogv1.GetSweetRequest{Id: "fudge"}
	request.ProtoReflect().SetUnknown(unknown)
	value := structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{structpb.NewNullValue()}})
	value.GetListValue().Values[0].ProtoReflect().SetUnknown(unknown)
	for what, req := range map[string]proto.Message{
		"in the request":          request,
		"in a message":            &catalogv1.GetSweetResponse{Sweet: sweet()},
		"in a list":               &catalogv1.ListSweetsResponse{Sweets: []*catalogv1.Sweet{{}, sweet()}},
		"in a map, a list in it":  &structpb.Struct{Fields: map[string]*structpb.Value{"k": value}},
		"in a list of two levels": &storefrontv1.BrowseResponse{Offers: []*storefrontv1.Offer{{Sweet: sweet()}}},
	} {
		t.Run(what, func(t *testing.T) {
			p := newProbe(t, public())
			for range 2 {
				p.want(what, madeUp, req, false)
			}
			want(t, "stats", p.cache.Stats().Counts, cache.Counts{Bypassed: 2})
		})
	}
}

// A rule with key_fields looks at those fields alone, also in a message made
// without generated code.
func TestKeyFieldsMakeUpTheKey(t *testing.T) {
	rule := public()
	rule.Ttl = proto.String("1h")
	rule.KeyFields = []string{"section", "page_token"}
	rules, err := interceptors.NewPolicies(&policyv1.ServicePolicy{
		Methods: map[string]*policyv1.MethodPolicy{"ListSweets": {Cache: rule}},
	})
	if err != nil {
		t.Fatal(err)
	}
	p := &probe{t, rules, newCache(t)}
	p.want("first", listSweets, &catalogv1.ListSweetsRequest{Section: "chewy", PageSize: 10}, false)
	p.want("another page size", listSweets, &catalogv1.ListSweetsRequest{Section: "chewy", PageSize: 20}, true)
	p.want("another section", listSweets, &catalogv1.ListSweetsRequest{Section: "boiled"}, false)
	p.want("another field, same value", listSweets, &catalogv1.ListSweetsRequest{PageToken: "chewy"}, false)
	p.want("neither", listSweets, &catalogv1.ListSweetsRequest{PageSize: 10}, false)
	p.want("neither again", listSweets, &catalogv1.ListSweetsRequest{}, true)

	dynamic := dynamicpb.NewMessage((&catalogv1.ListSweetsRequest{}).ProtoReflect().Descriptor())
	dynamic.Set(dynamic.Descriptor().Fields().ByName("section"), protoreflect.ValueOfString("boiled"))
	p.want("dynamic", listSweets, dynamic, true)
	p.want("a message that has no such field", listSweets, &inventoryv1.ReserveRequest{}, false)
}

// A rule varies by metadata, by each value and by how many there are.
func TestVaryIsPartOfTheKey(t *testing.T) {
	rule := public()
	rule.Vary = []string{"language"}
	p := newProbe(t, rule)
	for _, kv := range [][]string{
		nil, {"language", ""}, {"language", "en"}, {"language", "de"},
		{"language", "en", "language", "de"}, {"language", "de", "language", "en"}, {"language", "ende"},
	} {
		want(t, fmt.Sprint("first with ", kv), p.hit(as(kv...), browse, &storefrontv1.BrowseRequest{}), false)
		want(t, fmt.Sprint("second with ", kv), p.hit(as(kv...), browse, &storefrontv1.BrowseRequest{}), true)
	}
	want(t, "other metadata", p.hit(as("language", "en", "x", "y"), browse, &storefrontv1.BrowseRequest{}), true)
}

// Two calls share an answer only if all that counts is equal, wherever the
// boundary between two parts of the key lies.
func FuzzKey(f *testing.F) {
	f.Add("u", "t", "en", "", "fudge", "u", "t", "en", "", "fudge")
	f.Add("u", "t", "en", "de", "fudge", "ut", "", "ende", "", "fudge")
	f.Add("a\x01", "b", "\x00", "", "f", "a", "\x01b", "", "\x00", "f")
	f.Fuzz(func(t *testing.T, user1, token1, first1, second1, id1, user2, token2, first2, second2, id2 string) {
		one := []string{user1, token1, first1, second1, id1}
		two := []string{user2, token2, first2, second2, id2}
		known := func(parts []string) bool { return parts[0] != "" && utf8.ValidString(parts[4]) }
		rule := private()
		rule.Vary = []string{"vary"}
		p := newProbe(t, rule)
		call := func(parts []string) bool {
			ctx := metadata.NewOutgoingContext(context.Background(), metadata.MD{
				"user": {parts[0]}, "authorization": {parts[1]}, "vary": {parts[2], parts[3]},
			})
			return p.hit(ctx, madeUp, &catalogv1.GetSweetRequest{Id: parts[4]})
		}
		want(t, "first call", call(one), false)
		want(t, "second call", call(two), known(one) && slices.Equal(one, two))
	})
}
