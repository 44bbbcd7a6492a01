package cache_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/meshlite-go/meshlite/interceptors/cache"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// page is what a caller makes of an answer.
type page struct{ text string }

// A value lives exactly as long as its answer: it is found by hits with its key, and by nobody
// after the answer has expired or was invalidated.
func TestDerivedValuesLiveAsTheirAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t)
		shop := &shop{}
		catalog := client(t, shop, c, &policyv1.CacheRule{Ttl: proto.String("1m"), Scope: policyv1.CacheScope_CACHE_SCOPE_PUBLIC})
		size := 0
		ask := func(what, key, wantValue, wantName string, wantReused bool) *cache.Derived {
			t.Helper()
			d := &cache.Derived{Key: key}
			var header metadata.MD
			reply, err := catalog.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "fudge"}, d, grpc.Header(&header))
			if err != nil {
				t.Fatal(err)
			}
			value, name := "", reply.GetSweet().GetName()
			if found, ok := d.Value().(*page); ok {
				value = found.text
				want(t, what+": the size of the reply", proto.Size(reply), size)
				want(t, what+": the header", len(header), 0)
			} else {
				size = proto.Size(reply)
				d.Keep(&page{key + " of " + name}, 100)
			}
			want(t, what+": value", value, wantValue)
			want(t, what+": name", name, wantName)
			want(t, what+": has room", d.Room() > 0, wantReused)
			return d
		}
		ask("a miss", "a", "", "answer 1", false)
		ask("the first hit", "a", "", "answer 1", true)
		time.Sleep(7 * time.Second)
		d := ask("a hit", "a", "a of answer 1", "", true)
		if _, _, age := d.Metadata(); age < 7*time.Second || age >= 8*time.Second {
			t.Errorf("the age is %v, want 7 s", age)
		}
		ask("another key", "b", "", "answer 1", true)
		ask("another key again", "b", "b of answer 1", "", true)
		ask("the key before", "a", "", "answer 1", true)
		if err := c.Invalidate(t.Context(), cache.Method(getSweet)); err != nil {
			t.Fatal(err)
		}
		ask("invalidated", "a", "", "answer 2", false)
		ask("its successor", "a", "", "answer 2", true)
		ask("its successor again", "a", "a of answer 2", "", true)
		time.Sleep(time.Minute)
		ask("expired", "a", "", "answer 3", false)
	})
}

// What asks for the whole answer gets it.
func TestDerivedValuesDoNotReplaceDirectives(t *testing.T) {
	shop := &shop{}
	catalog := client(t, shop, newCache(t), &policyv1.CacheRule{Ttl: proto.String("1m"), Scope: policyv1.CacheScope_CACHE_SCOPE_PUBLIC})
	for range 3 {
		d := &cache.Derived{Key: "a"}
		if ask(t, t.Context(), catalog, "fudge", d); d.Room() > 0 {
			d.Keep(&page{"kept"}, 100)
			break
		}
	}
	for _, directives := range [][]string{{"x-cache", "1"}, {"cache-control", "max-age=60"}, {"cache-control", "no-cache"}} {
		d := &cache.Derived{Key: "a"}
		var header metadata.MD
		ask(t, as(directives...), catalog, "fudge", d, grpc.Header(&header)) // fails without the reply
		if d.Value() != nil {
			t.Errorf("%q: the value is %v, want none", directives, d.Value())
		}
		if directives[0] == "x-cache" && len(header["x-cache"]) != 1 {
			t.Errorf("x-cache is %q, want one result", header["x-cache"])
		}
	}
}

// The memory of a value is that of its entry: a larger one is not kept, and neither is one of an
// entry that was stored by a call without the option.
func TestDerivedValuesTakeNoMoreThanWasReserved(t *testing.T) {
	for what, test := range map[string]struct {
		size int
		by   []grpc.CallOption // of the call that stores
		kept bool
	}{
		"small":   {512, []grpc.CallOption{&cache.Derived{}}, true},
		"large":   {1 << 20, []grpc.CallOption{&cache.Derived{}}, false},
		"unasked": {1, nil, false},
	} {
		c := newCache(t)
		catalog := client(t, &shop{}, c, &policyv1.CacheRule{Ttl: proto.String("1m"), Scope: policyv1.CacheScope_CACHE_SCOPE_PUBLIC})
		ask(t, t.Context(), catalog, "fudge", test.by...)
		bytes := c.Stats().Bytes
		first, second := &cache.Derived{Key: 1}, &cache.Derived{Key: 1}
		ask(t, t.Context(), catalog, "fudge", first)
		first.Keep(&page{strings.Repeat("x", test.size)}, test.size)
		if _, err := catalog.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "fudge"}, second); err != nil {
			t.Fatal(err)
		}
		want(t, what+": kept", second.Value() != nil, test.kept)
		want(t, what+": bytes", c.Stats().Bytes, bytes)
	}
}

// Where the entry is of another message type, the reply is not the cached answer, and nothing
// that is made of it is kept beside the entry.
func TestDerivedValuesAreOfTheirAnswersAlone(t *testing.T) {
	rule := &policyv1.CacheRule{Ttl: proto.String("1m"), Scope: policyv1.CacheScope_CACHE_SCOPE_PUBLIC}
	intercept := newCache(t).UnaryClientInterceptor(policies(t, rule))
	server := func(_ context.Context, _ string, _, reply any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
		if reply, ok := reply.(*catalogv1.GetSweetResponse); ok {
			reply.Sweet = &catalogv1.Sweet{Id: "fudge", Name: "a name"} // no value of a Struct
		}
		return nil
	}
	for what, test := range map[string]struct {
		reply  proto.Message
		reused bool
	}{"the answer": {&catalogv1.GetSweetResponse{}, true}, "another type": {&structpb.Struct{}, false}} {
		var d *cache.Derived
		for range 2 {
			d = &cache.Derived{Key: what}
			if err := intercept(t.Context(), getSweet, &catalogv1.GetSweetRequest{Id: "fudge"}, &catalogv1.GetSweetResponse{}, nil, server, &cache.Derived{}); err != nil {
				t.Fatal(err)
			}
			if err := intercept(t.Context(), getSweet, &catalogv1.GetSweetRequest{Id: "fudge"}, test.reply, nil, server, d); err != nil {
				t.Fatal(err)
			}
		}
		want(t, what+": has room", d.Room() > 0, test.reused)
	}
}
