package demo

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/internal/screen"
)

func TestTable(t *testing.T) {
	var out strings.Builder
	if err := goodResult().WriteTable(&out); err != nil {
		t.Fatal(err)
	}
	golden(t, "good.txt", out.String())
}

func TestTableOfABrokenResult(t *testing.T) {
	r := goodResult()
	r.Failed, r.late, r.trouble = 2, 7, "level=WARN msg=\"discovery fails\""
	r.reasons = map[string]uint64{"Unavailable in phase faults: connection refused": 2}
	var out strings.Builder
	if err := r.WriteTable(&out); err != nil {
		t.Fatal(err)
	}
	golden(t, "broken.txt", out.String())
}

func TestJSON(t *testing.T) {
	var out bytes.Buffer
	if err := goodResult().WriteJSON(&out); err != nil {
		t.Fatal(err)
	}
	golden(t, "good.json", out.String())
	var fields map[string]any
	if err := json.Unmarshal(out.Bytes(), &fields); err != nil {
		t.Fatal(err)
	}
	want := []string{"abuser", "cache", "calls", "failed", "gateway_calls", "joined_ms", "p50_ms", "p99_ms", "phases", "refused", "registry", "services"}
	if got := slices.Sorted(maps.Keys(fields)); !slices.Equal(got, want) {
		t.Errorf("the fields are %v, want %v", got, want)
	}
}

func someScene() scene {
	return scene{
		phase: doubled, since: 9 * time.Second, length: 20 * time.Second, rate: 480.2,
		p50: 6100 * time.Microsecond, p99: 19 * time.Millisecond, calls: 3000, refused: 1200, cache: Cache{90, 10},
		actors: []actor{
			{"catalog-1", "catalog", "killed", 100, 0}, {"catalog-2", "catalog", "", 120, 0.48}, {"catalog-3", "catalog", "", 60, 0.52},
			{"storefront-1", "storefront", "", 4200, 1},
		},
	}
}

func TestPlainView(t *testing.T) {
	var out bytes.Buffer
	v := newView(&out)
	v.event("catalog-3 has joined")
	v.show(someScene())
	v.close()
	golden(t, "plain.txt", out.String())
}

func TestLiveView(t *testing.T) {
	var out bytes.Buffer
	v := &liveView{screen.New(&out, func() (int, int) { return 80, 24 })}
	v.show(someScene())
	v.event("catalog-1 is killed")
	v.show(someScene())
	v.close()
	v.show(someScene()) // what comes late is not drawn
	golden(t, "live.txt", out.String())
}
