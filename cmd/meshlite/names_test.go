package main

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/interceptors/concurrency"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/internal/cachepage"
	"github.com/meshlite-go/meshlite/internal/limitspage"
)

// namesIn adds the names that a struct has in JSON, and those of what it embeds.
func namesIn(names map[string]bool, of reflect.Type) {
	for i := range of.NumField() {
		f := of.Field(i)
		if f.Anonymous {
			namesIn(names, f.Type)
		} else {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			names[name] = true
		}
	}
}

// withoutUnits are the names without that of the unit: the page has seconds or
// milliseconds where figures have a duration.
func withoutUnits(names map[string]bool) []string {
	var all []string
	for name := range names {
		for _, unit := range []string{"_ns", "_ms", "_seconds"} {
			name = strings.TrimSuffix(name, unit)
		}
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// The figures of a room, its part of the admin page and the help of the command that reads
// it have the same names.
func TestFiguresPagesAndHelpHaveTheSameNames(t *testing.T) {
	help := map[string]string{"cache": runTool(t, "cache", "stats", "--help").out, "limits": runTool(t, "limits", "--help").out}
	for name, test := range map[string]struct {
		figures []any
		page    any
		help    string
		only    string // on the page, or among the figures
	}{
		"cache":          {[]any{cache.Stats{}}, cachepage.Report{}, "cache", "name methods index"},
		"cached method":  {[]any{cache.MethodStats{}}, cachepage.Method{}, "cache", ""},
		"shadow":         {[]any{cache.ShadowStats{}}, cachepage.Shadow{}, "cache", ""},
		"cached answer":  {[]any{cache.IndexEntry{}}, cachepage.Entry{}, "cache", ""},
		"limiter":        {[]any{ratelimit.Stats{}}, limitspage.Limiter{}, "limits", "name remembered store_errors fallback_open fallback_closed fallback_per_replica"},
		"limit":          {[]any{ratelimit.LimitStats{}, ratelimit.Limit{}}, limitspage.Limit{}, "limits", "rate"},
		"hot key":        {[]any{ratelimit.HotKeyStats{}}, limitspage.HotKey{}, "limits", ""},
		"limited method": {[]any{concurrency.Stats{}}, limitspage.Method{}, "limits", ""},
	} {
		figures, page := map[string]bool{}, map[string]bool{}
		for _, one := range test.figures {
			namesIn(figures, reflect.TypeOf(one))
		}
		namesIn(page, reflect.TypeOf(test.page))
		for shown := range page {
			if !strings.Contains(strings.ToLower(help[test.help]), shown) {
				t.Errorf("%s: the help of %s does not name %q", name, test.help, shown)
			}
		}
		for _, only := range strings.Fields(test.only) {
			delete(figures, only)
			delete(page, only)
		}
		if a, b := withoutUnits(figures), withoutUnits(page); !slices.Equal(a, b) || slices.Contains(slices.Collect(maps.Keys(figures)), "") {
			t.Errorf("%s: the figures have %q, the page %q", name, a, b)
		}
	}
}
