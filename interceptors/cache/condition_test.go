package cache_test

import (
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite/interceptors/cache"
)

// An etag without quotes ends at the comma: it hides none of those that follow.
func TestEtagsWithoutQuotesAreReadOneByOne(t *testing.T) {
	for _, test := range []struct {
		asked, etag string
		unchanged   bool
	}{
		{"v6, v7", "v7", true},
		{"v7, v6", "v7", true},
		{"v6,W/v7", "v7", true},
		{`v6, "v7"`, `"v7"`, true},
		{`"v6", v7`, "v7", true},
		{"v6, v77", "v7", false},
		{"v6 v7", "v7", false},
	} {
		ctx := grpc.NewContextWithServerTransportStream(
			metadata.NewIncomingContext(t.Context(), metadata.Pairs("if-none-match", test.asked)), &wire{})
		want(t, test.asked, cache.Unchanged(ctx, test.etag), test.unchanged)
	}
}
