package cache_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors/cache"
	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// A client asks for an answer with an etag only whether it has changed, and a server that
// has it says so without sending it.
func TestOldAnswersAreOnlyAskedAbout(t *testing.T) {
	version := "v1"
	answer := func(_ context.Context, e *exchange) error {
		e.header.Set("made-by", fmt.Sprint(e.number))
		e.unchanged(`"` + version + `"`)
		return nil
	}
	both(t, anybody, answer, func(t *testing.T, call callFunc, b *backend, c *cache.Cache) {
		onServer := t.Name() == "TestOldAnswersAreOnlyAskedAbout/server"
		version = "v1"
		call(t.Context(), "fudge").is(t, "at first", "answer 1", "etag", `["v1"]`, "made-by", "[1]")
		time.Sleep(time.Minute)
		unchanged := "answer 1"
		if onServer {
			unchanged = "answer 2" // its own handler is not asked so
		}
		call(t.Context(), "fudge").is(t, "unchanged", unchanged)
		time.Sleep(30 * time.Second)
		call(t.Context(), "fudge").is(t, "still fresh", unchanged, "etag", `["v1"]`, "made-by", "[2]")
		time.Sleep(time.Minute)
		version = "v2"
		call(t.Context(), "fudge").is(t, "changed", "answer 3", "etag", `["v2"]`)
		call(t.Context(), "fudge").is(t, "and kept", "answer 3", "etag", `["v2"]`, "not-modified", "[]")
		want(t, "calls", b.count(), 3)
	})
}

// A server's cache gives each answer an etag, and one message to who has it already.
func TestAServerConfirmsWhatHasNotChanged(t *testing.T) {
	both(t, anybody, nil, func(t *testing.T, call callFunc, b *backend, c *cache.Cache) {
		if t.Name() != "TestAServerConfirmsWhatHasNotChanged/server" {
			return
		}
		first := call(t.Context(), "fudge")
		etag := first.header.Get("etag")
		first.is(t, "at first", "answer 1", "not-modified", "[]")
		if len(etag) != 1 {
			t.Fatalf("etags %q", etag)
		}
		call(t.Context(), "fudge", "if-none-match", `"other"`).is(t, "another etag", "answer 1", "etag", fmt.Sprint(etag))
		call(t.Context(), "fudge", "if-none-match", `"other", W/`+etag[0]).is(t, "a hit", "", "not-modified", fmt.Sprint(etag))
		time.Sleep(time.Minute)
		call(t.Context(), "fudge", "if-none-match", etag[0]).is(t, "another answer", "answer 2", "not-modified", "[]")
		time.Sleep(time.Minute)
		b.answer = func(_ context.Context, e *exchange) error { e.number = 2; return nil }
		second := call(t.Context(), "fudge")
		time.Sleep(time.Minute)
		call(t.Context(), "fudge", "if-none-match", second.header.Get("etag")[0]).is(t, "the same answer, made anew", "")
	})
}

// Both caches together, over gRPC: what has not changed is not sent again.
func TestClientAndServerSpeakOfEtags(t *testing.T) {
	shop := &shop{}
	far, near := newCache(t), newCache(t)
	var bytes int
	counting := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		err := invoker(ctx, method, req, reply, cc, opts...)
		bytes = proto.Size(reply.(proto.Message))
		return err
	}
	sweets := dial(t, shop,
		[]grpc.ServerOption{grpc.UnaryInterceptor(far.UnaryServerInterceptor(policies(t, onServer(public()))))},
		[]grpc.DialOption{grpc.WithChainUnaryInterceptor(near.UnaryClientInterceptor(policies(t, public())), counting)})
	want(t, "at first", ask(t, t.Context(), sweets, "fudge"), "answer 1")
	if bytes == 0 {
		t.Error("nothing was sent")
	}
	// The client wants to be sure, and the server has it.
	again := metadata.AppendToOutgoingContext(t.Context(), "cache-control", "no-cache", "x-cache", "?")
	var header metadata.MD
	want(t, "again", ask(t, again, sweets, "fudge", grpc.Header(&header)), "answer 1")
	want(t, "bytes of the message", bytes, 0)
	want(t, "x-cache", fmt.Sprint(header.Get("x-cache")), "[hit miss]")
	want(t, "calls", shop.calls.Load(), 1)
}

