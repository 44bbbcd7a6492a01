package cli

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/meshlite-go/meshlite/internal/cachepage"
)

// writeCaches writes what there is of each process that was asked: those whose caches do
// something, and in a line each those whose caches have nothing to do.
func writeCaches(out io.Writer, all []cached, index bool) error {
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
			if err := writeMethods(out, c.Methods); err != nil {
				return err
			}
			if index && len(c.Index) > 0 {
				fmt.Fprintln(out)
				if err := writeIndex(out, c); err != nil {
					return err
				}
			}
		}
	}
	if idle.Len() == 0 {
		return nil
	}
	_, err := fmt.Fprint(out, gap, idle.String())
	return err
}

// summary is what is told of a cache as a whole.
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

// writeMethods writes figures in columns, and over each row the method, whose name would
// leave no room for them beside it.
func writeMethods(out io.Writer, methods []cachepage.Method) error {
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  HITS\t1M\t5M\t15M\tCALLS\tCOALESCED\tSTALE\tBYPASSED\tENTRIES\tSIZE")
	for _, m := range methods {
		since := rate(m.Counts)
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s\n", rateText(since), rateText(m.LastMinute), rateText(m.Last5Minutes), rateText(m.Last15Minutes),
			since.Calls, m.Coalesced, m.Stale, m.Bypassed, m.Entries, size(uint64(max(m.Bytes, 0))))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	header, rows, _ := strings.Cut(table.String(), "\n")
	fmt.Fprintln(out, header)
	for i, row := range strings.Split(strings.TrimSuffix(rows, "\n"), "\n") {
		fmt.Fprintf(out, "%s\n%s\n", methodName(methods[i].Method), row)
		writeShadow(out, methods[i].Shadow)
	}
	return nil
}

// methodName is for people. The last is what stands for all that are not told apart.
func methodName(name string) string { return cmp.Or(oneLine(name), "(all others)") }

// writeShadow says what each ttl would have done that makes a difference.
func writeShadow(out io.Writer, ages []cachepage.Shadow) {
	var told uint64
	for _, s := range ages {
		if s.Compared == told {
			continue
		}
		told = s.Compared
		age := "with any ttl"
		if s.UpToSeconds > 0 {
			age = "with a ttl of " + rounded(s.UpToSeconds)
		}
		fmt.Fprintf(out, "  shadow: %s %d hits, %s of them no longer true\n", age, s.Compared, percent(float64(s.Changed)/float64(s.Compared)))
	}
}

func writeIndex(out io.Writer, c cachepage.Report) error {
	if n := int64(len(c.Index)); n < c.Entries {
		fmt.Fprintf(out, "the %d entries that are asked for most\n", n)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tSIZE\tAGE\tLEFT\tMETHOD")
	for _, e := range c.Index {
		method := methodName(e.Method)
		if e.Code != "OK" {
			method += ", " + oneLine(e.Code)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", cell(e.ID), size(uint64(e.Bytes)), rounded(e.AgeSeconds), left(e.LeftSeconds), method)
	}
	return w.Flush()
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

// rate is of all calls that the cache had a part in.
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
