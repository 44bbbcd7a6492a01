package redis_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/meshlite-go/meshlite/interceptors/cache/redis"
	"github.com/meshlite-go/meshlite/internal/redistest"
)

var sweet = []string{"all", "method /shop/GetSweet", "tag sweet:fudge", "request /shop/GetSweet abc"}

func TestAValueIsFoundByAllUntilASubjectIsInvalidated(t *testing.T) {
	redistest.Each(t, func(t *testing.T, url string) {
		one, other := connected(t, url), connected(t, url)
		for i, subject := range sweet {
			key := fmt.Sprint("key ", i, "\x00\xff")
			keep(t, one, key, "fudge", sweet...)
			for _, r := range []*redis.Redis{one, other} {
				value, _ := load(t, r, key, sweet...)
				want(t, "value before "+subject, value, "fudge")
			}
			invalidate(t, other, subject)
			for _, r := range []*redis.Redis{one, other} {
				value, _ := load(t, r, key, sweet...)
				want(t, "value after "+subject, value, "")
			}
			keep(t, other, key, "more fudge", sweet...)
			value, _ := load(t, one, key, sweet...)
			want(t, "value that was saved again", value, "more fudge")
		}
		want(t, "hits", one.Stats().Hits, uint64(2*len(sweet)))
		want(t, "errors", one.Stats().Errors+other.Stats().Errors, 0)
	})
}

func TestOtherSubjectsKeepTheirValues(t *testing.T) {
	r := connected(t, "redis://"+miniredis.RunT(t).Addr())
	keep(t, r, "key", "fudge", sweet...)
	invalidate(t, r, "tag sweet:toffee", "method /shop/ListSweets", "request /shop/GetSweet abd")
	value, _ := load(t, r, "key", sweet...)
	want(t, "value", value, "fudge")
	value, _ = load(t, r, "key", sweet[:2]...)
	want(t, "value with other subjects", value, "")
	value, _ = load(t, r, "yek", sweet...)
	want(t, "value of another key", value, "")
}

// C12, between processes.
//
// Case C12
func TestAnInvalidationDuringALoadWinsOverThatLoad(t *testing.T) {
	redistest.Each(t, func(t *testing.T, url string) {
		one, other := connected(t, url), connected(t, url)
		for _, warm := range []bool{false, true} {
			_, ticket := load(t, one, "key", sweet...)
			invalidate(t, other, sweet[2])
			save(t, one, ticket, "from before")
			for _, r := range []*redis.Redis{one, other} {
				value, _ := load(t, r, "key", sweet...)
				want(t, fmt.Sprintf("value after the invalidation, warm: %v", warm), value, "")
			}
		}
	})
}

// Two loads of which the one that began before the invalidation is saved last.
func TestASaveFromBeforeAnInvalidationDoesNotServe(t *testing.T) {
	r := connected(t, "redis://"+miniredis.RunT(t).Addr())
	_, before := load(t, r, "key", sweet...)
	invalidate(t, r, sweet[0])
	_, after := load(t, r, "key", sweet...)
	save(t, r, after, "new")
	save(t, r, before, "old")
	if value, _ := load(t, r, "key", sweet...); value == "old" {
		t.Error("a value from before the invalidation was found")
	}
}

func TestAValueEndsWithItsTTL(t *testing.T) {
	mini := miniredis.RunT(t)
	r := connected(t, "redis://"+mini.Addr())
	_, ticket := load(t, r, "key", sweet...)
	for _, ttl := range []time.Duration{0, -time.Second, time.Microsecond} {
		if err := r.Save(t.Context(), ticket, []byte("fudge"), ttl); err != nil {
			t.Fatal(err)
		}
		value, _ := load(t, r, "key", sweet...)
		want(t, fmt.Sprint("value with a ttl of ", ttl), value, "")
	}
	save(t, r, ticket, "fudge")
	mini.FastForward(59 * time.Second)
	value, _ := load(t, r, "key", sweet...)
	want(t, "value within its ttl", value, "fudge")
	_, left, _, err := r.Load(t.Context(), "key", sweet)
	want(t, "error", err, nil)
	want(t, "left of its ttl", left, time.Second)
	mini.FastForward(2 * time.Second)
	value, _ = load(t, r, "key", sweet...)
	want(t, "value after its ttl", value, "")
}

// Whatever is lost of Redis, what was invalid stays so.
func TestLostGenerationsBringNothingBack(t *testing.T) {
	s := redistest.Start(t)
	lose := map[string]func(){
		"FLUSHALL": func() { s.Do("FLUSHALL") },
		"eviction of the generations": func() {
			for _, key := range s.Keys("meshlite:cache:g:") {
				s.Do("DEL", key)
			}
		},
		"eviction of one": func() { s.Do("DEL", s.Keys("meshlite:cache:g:")[0]) },
	}
	for what, lose := range lose {
		r := connected(t, s.URL())
		_, before := load(t, r, what, sweet...)
		save(t, r, before, "fudge")
		lose()
		value, after := load(t, r, what, sweet...)
		want(t, "value after "+what, value, "")
		save(t, r, before, "from before")
		value, _ = load(t, r, what, sweet...)
		want(t, "value that was loaded before "+what, value, "")
		save(t, r, after, "toffee")
		value, _ = load(t, r, what, sweet...)
		want(t, "value that was loaded after "+what, value, "toffee")
	}
}

