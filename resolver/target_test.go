package resolver_test

import (
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// A target comes from a configuration: whatever it is, it is read or refused, and
// what is read asks for something.
func FuzzParseTarget(f *testing.F) {
	for _, seed := range []string{
		"consul:///catalog", "consul://127.0.0.1:8500/catalog?tag=a&tag=b&dc=x&policy=round_robin",
		"consul:///catalog?filter=Service.Meta.v+%3D%3D+%222%22&consistency=cached&near=_agent",
		"consul://u:p@[::1]:8500/x", "consul:opaque", "consul:///%zz", "consul:///a?dc=&dc=b", "consul:///a#b",
		"consul:///..", "consul:///a%0ab", "consul:///%ff", "consul:///a?tag=%1b[2J",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		target, err := resolver.ParseTarget(text)
		if err == nil && target.Service == "" {
			t.Errorf("%q is read as a target without a service", text)
		}
		if err == nil && catalog.CheckName(target.Service) != nil {
			t.Errorf("%q is read as a target of the service %q, which no path can name", text, target.Service)
		}
	})
}

// What no path of a URL, label or line of a log can name is refused where it enters.
func TestATargetThatCannotBeNamedIsRefused(t *testing.T) {
	for target, want := range map[string]string{
		"consul:///..":               `service ".."`,
		"consul:///.":                `service "."`,
		"consul:///a%0ab":            "cannot be printed",
		"consul:///%ff":              "cannot be printed",
		"consul:///a?tag=%1b[2J":     `key "tag"`,
		"consul:///a?dc=x%00":        `key "dc"`,
		"consul:///a?near=%e2%80%ae": `key "near"`,
	} {
		if _, err := resolver.ParseTarget(target); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error with %q", target, err, want)
		}
	}
	if _, err := resolver.ParseTarget("consul:///a?filter=x+%3D%3D+1%0Aor+y+%3D%3D+2"); err != nil {
		t.Errorf("a filter of two lines: %v", err)
	}
}
