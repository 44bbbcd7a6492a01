package catalog_test

import (
	"testing"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// Ids of IPv6 addresses are readable, and no two addresses share one.
func TestInstanceID(t *testing.T) {
	seen := map[string]string{}
	for address, want := range map[string]string{
		"10.0.0.1:8080":          "catalog-10-0-0-1-8080",
		"host.example:1":         "catalog-host-example-1",
		"[::1]:8080":             "catalog-0--1-8080",
		"[::]:8080":              "catalog-0--0-8080",
		"[2001:db8::1]:8080":     "catalog-2001-db8--1-8080",
		"[2001:DB8::2]:8080":     "catalog-2001-db8--2-8080",
		"[2001:db8::]:8080":      "catalog-2001-db8--0-8080",
		"[fe80::1%eth0]:8080":    "catalog-fe80--1-eth0-8080",
		"[::ffff:10.0.0.2]:8080": "catalog-10-0-0-2-8080",
		"[1::2:0:3]:1":           "catalog-1--2-0-3-1",
		"[1:0:2::3]:1":           "catalog-1-0-2--3-1",
		"no-port":                "catalog-no-port",
	} {
		got := catalog.InstanceID("catalog", address)
		if got != want {
			t.Errorf("InstanceID(%q) = %q, want %q", address, got, want)
		}
		if other, taken := seen[got]; taken {
			t.Errorf("%q and %q are both %q", address, other, got)
		}
		seen[got] = address
	}
}

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
