package series_test

import (
	"maps"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/internal/series"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSeriesNeverFall(t *testing.T) {
	var c series.Counters[string, string]
	seriesOf := func(source string) string { return strings.TrimRight(source, "12") }
	for i, look := range []struct{ sources, want map[string]uint64 }{
		{map[string]uint64{"a1": 5, "a2": 7, "b": 1}, map[string]uint64{"a": 12, "b": 1}},
		{map[string]uint64{"a1": 6, "b": 1}, map[string]uint64{"a": 13, "b": 1}},          // a2 is gone
		{map[string]uint64{"a1": 2, "a2": 8, "b": 1}, map[string]uint64{"a": 14, "b": 1}}, // a1 has begun anew, a2 is back
		{map[string]uint64{"a1": 4, "a2": 8}, map[string]uint64{"a": 16}},
	} {
		if got := c.Grow(look.sources, seriesOf); !maps.Equal(got, look.want) {
			t.Errorf("look %d: got %v, want %v", i, got, look.want)
		}
	}
}
