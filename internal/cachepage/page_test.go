package cachepage_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/internal/cachepage"
)

func TestThePageReportsWhatACacheDoes(t *testing.T) {
	own := newCache(t)
	caches, shop := cachepage.New(own), openShop(t, own)
	for _, id := range []string{"x", "x", "y"} {
		shop.get(t, id)
	}
	c := caches.Page().Caches[0]
	if c.Entries != 2 || c.Hits != 1 || c.Misses != 2 || c.Bytes == 0 || c.MaxBytes == 0 || len(c.Methods) != 1 || len(c.Index) != 2 {
		t.Fatalf("it reports %+v", c)
	}
	if m := c.Methods[0]; m.Method != getSweet || m.Hits != 1 || m.Misses != 2 || m.Entries != 2 || m.LastMinute != (cachepage.Rate{Served: 1, Calls: 3}) {
		t.Errorf("of the method it reports %+v", m)
	}
	if e := c.Index[0]; e.Method != getSweet || e.ID == "" || e.Code != "OK" || e.Bytes == 0 || e.LeftSeconds <= 0 || e.AgeSeconds < 0 {
		t.Errorf("of an answer it reports %+v", e)
	}
}

func TestTheIndexIsBounded(t *testing.T) {
	own := newCache(t)
	caches, shop := cachepage.New(own), openShop(t, own)
	for i := range 60 {
		shop.get(t, fmt.Sprint(i))
	}
	if c := caches.Page().Caches[0]; c.Entries != 60 || len(c.Index) != 50 {
		t.Errorf("of %d answers it lists %d, want 50 of 60", c.Entries, len(c.Index))
	}
}

// Scripts read it: what there is none of is [], not null or left out.
func TestThePageOfACacheWithoutCalls(t *testing.T) {
	const want = `{"caches":[{"name":"runtime","entries":0,"bytes":0,"max_bytes":1048576,` +
		`"hits":0,"misses":0,"coalesced":0,"stale":0,"bypassed":0,"shadow_hits":0,"shadow_stale":0,` +
		`"stored":0,"refreshed":0,"refreshes_failed":0,"ignored_directives":0,` +
		`"evicted":0,"invalidations":0,"store_hits":0,"store_errors":0,"store_losses":0,"methods":[],"index":[]}]}`
	got, err := json.Marshal(cachepage.New(newCache(t, cache.WithMaxBytes(1<<20))).Page())
	if err != nil || string(got) != want {
		t.Errorf("got %s (%v)\nwant %s", got, err, want)
	}
}
