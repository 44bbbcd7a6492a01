package cli

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/meshlite-go/meshlite/internal/cachepage"
)

// writeCaches writes the caches of each process that answered. Processes whose caches had
// no calls get one line each.
func writeCaches(out io.Writer, all []cached, index bool) error {
	t := newTables(out)
	var idle strings.Builder
	gap := ""
	for _, p := range all {
		for _, c := range p.Caches {
			title := fmt.Sprintf("%s, cache %s", p.name(), cell(c.Name))
			if len(c.Methods) == 0 {
				fmt.Fprintln(&idle, title+": no calls yet")
				continue
			}
			fmt.Fprintf(out, "%s%s\n%s\n", gap, title, summary(c))
			gap = "\n"
			if err := writeMethods(t, c.Methods); err != nil {
				return err
			}
			if index && len(c.Index) > 0 {
				fmt.Fprintln(out)
				if err := writeIndex(t, c); err != nil {
					return err
				}
			}
		}
	}
	if err := t.close(); err != nil || idle.Len() == 0 {
		return err
	}
	_, err := fmt.Fprint(out, gap, idle.String())
	return err
}

// summary is the line of a whole cache.
func summary(c cachepage.Report) string {
	text := fmt.Sprintf("%d entries, %s of %s", c.Entries, size(c.Bytes), size(c.MaxBytes))
	for _, n := range []struct {
		count uint64
		of    string
	}{{c.Invalidations, "invalidations"}, {c.StoreHits, "store hits"}, {c.StoreErrors, "store errors"}, {c.StoreLosses, "store losses"}} {
		if n.count > 0 {
			text += fmt.Sprintf(", %d %s", n.count, n.of)
		}
	}
	return text
}

// writeMethods writes figures in columns, and above each row the method, whose name is too
// long for a column.
func writeMethods(t *tables, methods []cachepage.Method) error {
	g := &grid{indent: 2, fields: []field{{head: "HITS"}, {head: "1M"}, {head: "5M", drop: 3}, {head: "15M", drop: 4}, {head: "CALLS"},
		{head: "COALESCED", drop: 6}, {head: "STALE", drop: 5}, {head: "BYPASSED", drop: 7}, {head: "ENTRIES", drop: 2}, {head: "SIZE", drop: 1}}}
	for _, m := range methods {
		since := rate(m.Counts)
		g.add(rateText(since), rateText(m.LastMinute), rateText(m.Last5Minutes), rateText(m.Last15Minutes), fmt.Sprint(since.Calls),
			fmt.Sprint(m.Coalesced), fmt.Sprint(m.Stale), fmt.Sprint(m.Bypassed), fmt.Sprint(m.Entries), size(uint64(max(m.Bytes, 0))))
	}
	lines := t.fit(g)
	fmt.Fprintln(t.out, lines[0])
	for i, row := range lines[1:] {
		if _, err := fmt.Fprintf(t.out, "%s\n%s\n", methodName(methods[i].Method), row); err != nil {
			return err
		}
		writeShadow(t.out, methods[i].Shadow)
	}
	return nil
}

// methodName is for people. The empty name stands for all methods without counters of
// their own.
func methodName(name string) string { return cmp.Or(oneLine(name), "(all others)") }

// writeShadow writes the result of each ttl that differs from the one before.
func writeShadow(out io.Writer, ages []cachepage.Shadow) {
	var compared uint64
	for _, s := range ages {
		if s.Compared == compared {
			continue
		}
		compared = s.Compared
		age := "with any ttl"
		if s.UpToSeconds > 0 {
			age = "with a ttl of " + rounded(s.UpToSeconds)
		}
		fmt.Fprintf(out, "  shadow: %s %d hits, %s of them no longer true\n", age, s.Compared, percent(float64(s.Changed)/float64(s.Compared)))
	}
}

func writeIndex(t *tables, c cachepage.Report) error {
	if n := len(c.Index); n < c.Entries {
		fmt.Fprintf(t.out, "the %d most requested entries\n", n)
	}
	g := &grid{fields: []field{{head: "ID", drop: 1}, {head: "SIZE", drop: 2}, {head: "AGE", drop: 3}, {head: "LEFT"}, {head: "METHOD", least: 30, begin: true}}}
	for _, e := range c.Index {
		method := methodName(e.Method)
		if e.Code != "OK" {
			method += ", " + oneLine(e.Code)
		}
		g.add(cell(e.ID), size(uint64(e.Bytes)), rounded(e.AgeSeconds), left(e.LeftSeconds), method)
	}
	return t.write(g)
}

func left(seconds float64) string {
	if !(seconds > 0) {
		return "over"
	}
	return rounded(seconds)
}

// rounded is a time to the second, as seconds are enough to see how old an answer is.
func rounded(seconds float64) string {
	return time.Duration(min(max(seconds, 0), mostSeconds) * float64(time.Second)).Round(time.Second).String()
}

// rate is the hit ratio of all calls that the cache did not bypass.
func rate(c cachepage.Counts) cachepage.Rate {
	served := c.Hits + c.Coalesced + c.Stale
	return cachepage.Rate{Served: served, Calls: served + c.Misses + c.ShadowHits + c.ShadowStale}
}

func rateText(r cachepage.Rate) string {
	if r.Calls == 0 {
		return "-"
	}
	return percent(float64(r.Served) / float64(r.Calls))
}

// size is bytes for people.
func size(bytes uint64) string {
	if bytes < 1024 {
		return fmt.Sprintf("%d B", bytes)
	}
	n, unit := float64(bytes), 0
	for ; n >= 1024 && unit < len(units)-1; unit++ {
		n /= 1024
	}
	if n < 10 {
		return fmt.Sprintf("%.1f %s", n, units[unit])
	}
	return fmt.Sprintf("%.0f %s", n, units[unit])
}

var units = [...]string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
