package cache

import (
	"context"
	"strings"

	"google.golang.org/grpc/metadata"
)

// Unchanged tells the caller the etag of the answer that a handler is about to give, such
// as `"v7"`, and reports whether the caller has that answer already: then the handler
// returns an empty one, and need not make it. A cache on the client asks so once its
// answer is too old. On a server whose cache keeps the method, the cache does it.
//
// Once the header has been sent nothing can be told any more, and it is false.
func Unchanged(ctx context.Context, etag string) bool {
	_ = setHeader(ctx, "etag", etag)
	return matches(metadata.ValueFromIncomingContext(ctx, ifNoneMatch), etag) && setHeader(ctx, notModified, etag) == nil
}

// matches reports whether one of the etags in if-none-match is etag, whether it is weak
// or not (RFC 9110, 13.1.2). The * that any answer matches is none.
func matches(values []string, etag string) bool {
	etag = strings.TrimPrefix(etag, "W/")
	for _, value := range values {
		for value != "" {
			value = strings.TrimPrefix(strings.TrimLeft(value, ", \t"), "W/")
			one := value
			if quoted := strings.HasPrefix(value, `"`); quoted {
				if end := strings.IndexByte(value[1:], '"'); end >= 0 {
					one = value[:end+2]
				}
			} else if end := strings.IndexByte(value, ','); end >= 0 {
				one = value[:end]
			}
			value = value[len(one):]
			if one != "" && one == etag {
				return true
			}
		}
	}
	return false
}

// unwished takes from md what a caller wishes for itself, and reports whether there was any.
func unwished(md metadata.MD) bool {
	before := len(md)
	for _, key := range []string{"cache-control", ifNoneMatch, xCache} {
		md.Delete(key)
	}
	return len(md) < before
}

// unconditional is ctx without the caller's if-none-match, which the cache answers.
func unconditional(ctx context.Context) context.Context {
	if len(metadata.ValueFromIncomingContext(ctx, ifNoneMatch)) == 0 {
		return ctx
	}
	md, _ := metadata.FromIncomingContext(ctx)
	md.Delete(ifNoneMatch)
	return metadata.NewIncomingContext(ctx, md)
}