// A handler without a cache sends it, too.
func TestUnchanged(t *testing.T) {
	for asked, unchanged := range map[string]bool{
		"": false, `"v7"`: true, `W/"v7"`: true, `"v6", "v7"`: true, `"v77"`: false, "v7": false, "*": false,
		`"v6","v`: false, `, ,"a,\"v7"`: false, `"a, ", "v7"`: true,
	} {
		wire := &wire{}
		ctx := grpc.NewContextWithServerTransportStream(metadata.NewIncomingContext(t.Context(), metadata.Pairs("if-none-match", asked)), wire)
		want(t, asked, cache.Unchanged(ctx, `"v7"`), unchanged)
		want(t, asked+": etag", fmt.Sprint(wire.header.Get("etag")), `["v7"]`)
		want(t, asked+": not-modified", len(wire.header.Get("not-modified")) == 1, unchanged)
	}
}

// Somebody who asks by hand is answered by hand, and an empty answer is never kept.
func TestAnEmptyAnswerIsNotKept(t *testing.T) {
	answer := func(_ context.Context, e *exchange) error {
		if len(e.asked.Get("if-none-match")) > 0 {
			e.header.Set("not-modified", `"v1"`)
			e.empty = true
		}
		return nil
	}
	both(t, anybody, answer, func(t *testing.T, call callFunc, _ *backend, _ *cache.Cache) {
		call(t.Context(), "fudge", "if-none-match", `"v1"`)
		if got := call(t.Context(), "fudge"); got.name == "" {
			t.Error("an empty answer was kept")
		}
	})
}

// An answer that still holds has the header that it came with, beside what is said anew.
//
// Case C11
func TestAnAnswerThatIsAskedAboutKeepsItsHeader(t *testing.T) {
	answer := func(_ context.Context, e *exchange) error {
		if !e.unchanged(`"v7"`) {
			e.header.Set("next-page", "token")
		}
		return nil
	}
	on(t, clientOf, anybody, answer, func(t *testing.T, call callFunc, _ *backend, _ *cache.Cache) {
		call(t.Context(), "fudge").is(t, "first", "answer 1", "next-page", "[token]")
		time.Sleep(time.Minute)
		for _, what := range []string{"asked about", "and kept"} {
			call(t.Context(), "fudge").is(t, what, "answer 1", "next-page", "[token]", "etag", `["v7"]`, "not-modified", "[]")
		}
	})
}

// Nobody is given the empty answer to a question of the cache: an etag may come back weak,
// and if it is another one the answer is fetched.
func TestTheEmptyAnswerToTheCacheIsGivenToNobody(t *testing.T) {
	for etag, name := range map[string]string{`"v7"`: "answer 1", `W/"v7"`: "answer 1", `"v8"`: "answer 3"} {
		answer := func(_ context.Context, e *exchange) error {
			e.header.Set("etag", `"v7"`)
			if e.empty = len(e.asked.Get("if-none-match")) > 0; e.empty {
				e.header.Set("etag", etag)
				e.header.Set("not-modified", etag)
			}
			return nil
		}
		on(t, clientOf, anybody, answer, func(t *testing.T, call callFunc, _ *backend, _ *cache.Cache) {
			call(t.Context(), "fudge").is(t, "first", "answer 1")
			time.Sleep(time.Minute)
			call(t.Context(), "fudge").is(t, "not modified: "+etag, name)
			call(t.Context(), "fudge").is(t, "and kept", name)
		})
	}
}

