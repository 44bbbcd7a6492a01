package cachepage

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/meshlite-go/meshlite/interceptors/cache"
)

// ClearAction is the name of the action that clears.
const ClearAction = "cache/clear"

// clearTimeout is the longest that a clearing waits for stores. The client waits for 2 s.
const clearTimeout = time.Second

// clearing is a request: the answers to drop, and from which caches.
type clearing struct {
	methods, tags, caches []string
	all                   bool
}

// Clear drops the answers that values name, and fails if they name none. Done is a [Cleared].
func (c *Caches) Clear(ctx context.Context, values url.Values) (done any, err error) {
	request, err := readClearing(values)
	if err != nil {
		return nil, err
	}
	selected, err := request.of(c.all.Named())
	if err != nil {
		return nil, err
	}
	// A caller that disconnects does not leave half of it undone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), clearTimeout)
	defer cancel()
	page := Cleared{}
	for _, one := range selected {
		page.Caches = append(page.Caches, request.clear(ctx, one))
	}
	return page, nil
}

func readClearing(values url.Values) (clearing, error) {
	for key, given := range values {
		switch {
		case !slices.Contains([]string{"method", "tag", "all", "cache"}, key):
			return clearing{}, fmt.Errorf("unknown value %q: write method, tag, all or cache", key)
		case key == "all" && !slices.Equal(given, []string{"true"}):
			return clearing{}, fmt.Errorf("all %q: write true, or leave it out", given)
		case slices.Contains(given, ""):
			return clearing{}, fmt.Errorf("%s is empty: leave it out", key)
		}
	}
	c := clearing{methods: values["method"], tags: values["tag"], caches: values["cache"], all: values.Has("all")}
	switch named := len(c.methods)+len(c.tags) > 0; {
	case c.all && named:
		return clearing{}, errors.New("all together with method or tag: leave one out")
	case !c.all && !named:
		return clearing{}, errors.New("nothing says what to clear: write method, tag or all=true")
	}
	for _, m := range c.methods {
		if service, method, found := strings.Cut(m, "/"); !found || service == "" || method == "" || strings.Contains(method, "/") {
			return clearing{}, fmt.Errorf("method %q: write package.Service/Method", m)
		}
	}
	return c, nil
}

// of selects the caches by name, all if none is named.
func (c clearing) of(all []named) ([]named, error) {
	if len(c.caches) == 0 {
		return all, nil
	}
	var selected []named
	var names []string
	for _, one := range all {
		names = append(names, one.Name)
		if slices.Contains(c.caches, one.Name) {
			selected = append(selected, one)
		}
	}
	for _, name := range c.caches {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("cache %q is not there: it has %q", name, names)
		}
	}
	return selected, nil
}

func (c clearing) clear(ctx context.Context, one named) ClearedCache {
	done := ClearedCache{Name: one.Name}
	done.Entries, done.UnknownMethods = c.count(one)
	if err := one.Value.Invalidate(ctx, c.subjects()...); err != nil {
		done.Error = err.Error()
	}
	return done
}

func (c clearing) subjects() []cache.Subject {
	if c.all {
		return []cache.Subject{cache.Everything()}
	}
	var all []cache.Subject
	for _, m := range c.methods {
		all = append(all, cache.Method(m))
	}
	for _, t := range c.tags {
		all = append(all, cache.Tag(t))
	}
	return all
}

// count counts the entries of the methods, and lists methods that the cache has not seen.
func (c clearing) count(one named) (entries *int64, unknown []string) {
	known := map[string]int64{}
	for _, m := range one.Value.Methods() {
		known[m.Method] = m.Entries
	}
	sum := int64(one.Value.Stats().Entries)
	if !c.all {
		sum = 0
	}
	for _, m := range c.methods {
		if n, ok := known[m]; ok {
			sum += n
		} else {
			unknown = append(unknown, m)
		}
	}
	if len(c.tags) > 0 {
		return nil, unknown
	}
	return &sum, unknown
}
