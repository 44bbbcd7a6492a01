package cli

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/meshlite-go/meshlite/internal/limitspage"
)

const (
	mostRows = 20 // of a table, without --each
	columns  = 80 // the width if it is unknown
)

// noLimits stands for processes without a limited call.
const noLimits = "no calls of methods with a limit yet"

// writeLimits writes the limits of all processes together, or of each by itself.
func writeLimits(out io.Writer, all []limited, each bool) error {
	var asked []limited
	for _, p := range all {
		if p.Error == "" {
			asked = append(asked, p)
		}
	}
	tables := newTables(out)
	if !each {
		if err := (&limitsWriter{out, tables, mostRows, asked}).write(ofProcesses(len(asked)) + ": " + noLimits); err != nil {
			return err
		}
		return tables.close()
	}
	for i, p := range asked {
		if i > 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprintln(out, p.name())
		if err := (&limitsWriter{out, tables, 0, []limited{p}}).write(noLimits); err != nil {
			return err
		}
	}
	return tables.close()
}

func ofProcesses(n int) string {
	if n == 1 {
		return "1 process"
	}
	return fmt.Sprintf("%d processes", n)
}

// limitsWriter writes the limits of processes in tables of at most rows rows, 0 for all.
type limitsWriter struct {
	out    io.Writer
	tables *tables
	rows   int
	all    []limited
}

func (w *limitsWriter) write(none string) error {
	limiters, limits, hot, running := countedOf(w.all), limitRowsOf(w.all), hotKeyRowsOf(w.all), runningRowsOf(w.all)
	if len(limiters)+len(hot)+len(running) == 0 {
		_, err := fmt.Fprintln(w.out, none)
		return err
	}
	for _, c := range limiters[:w.shown(len(limiters))] {
		fmt.Fprintln(w.out, w.wrapped(c.text(w.rows > 0), 2))
	}
	w.writeMore(len(limiters), "limiters")
	gap := len(limiters) > 0
	for _, t := range []table{limitTable(limits), hotKeyTable(hot), runningTable(running)} {
		if len(t.rows) == 0 {
			continue
		}
		if gap {
			fmt.Fprintln(w.out)
		}
		gap = true
		if err := w.writeTable(t); err != nil {
			return err
		}
	}
	return nil
}

// shown is how many of n rows are.
func (w *limitsWriter) shown(n int) int {
	if w.rows == 0 {
		return n
	}
	return min(n, w.rows)
}

func (w *limitsWriter) writeMore(n int, what string) {
	if more := n - w.shown(n); more > 0 {
		fmt.Fprintf(w.out, "and %d more %s: --each shows all\n", more, what)
	}
}

// table is figures in columns, and over each row what would leave no room for them beside it.
type table struct {
	title, of string // of: what a row is
	over      []string
	grid
}

func (t *table) add(over string, cells ...string) {
	t.over = append(t.over, over)
	t.grid.add(cells...)
}

// writeTable writes what is over a row once for rows one after the other.
func (w *limitsWriter) writeTable(t table) error {
	all := len(t.rows)
	t.rows, t.indent = t.rows[:w.shown(all)], 2
	lines := w.tables.fit(&t.grid)
	last := strings.LastIndex(lines[0], "  ") + 2
	fmt.Fprintf(w.out, "%s\n%s\n", t.title, lines[0])
	for i, row := range lines[1:] {
		if i == 0 || t.over[i] != t.over[i-1] {
			fmt.Fprintln(w.out, t.over[i])
		}
		if _, err := fmt.Fprintln(w.out, w.wrapped(row, last)); err != nil {
			return err
		}
	}
	w.writeMore(all, t.of)
	return nil
}

// wrapped breaks text where it enumerates, so that it fits if it can.
func (w *limitsWriter) wrapped(text string, indent int) string {
	width := cmp.Or(w.tables.width, columns)
	lines := ""
	for len(text) > width {
		at := strings.LastIndex(text[:width], ", ")
		if at <= indent {
			break
		}
		lines += text[:at+1] + "\n"
		text = strings.Repeat(" ", indent) + text[at+2:]
	}
	return lines + text
}

