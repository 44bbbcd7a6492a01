package cli

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/meshlite-go/meshlite/internal/cachepage"
)

// CacheClearOptions are those of [CacheClear].
type CacheClearOptions struct {
	ProcessesOptions
	Methods []string // package.Service/Method
	Tags    []string
	All     bool
}

// cleared is a process and its cleared caches.
type cleared struct {
	process
	Caches []cachepage.ClearedCache `json:"caches"`
}

func (o CacheClearOptions) check() error {
	switch named := len(o.Methods)+len(o.Tags) > 0; {
	case o.All && named:
		return Usagef("--all together with --method or --tag: leave one out")
	case !o.All && !named:
		return Usagef("nothing says what to clear: write --method, --tag or --all")
	case slices.Contains(o.Tags, ""):
		return Usagef(`--tag "": write a tag, such as sweets`)
	}
	for _, m := range o.Methods {
		service, method, _ := strings.Cut(m, "/")
		if service == "" || method == "" || strings.Contains(method, "/") {
			return Usagef("--method %q: write package.Service/Method", m)
		}
	}
	return o.ProcessesOptions.check()
}

func (o CacheClearOptions) values() url.Values {
	values := url.Values{}
	if len(o.Methods) > 0 {
		values["method"] = o.Methods
	}
	if len(o.Tags) > 0 {
		values["tag"] = o.Tags
	}
	if o.All {
		values.Set("all", "true")
	}
	return values
}

// CacheClear clears caches. It fails unless all processes have cleared theirs.
func CacheClear(ctx context.Context, o CacheClearOptions, streams Streams) error {
	if err := o.check(); err != nil {
		return err
	}
	replies, err := askProcesses(ctx, o.ProcessesOptions, streams.Err, func(a asker, address string) ([]cachepage.ClearedCache, error) {
		var page cachepage.Cleared
		err := a.act(ctx, address, cachepage.ClearAction, o.values(), &page)
		return page.Caches, err
	})
	if err != nil {
		return err
	}
	all := make([]cleared, len(replies.processes))
	for i, p := range replies.processes {
		all[i] = cleared{p, append([]cachepage.ClearedCache{}, replies.answers[i]...)}
	}
	if err := writeCleared(streams.Out, o.Format, all); err != nil {
		return err
	}
	o.warnUnknown(streams.Err, all)
	return incomplete(all, failed(replies.processes), replies.unread)
}

func writeCleared(out io.Writer, format Format, all []cleared) error {
	if format == JSON {
		return WriteJSON(out, map[string][]cleared{"processes": all})
	}
	for _, p := range all {
		for _, c := range p.Caches {
			text := "cleared"
			if c.Entries != nil {
				text = fmt.Sprintf("cleared %d entries", *c.Entries)
			}
			if c.Error != "" {
				text += ", but: " + oneLine(c.Error)
			}
			if _, err := fmt.Fprintf(out, "%s, cache %s: %s\n", p.name(), cell(c.Name), text); err != nil {
				return err
			}
		}
	}
	return nil
}

// warnUnknown lists methods that no cache has seen: they may be misspelt.
func (o CacheClearOptions) warnUnknown(stderr io.Writer, all []cleared) {
	for _, m := range slices.Compact(slices.Sorted(slices.Values(o.Methods))) {
		known := slices.ContainsFunc(all, func(p cleared) bool {
			return slices.ContainsFunc(p.Caches, func(c cachepage.ClearedCache) bool { return !slices.Contains(c.UnknownMethods, m) })
		})
		if !known {
			fmt.Fprintf(stderr, "no cache has met a call of %s: is the name right? `meshlite cache stats` lists those that were met\n", m)
		}
	}
}

// incomplete is nil if all processes cleared and published.
func incomplete(all []cleared, undone, unread int) error {
	unpublished := 0
	for _, p := range all {
		for _, c := range p.Caches {
			if c.Error != "" {
				unpublished++
			}
		}
	}
	switch {
	case undone > 0:
		return fmt.Errorf("%d of %d processes were not cleared: see above, and clear again", undone, len(all))
	case unread > 0:
		return fmt.Errorf("services that could not be read, and whose processes were not cleared: %d: see above", unread)
	case unpublished > 0:
		return fmt.Errorf("stores that did not publish it: %d: other processes may keep their entries: clear again", unpublished)
	default:
		return nil
	}
}
