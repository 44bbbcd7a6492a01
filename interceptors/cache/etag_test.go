package cache_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite/interceptors/cache"
)

// A client asks for an answer with an etag only whether it has changed, and a server that
// has it says so without sending it.
func TestOldAnswersAreOnlyAskedAbout(t *testing.T) {
	version := "v1"
	answer := func(_ context.Context, e *exchange) error {
		e.header.Set("etag", `"`+version+`"`)
		e.header.Set("made-by", fmt.Sprint(e.number))
		if fmt.Sprint(e.asked.Get("if-none-match")) == `["`+version+`"]` {
			e.header.Set("not-modified", `"`+version+`"`)
			e.empty = true
		}
		return nil
	}
	both(t, anybody, answer, func(t *testing.T, call caller, b *backend, c *cache.Cache) {
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
func TestAServerTellsWhatHasNotChanged(t *testing.T) {
	both(t, anybody, nil, func(t *testing.T, call caller, b *backend, c *cache.Cache) {
		if t.Name() != "TestAServerTellsWhatHasNotChanged/server" {
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

// A handler without a cache tells it, too.
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
	both(t, anybody, answer, func(t *testing.T, call caller, _ *backend, _ *cache.Cache) {
		call(t.Context(), "fudge", "if-none-match", `"v1"`)
		if got := call(t.Context(), "fudge"); got.name == "" {
			t.Error("an empty answer was kept")
		}
	})
}