// All that wait for an answer which varies, and is asked about each time, are served by one
// question.
func TestAVaryingAnswerIsAskedAboutOnceForAll(t *testing.T) {
	answer := func(ctx context.Context, e *exchange) error {
		e.unchanged(`"v7"`)
		e.header.Set("vary", "accept-language")
		e.header.Set("cache-control", "no-cache")
		return after(time.Second, nil)(ctx, e.number)
	}
	both(t, anybody, answer, func(t *testing.T, call callFunc, b *backend, _ *cache.Cache) {
		call(t.Context(), "fudge", "accept-language", "en")
		start := time.Now()
		var work sync.WaitGroup
		for range 10 {
			work.Go(func() {
				if got := call(t.Context(), "fudge", "accept-language", "en"); got.name == "" {
					t.Errorf("%+v", got)
				}
			})
		}
		work.Wait()
		want(t, "waited", time.Since(start), time.Second)
		want(t, "calls", b.count(), 2)
	})
}

// An answer that still holds may vary by more than before.
func TestAnUnchangedAnswerMayVaryByMore(t *testing.T) {
	answer := func(_ context.Context, e *exchange) error {
		e.unchanged(`"v7"`)
		if e.number > 1 {
			e.header.Set("vary", "x-tenant")
		}
		return nil
	}
	both(t, anybody, answer, func(t *testing.T, call callFunc, b *backend, _ *cache.Cache) {
		call(t.Context(), "fudge", "x-tenant", "a")
		time.Sleep(time.Minute)
		call(t.Context(), "fudge", "x-tenant", "a")
		call(t.Context(), "fudge", "x-tenant", "b").is(t, "another tenant", "answer 3")
		call(t.Context(), "fudge", "x-tenant", "b").is(t, "and kept", "answer 3")
	})
}

// Once the header is sent, not-modified cannot be: the answer is sent.
//
// Case C11
func TestTheAnswerIsSentOnceItsHeaderIs(t *testing.T) {
	shop := &shop{answer: func(ctx context.Context, _ *catalogv1.GetSweetRequest) error {
		err := grpc.SendHeader(ctx, metadata.Pairs("early", "yes"))
		want(t, "unchanged", cache.Unchanged(ctx, `"v1"`), false)
		return err
	}}
	ask(t, as("if-none-match", `"v1"`), dial(t, shop, nil, nil), "toffee")
	c := newCache(t)
	sweets := server(t, shop, c, anybody())
	var header metadata.MD
	ask(t, t.Context(), sweets, "fudge")
	ask(t, t.Context(), sweets, "fudge", grpc.Header(&header)) // a hit, which sends an etag
	if err := c.Invalidate(t.Context(), cache.Everything()); err != nil {
		t.Fatal(err)
	}
	before := shop.calls.Swap(1) // the same answer again
	want(t, "calls", before, 2)
	etag := strings.Join(header.Get("etag"), "")
	want(t, "with the etag "+etag, ask(t, as("if-none-match", etag), sweets, "fudge"), "answer 2")
}

// What is unchanged and may no longer be kept, is for who has asked about it, and for nobody
// who waits.
func TestAnUnchangedAnswerThatIsPrivateNowIsNotShared(t *testing.T) {
	answer := func(ctx context.Context, e *exchange) error {
		e.header.Set("etag", `"v1"`)
		if e.number == 1 {
			return nil
		}
		e.header.Set("cache-control", "private")
		if len(e.asked.Get("if-none-match")) > 0 {
			e.unchanged(`"v1"`)
		}
		return after(time.Second, nil)(ctx, e.number)
	}
	on(t, clientOf, anybody, answer, func(t *testing.T, call callFunc, b *backend, c *cache.Cache) {
		call(t.Context(), "fudge").is(t, "at first", "answer 1")
		time.Sleep(time.Minute)
		done := make(chan said)
		for range 2 {
			go func() { done <- call(t.Context(), "fudge") }()
		}
		for range 2 {
			if got := <-done; got.err != nil || got.name == "" {
				t.Errorf("%q, %v", got.name, got.err)
			}
		}
		want(t, "calls", b.count(), 3)
		want(t, "coalesced", c.Stats().Coalesced, 0)
		want(t, "kept", c.Stats().Entries, 0)
	})
}
