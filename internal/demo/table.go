package demo

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"
)

// WriteTable writes the result for people.
func (r *Result) WriteTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\nregistry\t%s\n", r.Registry)
	fmt.Fprintf(t, "calls\t%d in %.1fs, p50 %.1f ms, p99 %.1f ms from when they were due\n", r.Calls, r.seconds, r.P50, r.P99)
	if r.late > 0 {
		fmt.Fprintf(t, "\t%d were sent more than %v after that\n", r.late, lateAfter)
	}
	r.writePhases(t)
	r.writeInstances(t)
	r.writeConditions(t)
	for _, reason := range slices.Sorted(maps.Keys(r.reasons)) {
		fmt.Fprintf(t, "failed %d times: %s\n", r.reasons[reason], reason)
	}
	if r.trouble != "" && len(r.Broken()) > 0 {
		fmt.Fprintf(t, "\nthe client library has logged:\n%s\n", r.trouble)
	}
	return t.Flush()
}

func (r *Result) writePhases(w io.Writer) {
	fmt.Fprintf(w, "\nphase\tcalls\tfailed\tp99 ms\tcache hits\n")
	for i, p := range r.Phases {
		fmt.Fprintf(w, "%s\t%d\t%d\t%.1f\t%.2f\n", p.Name, p.Calls, p.Failed, p.P99, r.caches[i].ratio())
	}
}

func (r *Result) writeInstances(w io.Writer) {
	fmt.Fprintf(w, "\ninstance\taddress\tcalls\tof its share\tat the end\n")
	unjudged := false
	for _, c := range r.cards {
		share := fmt.Sprintf("%.0f%%", 100*(1+c.share.off()))
		if !c.share.judged() {
			share, unjudged = "-", true
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", c.name, c.address, c.calls, share, cmp.Or(c.fate, "running"))
	}
	fmt.Fprintf(w, "share: equal for all running instances, less during slow start, in times of\n%v and more in which none came or went; %s is uneven by plan\n", minWindow, uneven)
	if unjudged {
		fmt.Fprintf(w, "-: there was no such time, or fewer than %d calls were expected in it\n", minExpected)
	}
}

func (r *Result) writeConditions(w io.Writer) {
	fmt.Fprintf(w, "\n\tfigure\taim\n")
	for _, c := range r.Conditions() {
		mark := "✗"
		if c.Held {
			mark = "✓"
		}
		fmt.Fprintf(w, "%s %s\t%s\t%s\n", mark, c.Name, c.Figure, c.Aim)
	}
}

func millis(d time.Duration) string {
	if d < 10*time.Millisecond {
		return fmt.Sprintf("%.1f ms", d.Seconds()*1000)
	}
	return fmt.Sprintf("%.0f ms", d.Seconds()*1000)
}
