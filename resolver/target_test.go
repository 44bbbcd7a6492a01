package resolver_test

import (
	"testing"

	"github.com/meshlite-go/meshlite/resolver"
)

// A target comes from a configuration: whatever it is, it is read or refused, and
// what is read asks for something.
func FuzzParseTarget(f *testing.F) {
	for _, seed := range []string{
		"consul:///catalog", "consul://127.0.0.1:8500/catalog?tag=a&tag=b&dc=x&policy=round_robin",
		"consul:///catalog?filter=Service.Meta.v+%3D%3D+%222%22&consistency=cached&near=_agent",
		"consul://u:p@[::1]:8500/x", "consul:opaque", "consul:///%zz", "consul:///a?dc=&dc=b", "consul:///a#b",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		target, err := resolver.ParseTarget(text)
		if err == nil && target.Service == "" {
			t.Errorf("%q is read as a target without a service", text)
		}
	})
}
