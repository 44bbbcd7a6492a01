package series_test

import (
	"maps"
	"testing"

	"github.com/meshlite-go/meshlite/internal/series"
)

func TestSmallServicesKeepAllAndLargeOnesShareTheRest(t *testing.T) {
	for _, test := range []struct {
		sizes, want map[string]int
	}{
		{map[string]int{}, map[string]int{}},
		{map[string]int{"a": 4, "b": 6}, map[string]int{"a": 4, "b": 6}},
		{map[string]int{"a": 5000, "b": 2, "c": 9}, map[string]int{"a": 4, "b": 2, "c": 4}},
		{map[string]int{"c": 90, "a": 90, "b": 90}, map[string]int{"a": 3, "b": 3, "c": 4}},
	} {
		if got := series.Shares(10, test.sizes); !maps.Equal(got, test.want) {
			t.Errorf("of %v the shares are %v, want %v", test.sizes, got, test.want)
		}
	}
}
