package catalog_test

import (
	"testing"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

func TestNamesThatAPathKeeps(t *testing.T) {
	for name, ok := range map[string]bool{
		"": true, "catalog": true, "a/b": true, "a b": true, "a..b": true, "...": true, "é": true, "%2F": true,
		"/a": false, "a/": false, "a//b": false, ".": false, "..": false, "a/../b": false, "a/./b": false, "a\n": false, "\x7f": false, "\xff": false, "\u202e": false,
	} {
		if err := catalog.CheckName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
	if err := catalog.CheckPrintable("/a//.."); err != nil {
		t.Errorf("a text is no path: %v", err)
	}
}