func TestEveryKeyExpires(t *testing.T) {
	s := redistest.Start(t)
	r := connected(t, s.URL(), redis.WithPrefix("mine:"))
	keep(t, r, "key", "fudge", sweet...)
	invalidate(t, r, "tag never loaded")
	keys := s.Keys("")
	want(t, "keys", len(keys), 1+1+len(sweet)+1)
	for _, key := range keys {
		message := s.Do("TTL", key)
		ttl, _ := message.ToInt64()
		if !strings.HasPrefix(key, "mine:") || ttl <= 0 {
			t.Errorf("key %s has a ttl of %d", key, ttl)
		}
	}
}

func TestGenerationsAreBounded(t *testing.T) {
	mini := miniredis.RunT(t)
	r := connected(t, "redis://"+mini.Addr())
	const slots = 1 << 14
	for from := 0; from < 4*slots; from += 1024 {
		subjects := make([]string, 1024)
		for i := range subjects {
			subjects[i] = fmt.Sprint("request ", from+i)
		}
		invalidate(t, r, subjects...)
	}
	if n := len(mini.Keys()); n > slots || n < slots*9/10 {
		t.Errorf("65,536 subjects have %d generations, want about %d", n, slots)
	}
}

func TestKindsOfSubjectsDoNotCollide(t *testing.T) {
	kinds := map[uint32]string{}
	for _, subject := range sweet {
		region := redis.SlotOf(subject) >> 14
		if other := kinds[region]; other != "" {
			t.Errorf("%q and %q share a region", subject, other)
		}
		kinds[region] = subject
	}
}

func TestTooLargeAValueIsNeitherSavedNorLoaded(t *testing.T) {
	url := "redis://" + miniredis.RunT(t).Addr()
	large, small := connected(t, url), connected(t, url, redis.WithMaxValueBytes(2048))
	for size, found := range map[int]bool{2048: true, 2049: false} {
		key, value := fmt.Sprint(size), strings.Repeat("x", size)
		keep(t, large, key, value, "all")
		got, ticket := load(t, small, key, "all")
		want(t, fmt.Sprintf("found %d bytes", size), got == value, found)
		err := small.Save(t.Context(), ticket, []byte(value), time.Minute)
		want(t, fmt.Sprintf("saved %d bytes", size), err == nil, found)
		if !found && !strings.Contains(err.Error(), "WithMaxValueBytes") {
			t.Errorf("error is %v, want one that says what to raise", err)
		}
	}
}

// C17: whatever else lies there is a miss.
//
// Case C17
func TestACorruptValueIsAMiss(t *testing.T) {
	mini := miniredis.RunT(t)
	r := connected(t, "redis://"+mini.Addr())
	keep(t, r, "key", "fudge", sweet...)
	at := slices.IndexFunc(mini.Keys(), func(key string) bool { return strings.Contains(key, ":v:") })
	key := mini.Keys()[at]
	whole, _ := mini.Get(key)
	for _, text := range []string{"", "x", whole[:31], whole[:16] + "x" + whole[17:], strings.Repeat("\x00", 64)} {
		_ = mini.Set(key, text)
		value, _ := load(t, r, "key", sweet...)
		want(t, fmt.Sprintf("value of %q", text), value, "")
	}
	_ = mini.Set(key, whole)
	value, _ := load(t, r, "key", sweet...)
	want(t, "whole value", value, "fudge")
	mini.Del(key)
	_, _ = mini.Lpush(key, "a list")
	if value, _, _, err := r.Load(t.Context(), "key", sweet); value != nil || err == nil {
		t.Errorf("a list was loaded as %q, %v", value, err)
	}
}

func TestAnEmptyValueIsAValue(t *testing.T) {
	r := connected(t, "redis://"+miniredis.RunT(t).Addr())
	keep(t, r, "key", "", "all")
	value, _, _, err := r.Load(t.Context(), "key", []string{"all"})
	if value == nil || err != nil {
		t.Errorf("an empty value was loaded as %v, %v", value, err)
	}
}

func TestForgedTicketsAreErrors(t *testing.T) {
	r := connected(t, "redis://"+miniredis.RunT(t).Addr())
	_, ticket := load(t, r, "key", sweet...)
	for n := range 40 {
		if err := r.Save(t.Context(), ticket[:n], []byte("x"), time.Minute); err == nil {
			t.Errorf("the first %d bytes of a ticket were taken for one", n)
		}
	}
	if err := r.Save(t.Context(), strings.Repeat("\xff", 64), []byte("x"), time.Minute); err == nil {
		t.Error("junk was taken for a ticket")
	}
}

func FuzzTicket(f *testing.F) {
	r := newStore(f, "redis://127.0.0.1:1")
	f.Add("")
	f.Add(strings.Repeat("\x00", 40))
	f.Fuzz(func(t *testing.T, ticket string) {
		_ = r.Save(t.Context(), ticket, nil, time.Minute) // it is away: this must only not panic
	})
}

func BenchmarkLoadHit(b *testing.B) {
	s := redistest.Start(b)
	for _, size := range []int{100, 10_000} {
		b.Run(fmt.Sprint(size, "B"), func(b *testing.B) {
			r := connected(b, s.URL())
			key := fmt.Sprint("key", size)
			keep(b, r, key, strings.Repeat("x", size), sweet...)
			b.Run("alone", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					load(b, r, key, sweet...)
				}
			})
			b.Run("parallel", func(b *testing.B) {
				b.SetParallelism(32)
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						load(b, r, key, sweet...)
					}
				})
			})
			want(b, "misses", r.Stats().Loads-r.Stats().Hits, 1)
		})
	}
}

func BenchmarkAway(b *testing.B) {
	r := newStore(b, "redis://127.0.0.1:1", redis.WithBackoff(time.Hour, time.Hour))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, _, err := r.Load(b.Context(), "key", sweet); err == nil {
			b.Fatal("loaded from nowhere")
		}
	}
}
