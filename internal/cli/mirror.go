package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/meshlite-go/meshlite/interceptors/mirror"
)

// MirrorOptions are those of [Mirror].
type MirrorOptions struct{ ProcessesOptions }

// mirrored is a process, and what became of the copies of its calls.
type mirrored struct {
	process
	Mirrors []mirror.Stats `json:"mirrors"`
}

// Mirror shows what became of the copies of calls, and where their answers differ.
func Mirror(ctx context.Context, o MirrorOptions, streams Streams) error {
	if err := o.check(); err != nil {
		return err
	}
	replies, err := askProcesses(ctx, o.ProcessesOptions, streams.Err, func(a asker, address string) ([]mirror.Stats, error) {
		return readMirrors(ctx, a, address)
	})
	if err != nil {
		return err
	}
	all := make([]mirrored, len(replies.processes))
	for i, p := range replies.processes {
		all[i] = mirrored{p, listedMirrors(replies.answers[i])}
	}
	if o.Format == JSON {
		return WriteJSON(streams.Out, map[string][]mirrored{"processes": all})
	}
	return writeMirrors(streams.Out, all)
}

// readMirrors reads the mirrors from the admin page at address.
func readMirrors(ctx context.Context, a asker, address string) ([]mirror.Stats, error) {
	var page struct{ Mirrors []mirror.Stats }
	if err := a.read(ctx, address, &page); err != nil {
		return nil, err
	}
	if page.Mirrors == nil {
		return nil, without("mirrors")
	}
	return page.Mirrors, nil
}

// listedMirrors has nothing that would be null as JSON.
func listedMirrors(all []mirror.Stats) []mirror.Stats {
	all = append([]mirror.Stats{}, all...)
	for i := range all {
		s := &all[i]
		s.Differences = append([]mirror.Difference{}, s.Differences...)
		for _, counts := range []*map[string]uint64{&s.Codes, &s.Dropped} {
			if *counts == nil {
				*counts = map[string]uint64{}
			}
		}
	}
	return all
}

// writeMirrors writes the mirrors of each process that answered, and in one line those without.
func writeMirrors(out io.Writer, all []mirrored) error {
	t := newTables(out)
	var idle []string
	gap := ""
	for _, p := range all {
		switch {
		case p.Error != "":
			continue
		case len(p.Mirrors) == 0:
			idle = append(idle, p.name()+": no rule has copied a call yet")
			continue
		}
		fmt.Fprintf(out, "%s%s\n", gap, p.name())
		gap = "\n"
		for i := range p.Mirrors {
			if err := writeMirror(t, &p.Mirrors[i]); err != nil {
				return err
			}
		}
	}
	if err := t.close(); err != nil || len(idle) == 0 {
		return err
	}
	_, err := fmt.Fprint(out, gap, strings.Join(idle, "\n"), "\n")
	return err
}

func writeMirror(t *tables, s *mirror.Stats) error {
	rate := "no longer"
	if s.Percent > 0 {
		rate = fmt.Sprintf("%.4g%%", s.Percent)
	}
	fmt.Fprintf(t.out, "%s of %s\n", methodName(s.Method), cell(s.Channel))
	fmt.Fprintf(t.out, "  to %s, %s: %s\n", cell(s.Target), rate, copiesText(s))
	if s.LastError != "" {
		fmt.Fprintf(t.out, "  ! %s\n", oneLine(s.LastError))
	}
	if len(s.Differences) == 0 {
		return nil
	}
	g := &grid{indent: 2, fields: []field{{head: "DIFFER"}, {head: "FIELD", least: 12, begin: true}, {head: "CALLER", least: 8}, {head: "COPY", least: 8}}}
	for _, d := range s.Differences {
		g.add(fmt.Sprint(d.Count), cell(d.Path), cell(d.Caller), cell(d.Copy))
	}
	return t.write(g)
}

// copiesText is "12 OK, 1 Unavailable; 2 dropped (calls); 10 of 12 answers are the same".
func copiesText(s *mirror.Stats) string {
	var ended []string
	for _, code := range slices.Sorted(maps.Keys(s.Codes)) {
		ended = append(ended, fmt.Sprintf("%d %s", s.Codes[code], oneLine(code)))
	}
	if s.InFlight > 0 {
		ended = append(ended, fmt.Sprintf("%d in flight", s.InFlight))
	}
	parts := []string{strings.Join(ended, ", ")}
	if len(ended) == 0 {
		parts[0] = "no copy has ended"
	}
	for _, why := range slices.Sorted(maps.Keys(s.Dropped)) {
		parts = append(parts, fmt.Sprintf("%d dropped (%s)", s.Dropped[why], oneLine(why)))
	}
	if compared := s.Same + s.Different; compared > 0 {
		parts = append(parts, fmt.Sprintf("%d of %d answers are the same", s.Same, compared))
	}
	return strings.Join(parts, "; ")
}