// text is what a limiter counts, in words, and perhaps in how many processes.
func (c counted) text(processes bool) string {
	text := cell(c.name)
	if processes {
		text += ", " + ofProcesses(c.processes)
	}
	text += fmt.Sprintf(": %d admitted", c.Admitted)
	for _, n := range []struct {
		count uint64
		of    string
	}{
		{c.Refused, "refused"}, {c.Shadowed, "would be refused but for shadow"}, {c.Waited, "waited"},
		{c.Refunded, "given back"}, {c.HeldBack, "held back"},
	} {
		if n.count > 0 {
			text += fmt.Sprintf(", %d %s", n.count, n.of)
		}
	}
	return text
}

func limitTable(rows []limitRow) table {
	t := table{title: "rate limits, most used first", of: "limits", grid: grid{fields: []field{{head: "USED"}, {head: "REFUSED"}, {head: "LIMIT"}}}}
	for _, r := range rows {
		text := describe(r.Rule)
		if r.Side == "client" {
			text += ", client " + cell(r.limiter)
		}
		if r.processes < r.of {
			text += fmt.Sprintf(", in %d of %d processes", r.processes, r.of)
		}
		t.add(methodName(r.Method), usedText(r.used), refusals(r), text)
	}
	return t
}

// describe is a limit in words: "customer: 50 per 1s, burst 100, by peer, wait".
func describe(r limitspage.Rule) string {
	text := fmt.Sprintf("%s: %d per %s", cell(r.Name), r.Limit, periodText(r.PeriodSeconds))
	if r.Burst != r.Limit {
		text += fmt.Sprintf(", burst %d", r.Burst)
	}
	if r.By != "" {
		text += ", by " + oneLine(r.By)
	}
	if r.Rules != "" {
		text += ", " + oneLine(r.Rules)
	}
	return text
}

func refusals(r limitRow) string {
	switch {
	case r.shadowed == 0:
		return fmt.Sprint(r.refused)
	case r.refused == 0:
		return fmt.Sprint(r.shadowed, " shadow")
	default:
		return fmt.Sprintf("%d, %d shadow", r.refused, r.shadowed)
	}
}

func hotKeyTable(rows []hotKeyRow) table {
	t := table{title: "keys that have used most of a limit", of: "keys", grid: grid{fields: []field{
		{head: "USED"}, {head: "LEFT"}, {head: "RESET IN", drop: 2}, {head: "KEY", least: 20}, {head: "PROCESS", drop: 1, least: 20, begin: true}}}}
	for _, r := range rows {
		over := methodName(r.Method) + ", " + cell(r.Name)
		if r.Side == "client" {
			over += ", client " + cell(r.limiter)
		}
		t.add(over, usedText(r.Used), fmt.Sprint(r.Remaining), secondsText(r.ResetSeconds), keyText(r.Key), r.process)
	}
	return t
}

// keyText is a key for people. Callers for whom it has no value share one.
func keyText(key string) string {
	if key == "" {
		return "(shared)"
	}
	return oneLine(key)
}

func runningTable(rows []runningRow) table {
	t := table{title: "calls that run at once, the fullest first", of: "methods",
		grid: grid{fields: []field{{head: "USED"}, {head: "IN FLIGHT"}, {head: "REFUSED"}, {head: "BASE", drop: 2}, {head: "SAMPLE", drop: 2},
			{head: "FULLEST PROCESS", drop: 1, least: 20, begin: true}}}}
	for _, r := range rows {
		over := methodName(r.method)
		if r.limiter != "runtime" {
			over += ", limiter " + cell(r.limiter)
		}
		if r.adaptive {
			over += ", adaptive"
		}
		t.add(over, share(fullness(r.fullest)), fmt.Sprintf("%d of %d", r.inFlight, r.limit), fmt.Sprint(r.refused),
			secondsText(r.fullest.BaseLatency/1000), secondsText(r.fullest.SampleLatency/1000), r.process)
	}
	return t
}

// usedText is "-" if no key is hot.
func usedText(used float64) string {
	if !(used > 0) {
		return "-"
	}
	return share(used)
}

// share may be more than the whole, where calls wait.
func share(part float64) string { return fmt.Sprintf("%.0f%%", 100*min(max(part, 0), 99)) }

// secondsText is "-" for a time that is over or unknown.
func secondsText(seconds float64) string {
	if !(seconds > 0) {
		return "-"
	}
	return short(time.Duration(min(seconds, mostSeconds) * float64(time.Second)))
}

// periodText is as policies write it: 15m rather than 15m0s.
func periodText(seconds float64) string {
	text := secondsText(seconds)
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
