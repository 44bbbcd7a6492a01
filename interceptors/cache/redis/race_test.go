package redis_test

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/interceptors/cache/redis"
	"github.com/meshlite-go/meshlite/internal/redistest"
)

// C12 and more, as a law: what is loaded after an invalidation has returned is no older
// than that. Readers and writers are of different processes, and many at once.
//
// Case C12
func TestNothingOlderThanAnInvalidationIsFound(t *testing.T) {
	redistest.Each(t, func(t *testing.T, url string) {
		stores := []*redis.Redis{connected(t, url), connected(t, url), connected(t, url)}
		const rounds = 100
		var truth, told atomic.Int64
		var old, hits atomic.Int64
		done := make(chan struct{})
		var readers sync.WaitGroup
		for n := range 6 {
			readers.Go(func() {
				r := stores[n%len(stores)]
				for {
					select {
					case <-done:
						return
					default:
					}
					least := told.Load()
					found, ticket := load(t, r, "key", sweet...)
					if found == "" {
						now := strconv.FormatInt(truth.Load(), 10)
						if n%2 == 0 {
							time.Sleep(time.Millisecond) // a slow load, overtaken by others
						}
						save(t, r, ticket, now)
						continue
					}
					hits.Add(1)
					if version, _ := strconv.ParseInt(found, 10, 64); version < least {
						old.Add(1)
					}
				}
			})
		}
		for i := range rounds {
			now := truth.Add(1)
			invalidate(t, stores[i%len(stores)], sweet[i%len(sweet)])
			told.Store(now)
			time.Sleep(2 * time.Millisecond)
		}
		close(done)
		readers.Wait()
		want(t, "values older than an invalidation before", old.Load(), 0)
		if hits.Load() < rounds {
			t.Errorf("%d hits, too few to say anything", hits.Load())
		}
	})
}

// A message is received as it was sent, or as everything.
func FuzzMessage(f *testing.F) {
	for _, text := range []string{"", "all\x00tag sweet:fudge", "\xff", "tag <&>\u2028é", `["x"]`, "null"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		redis.Decode(text)
		said := strings.Split(text, "\x00")
		if got := redis.Decode(redis.Encode(said)); got != nil && !slices.Equal(got, said) {
			t.Errorf("%q was received as %q", said, got)
		}
	})
}
